"""Tables in, matplotlib figures out: pure functions, one look, no window and no torch.

Red always means that a task is hurt. Colours tell apart for colour-blind readers and in grey
print, and every cell of a matrix also carries its number.
"""

import os

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from tl_taskneurons.atomic import write_atomically

_INK = "#222222"
_GREY = "#9a9a9a"
# Dark enough apart in grey print: original, random, task (after Okabe and Ito).
_BARS = {
    "original": "#56b4e9",
    "random neurons silenced": "#bdbdbd",
    "own neurons silenced": "#d55e00",
}
_TITLE, _LABEL, _TICK = 11.0, 9.5, 8.5
_DPI = 160
_LAYER_LABELS = {"share": "% of the task's neurons", "score_share": "% of the task's total score"}
_METRICS = {"accuracy": "accuracy", "exact_match": "exact match", "rougeL": "ROUGE-L"}

# A light edge, so that the diagonal's frame shows on dark cells too.
_HALO = withStroke(linewidth=4.5, foreground="white")


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG, atomically."""
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=_DPI))


def score_heatmap(layers: pd.DataFrame, *, column: str = "share") -> Figure:
    """Draw where each task's neurons lie: tasks x layers.

    Args:
        layers: rows with ``task, layer`` and the column, of one selection.
        column: ``"share"``, of the task's selected neurons, or ``"score_share"``, of the task's
            total score.

    Raises:
        ValueError: for an unknown column, an empty table, or two rows for one cell.
    """
    n_tasks = layers["task"].nunique()
    figure = _figure(7.6, 1.5 + 0.42 * n_tasks)
    axes = figure.subplots()
    _bar(figure, _draw_layers(axes, layers, column), [axes], _LAYER_LABELS[column])
    what = "each task's score lies" if column == "score_share" else "each task's neurons lie"
    _title(figure, f"Where {what}", _described(layers))
    return figure


def deactivation_heatmap(matrix: pd.DataFrame, column: str = "loss_change") -> Figure:
    """Draw silenced x evaluated tasks: the change of each, with its interval.

    Args:
        matrix: from ``deactivation_matrix``, of one selection.
        column: ``"loss_change"`` (nats per token) or ``"change"`` (of the metric, in points).

    Raises:
        ValueError: for an unknown column, an empty table, or two rows for one cell.
    """
    grid = _grid(matrix, "silenced", "task", column)
    figure = _figure(2.9 + 1.02 * grid.shape[1], 1.7 + 0.72 * grid.shape[0])
    axes = figure.subplots()
    image = _draw_matrix(axes, matrix, column, _limit(matrix, column))
    _bar(figure, image, [axes], _change_label(matrix, column))
    _title(figure, "What silencing a task's neurons changes", _described(matrix))
    return figure


def deactivation_bars(table: pd.DataFrame) -> Figure:
    """Draw the original score, and those with random and with own neurons silenced.

    The lines are 95% intervals over items, and for the random neurons over the controls too.

    Args:
        table: from ``deactivation_table``, of one selection.

    Raises:
        ValueError: for an empty table, a task twice, or a task judged by loss alone.
    """
    _require(table, ["task", "original", "random", "silenced"])
    if table["task"].duplicated().any():
        raise ValueError("The table has a task twice; keep the rows of one selection.")
    if table["original"].isna().any():
        raise ValueError(
            "A task here has no score but its loss; draw deactivation_heatmap instead."
        )
    figure = _figure(max(5.0, 2.0 + 1.25 * len(table)), 3.6)
    axes = figure.subplots()
    places = np.arange(len(table))
    columns = ("original", "random", "silenced")
    for k, (label, column) in enumerate(zip(_BARS, columns, strict=True)):
        heights = 100 * table[column].to_numpy(dtype=float)
        at = places + (k - 1) * 0.27
        axes.bar(at, heights, 0.25, label=label, color=_BARS[label])
        axes.errorbar(
            at, heights, yerr=100 * _span(table, column), fmt="o", markersize=4, ecolor=_INK,
            markerfacecolor=_BARS[label], markeredgecolor=_INK, elinewidth=1, capsize=2.5,
            clip_on=False, zorder=3,
        )  # fmt: skip
    axes.set_ylabel(f"{_metrics(table)} (%)", fontsize=_LABEL, color=_INK)
    axes.set_xticks(places, [_broken(name) for name in table["task"]], fontsize=_TICK)
    axes.set_ylim(0, 105)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    _plain_look(axes)
    _title(figure, "Scores with neurons silenced, and 95% intervals", _described(table))
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False,
        fontsize=_TICK,
    )  # fmt: skip
    return figure


def demo_figure(
    layers: pd.DataFrame,
    matrix: pd.DataFrame,
    selections: tuple[str, str] = ("plain", "exclusive"),
    column: str = "change",
) -> Figure:
    """Draw critical beside specific: where the neurons are, and what silencing each set does.

    Left, the share of each task's neurons by layer, for both selections; middle and right, the
    deactivation matrices of both on one colour scale.

    Args:
        layers: rows with ``selection, task, layer, share``.
        matrix: ``deactivation_matrix`` tables with a column ``selection``.
        selections: which selection stands in the middle, and which on the right.
        column: as in ``deactivation_heatmap``.

    Raises:
        ValueError: when a table has no rows of a selection, or for what the others refuse.
    """
    for name in selections:
        for title, frame in (("layers", layers), ("matrix", matrix)):
            if name not in set(frame["selection"]):
                raise ValueError(f"The table {title} has no rows of the selection {name!r}.")
    both = matrix[matrix["selection"].isin(selections)]
    n_tasks = both["task"].nunique()
    figure = _figure(5.3 + 1.84 * n_tasks, 2.1 + 0.62 * n_tasks)
    grid = figure.add_gridspec(2, 3, width_ratios=(3.4, 0.95 * n_tasks, 0.95 * n_tasks))
    left = [figure.add_subplot(grid[row, 0]) for row in range(2)]
    right = [figure.add_subplot(grid[:, column]) for column in (1, 2)]
    limit = _limit(both, column)
    share_top = float(layers[layers["selection"].isin(selections)]["share"].max())
    image = cell_image = None
    for k, name in enumerate(selections):
        own, cells = (frame[frame["selection"] == name] for frame in (layers, matrix))
        image = _draw_layers(left[k], own, "share", top=share_top)
        left[k].set_title(_described(own), fontsize=_LABEL, loc="left", color=_INK)
        cell_image = _draw_matrix(right[k], cells, column, limit, rows=k == 0)
        right[k].set_title(_described(cells), fontsize=_LABEL, loc="left", color=_INK)
    left[0].set_xlabel("")
    assert image is not None and cell_image is not None
    _bar(figure, image, left, _LAYER_LABELS["share"])
    _bar(figure, cell_image, right, _change_label(both, column))
    figure.suptitle(
        "Where each task's neurons lie (left), and what silencing them changes on every task",
        fontsize=_TITLE + 1, x=0.01, ha="left", color=_INK, fontweight="bold",
    )  # fmt: skip
    return figure


def _draw_layers(
    axes: Axes, layers: pd.DataFrame, column: str, *, top: float | None = None
) -> AxesImage:
    """Tasks x layers as a heatmap of shares."""
    if column not in _LAYER_LABELS:
        raise ValueError(f"column is {column!r}; use one of {tuple(_LAYER_LABELS)}.")
    grid = _grid(layers, "task", "layer", column) * 100
    limit = 100 * top if top else float(np.nanmax(grid.to_numpy()))
    image = axes.imshow(grid, cmap="Purples", vmin=0, vmax=limit or 1, aspect="auto")
    axes.set_yticks(range(len(grid)), [_spaced(name) for name in grid.index], fontsize=_TICK)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.tick_params(labelsize=_TICK)
    axes.set_xlabel("layer", fontsize=_LABEL, color=_INK)
    axes.set_yticks(np.arange(len(grid) - 1) + 0.5, minor=True)
    axes.grid(axis="y", which="minor", color="white", linewidth=2)
    _plain_look(axes)
    axes.tick_params(axis="y", which="both", length=0)
    return image


def _draw_matrix(
    axes: Axes, matrix: pd.DataFrame, column: str, limit: float, *, rows: bool = True
) -> AxesImage:
    """Silenced x evaluated, red where it hurts, the diagonal framed."""
    low, high = ("low", "high") if column == "change" else ("loss_low", "loss_high")
    factor, map_name = (100, "RdBu") if column == "change" else (1, "RdBu_r")
    table = _grid(matrix, "silenced", "task", column)
    values, lows, highs = (
        factor * _grid(matrix, "silenced", "task", name).to_numpy(dtype=float)
        for name in (column, low, high)
    )
    image = axes.imshow(values, cmap=map_name, vmin=-limit, vmax=limit, aspect="auto")
    digits = 0 if column == "change" else 1 if limit >= 10 else 2
    for i, silenced in enumerate(table.index):
        for j, task in enumerate(table.columns):
            value = values[i, j]
            ink = "white" if abs(value) > 0.62 * limit else _INK
            axes.text(j, i - 0.09, _signed(value, digits), ha="center", va="center", color=ink,
                      fontsize=_LABEL + 1, fontweight="bold")  # fmt: skip
            if np.isfinite(lows[i, j]):
                span = f"{_signed(lows[i, j], digits)} to {_signed(highs[i, j], digits)}"
                axes.text(j, i + 0.25, span, ha="center", va="center", color=ink, fontsize=6.6)
            if silenced == task:
                frame = Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=_INK,
                                  linewidth=2.2, zorder=3, clip_on=False,
                                  path_effects=[_HALO])  # fmt: skip
                axes.add_patch(frame)
    names = [_broken(name) for name in table.columns]
    axes.set_xticks(range(len(names)), names, fontsize=_TICK)
    names = [_broken(name) for name in table.index] if rows else []
    axes.set_yticks(range(len(names)), names, fontsize=_TICK)
    axes.set_xticks(np.arange(values.shape[1] - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(values) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.set_xlabel("evaluated on", fontsize=_LABEL, color=_INK)
    if rows:
        axes.set_ylabel("neurons silenced", fontsize=_LABEL, color=_INK)
    _plain_look(axes)
    axes.tick_params(which="both", length=0)
    return image


def _grid(frame: pd.DataFrame, rows: str, columns: str, values: str) -> pd.DataFrame:
    """One column of a tidy table as a matrix, in order of appearance."""
    _require(frame, [rows, columns, values])
    if frame.duplicated([rows, columns]).any():
        twice = frame[frame.duplicated([rows, columns])].iloc[0]
        raise ValueError(
            f"The table has two rows for {rows} {twice[rows]!r} and {columns} {twice[columns]!r}; "
            "keep the rows of one selection."
        )
    table = frame.pivot(index=rows, columns=columns, values=values)
    return table.reindex(index=frame[rows].unique(), columns=frame[columns].unique())


def _require(frame: pd.DataFrame, columns: list[str]) -> None:
    missing = [name for name in columns if name not in frame.columns]
    if missing or frame.empty:
        raise ValueError(
            f"The table has {len(frame)} rows and lacks the columns {missing}; it has "
            f"{list(frame.columns)}."
        )


def _limit(matrix: pd.DataFrame, column: str) -> float:
    """The end of a colour scale that has 0 in the middle."""
    if column not in ("loss_change", "change"):
        raise ValueError(f"column is {column!r}; use 'loss_change' or 'change'.")
    largest = float(matrix[column].abs().max())
    if np.isnan(largest):
        raise ValueError("A task here has no score but its loss; use column='loss_change'.")
    return (100 * largest if column == "change" else largest) or 1.0


def _span(table: pd.DataFrame, column: str) -> np.ndarray:
    """How far the interval reaches below and above the value, ``[2, row]``."""
    value = table[column].to_numpy(dtype=float)
    low, high = (table[f"{column}_{end}"].to_numpy(dtype=float) for end in ("low", "high"))
    return np.stack([value - low, high - value]).clip(min=0)  # not -1e-17


def _signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "\u2212")


def _change_label(matrix: pd.DataFrame, column: str) -> str:
    if column == "loss_change":
        return "change of loss (nats per token)"
    return f"change of {_metrics(matrix)} (percentage points)"


def _metrics(frame: pd.DataFrame) -> str:
    return " / ".join(_METRICS.get(str(name), str(name)) for name in frame["metric"].unique())


def _described(frame: pd.DataFrame) -> str:
    """Which neurons a table is about, where it says so."""
    if "selection" not in frame.columns or "fraction" not in frame.columns:
        return ""
    return describe(frame["selection"].iloc[0], float(frame["fraction"].iloc[0]))


def describe(selection: str, fraction: float) -> str:
    """Say in a few words which neurons a selection takes."""
    top = f"top {100 * fraction:g}%"
    return {
        "plain": f"Plain: the {top} of each task",
        "exclusive": f"Exclusive: in the {top} of this task alone",
        "exclude": f"Exclude: {top}, none of other tasks' {top}",
        "difference": f"Difference: {top} by score beyond other tasks'",
        "rank": f"Rank: {top} by rank beyond other tasks'",
    }.get(selection, f"{top}, {selection}")


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _broken(name: str) -> str:
    return name.replace("_", "\n", 1).replace("_", " ")


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _plain_look(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_GREY)
    axes.tick_params(labelsize=_TICK, color=_GREY, labelcolor=_INK)


def _title(figure: Figure, text: str, note: str) -> None:
    figure.suptitle(
        f"{text}\n{note}" if note else text, fontsize=_TITLE, x=0.01, ha="left", color=_INK
    )


def _bar(figure: Figure, image: AxesImage, axes: list[Axes], label: str) -> None:
    scale = figure.colorbar(image, ax=axes, pad=0.02, aspect=28, fraction=0.05)
    scale.set_label(label, fontsize=_TICK, color=_INK)
    for spine in scale.ax.spines.values():
        spine.set_visible(False)
    scale.ax.tick_params(labelsize=_TICK - 0.5, color=_GREY, labelcolor=_INK)
