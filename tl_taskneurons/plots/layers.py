"""What lies in which layer: neurons and scores of tasks, similarity of tasks."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from tl_taskneurons.plots.canvas import Own, panels, single
from tl_taskneurons.plots.lines import CROWD, draw_crowd, draw_lines, numbered
from tl_taskneurons.plots.look import (
    INK,
    LABEL,
    TICK,
    WIDTH,
    described,
    plain_look,
    spaced,
)
from tl_taskneurons.plots.tables import grid, groups, require, require_table
from tl_taskneurons.runtime.errors import InputError, InputTypeError

LAYER_LABELS = {"share": "% of the task's neurons", "score_share": "% of the task's total score"}
_PARTS = {
    "W_in": "input weights", "W_gate": "gate weights", "W_out": "output weights",
    "all": "all weights",
}  # fmt: skip
_CURVE = ("similarity", "low", "high")
_BAR = "#7a6bb0"


@runtime_checkable
class Scores(Protocol):
    """What ``NeuronScores`` are to a figure."""

    @property
    def name(self) -> str:
        """The task's name."""
        ...

    def to_frame(self) -> pd.DataFrame:
        """Return ``layer, neuron, score``."""
        ...


def score_heatmap(
    layers: pd.DataFrame | Mapping[str, Scores] | Scores,
    *,
    column: str | None = None,
    ax: Own = None,
) -> Figure:
    """Draw where each task's neurons lie: tasks x layers.

    Args:
        layers: from ``layer_table``: rows with ``task, layer`` and the column (shares of 1), of
            one selection; or scores, one task's or several by name.
        column: ``"share"``, of the task's selected neurons, or ``"score_share"``, of the task's
            total score; by default the former for a table, and the latter for scores.
        ax: axes of your own.

    Raises:
        ValueError: for an unknown column, a missing one, an empty table, two rows for one cell,
            or NaN.
    """
    if not isinstance(layers, pd.DataFrame):
        layers, column = _score_shares(layers), column or "score_share"
    column = column or "share"
    check_layers(layers, column)
    canvas = single(WIDTH, 1.5 + 0.42 * layers["task"].nunique(), ax)
    canvas.colour_bar(draw_layers(canvas.panels[0], layers, column), LAYER_LABELS[column])
    what = "each task's score lies" if column == "score_share" else "each task's neurons lie"
    canvas.title(f"Where {what}", described(layers))
    return canvas.figure


def _score_shares(scores: Mapping[str, Scores] | Scores) -> pd.DataFrame:
    """Return each layer's share of the sum of the sizes of each task's scores."""
    named = scores if isinstance(scores, Mapping) else {getattr(scores, "name", ""): scores}
    tables = []
    for name, own in named.items():
        frame = own.to_frame() if hasattr(own, "to_frame") else pd.DataFrame()
        if "score" not in frame.columns:
            raise InputTypeError(
                f"Expected scores, or the table that layer_table makes, got {str(own)[:60]!r} "
                f"({type(own).__name__}); give NeuronScores or layer_table(scores, sets)."
            )
        sums = frame["score"].abs().groupby(frame["layer"]).sum()
        shares = (sums / max(sums.sum(), 1e-300)).to_numpy()
        tables.append(pd.DataFrame({"task": name, "layer": sums.index, "score_share": shares}))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def neurons_by_layer(layers: pd.DataFrame, *, ax: Own = None) -> Figure:
    """Draw how many neurons each task has in each layer, one panel per task.

    Args:
        layers: rows with ``task, layer, n_neurons``, of one selection.
        ax: axes of your own, one for each panel.

    Raises:
        ValueError: for a missing column, an empty table, two rows for one cell, or NaN.
    """
    require(layers, ["task", "layer"], ["n_neurons"], also=["layer"])
    parts = list(groups(layers, ["task"]))
    canvas = panels([name for name, _ in parts], height=1.5, ax=ax)
    for axes, (_, part) in zip(canvas.panels, parts, strict=True):
        axes.bar(part["layer"], part["n_neurons"], width=0.8, color=_BAR)
        _layer_ticks(axes)
    canvas.label("layer", "neurons")
    canvas.title("How many neurons each task has in each layer", described(layers))
    return canvas.figure


def similarity_by_layer(table: pd.DataFrame, *, ax: Own = None) -> Figure:
    """Draw how alike the parameters of two tasks' neurons are, by layer (Figure 3).

    One panel per reading and part of the weights, one line per pair of tasks, its interval as a
    band. A layer in which a task has no neuron leaves a gap. With more than seven pairs these are
    thin grey lines, with their mean drawn over them.

    Args:
        table: from the package's ``similarity_by_layer``: ``layer, task_x, task_y, similarity,
            low, high`` (cosines; NaN allowed) and, if there are several, ``reading, part``.
        ax: axes of your own, one for each panel.

    Raises:
        ValueError: for a missing column, an empty table, two rows for one cell, a layer that is no
            number, or nothing but NaN.
    """
    require_table(table, ["layer", "task_x", "task_y"], _CURVE)
    split = [name for name in ("reading", "part") if name in table.columns]
    require(table, [*split, "task_x", "task_y", "layer"], [], also=["layer", *_CURVE])
    if table["similarity"].isna().all():
        raise InputError("Every similarity is NaN; the tasks have no neurons in a common layer.")
    pairs = table["task_x"].map(spaced) + " \u2013 " + table["task_y"].map(spaced)
    named = table.assign(pair=pairs)
    if "part" in split:
        named["part"] = table["part"].replace(_PARTS)
    if "reading" in split and table["reading"].nunique() == 1:
        split.remove("reading")
    parts = list(groups(named, split, joint=", "))
    canvas = panels([name for name, _ in parts], height=2.4, ax=ax)
    styles = numbered(pairs)
    for axes, (_, part) in zip(canvas.panels, parts, strict=True):
        if len(styles) > CROWD:
            draw_crowd(axes, part, "pair", "layer", "similarity", what="pairs")
        else:
            draw_lines(axes, part, ("pair", "layer", "similarity"), styles, bands=True)
        axes.axhline(0, color=INK, linewidth=0.6)
        _layer_ticks(axes)
    canvas.label("layer", "cosine similarity")
    canvas.legend()
    canvas.title("How alike the parameters of two tasks' neurons are", described(table))
    return canvas.figure


def sibling_curves(table: pd.DataFrame, *, ax: Own = None) -> Figure:
    """Draw by how much siblings' neurons are more alike than other pairs', by layer.

    Left both kinds of pairs, right their difference with its interval, on one scale.

    Args:
        table: ``pairs`` (``siblings``, ``other pairs`` and ``difference``), ``layer``,
            ``similarity, low, high``: cosines less those of random sets; low and high may be NaN.
        ax: two axes of your own.

    Raises:
        ValueError: for a missing column or kind of pairs, an empty table, two rows for one point,
            or NaN.
    """
    require(table, ["pairs", "layer"], ["similarity"], also=["layer", "low", "high"])
    kinds = ("siblings", "other pairs", "difference")
    missing = [kind for kind in kinds if kind not in set(table["pairs"])]
    if missing:
        raise InputError(f"The table has no {missing[0]!r} in its column pairs; it needs {kinds}.")
    canvas = panels(["both kinds of pairs", "siblings minus other pairs"], height=2.4, ax=ax)
    styles = numbered(pd.Series(kinds))
    for axes, shown in zip(canvas.panels, (kinds[:2], kinds[2:]), strict=True):
        drawn = {kind: styles[kind] for kind in shown}
        draw_lines(axes, table, ("pairs", "layer", "similarity"), drawn, bands=len(shown) == 1)
        axes.axhline(0, color=INK, linewidth=0.6)
        _layer_ticks(axes)
    canvas.label("layer", "cosine similarity beyond chance")
    canvas.legend(list(kinds))
    canvas.title("Are siblings' neurons more alike than other pairs'?", described(table))
    return canvas.figure


def check_layers(layers: pd.DataFrame, column: str) -> None:
    """Refuse a table of layers that cannot be drawn."""
    if column not in LAYER_LABELS:
        raise InputError(f"column is {column!r}; use one of {tuple(LAYER_LABELS)}.")
    require(layers, ["task", "layer"], [column], also=["layer"])


def draw_layers(
    axes: Axes, layers: pd.DataFrame, column: str, *, top: float | None = None
) -> AxesImage:
    """Draw a checked table as tasks x layers; ``top`` is the end of the scale, of 1."""
    table = grid(layers, "task", "layer", column) * 100
    table = table.reindex(columns=range(int(layers["layer"].max()) + 1))
    limit = 100 * top if top else float(np.nanmax(table.to_numpy()))
    image = axes.imshow(table, cmap="Purples", vmin=0, vmax=limit or 1, aspect="auto")
    axes.set_yticks(range(len(table)), [spaced(name) for name in table.index], fontsize=TICK)
    _layer_ticks(axes)
    axes.set_xlabel("layer", fontsize=LABEL, color=INK)
    axes.set_yticks(np.arange(len(table) - 1) + 0.5, minor=True)
    axes.grid(axis="y", which="minor", color="white", linewidth=2)
    plain_look(axes)
    axes.tick_params(axis="y", which="both", length=0)
    return image


def _layer_ticks(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
