"""More sets than a Venn diagram can hold: an UpSet plot, drawn by marsilea."""

import warnings
from importlib import import_module
from types import ModuleType

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tl_taskneurons.plots.canvas import Canvas, Picture
from tl_taskneurons.plots.look import INK, LABEL, SMALL, TICK, described, plain_look, spaced
from tl_taskneurons.plots.tables import require
from tl_taskneurons.runtime.errors import InputError, MissingPackageError

_BAR = "#0072b2"
# Inches around what marsilea draws: top (for the title), right, bottom, left.
_MARGIN = (0.75, 0.15, 0.5, 0.6)


def upset_plot(members: pd.DataFrame, *, largest: int = 25) -> Figure:
    """Draw which combinations of tasks share how many neurons.

    Each column is a combination: the number of neurons that are in exactly these tasks' sets.
    Bars at the left are the sizes of the sets.

    Args:
        members: one row per task and neuron of its set: ``task, layer, neuron``, as in
            ``neurons.parquet`` of a run (one selection).
        largest: draw at most so many combinations, the largest. Those that tie for the last
            place are left out together, unless all tie.

    Raises:
        ImportError: without marsilea, which the extra ``upset`` installs.
        ValueError: for a missing column, an empty table, a neuron twice in a set, fewer than two
            tasks, or ``largest`` below 1.
    """
    require(members, ["task", "layer", "neuron"], [])
    if members["task"].nunique() < 2:
        raise InputError("The table has one task; combinations need at least two.")
    if largest < 1:
        raise InputError(f"largest is {largest}; draw at least one combination.")
    upset = _marsilea()
    table = members.assign(here=1).pivot(index=["layer", "neuron"], columns="task", values="here")
    table = table[members["task"].unique()].fillna(0).astype(int).reset_index(drop=True)
    table.columns = [spaced(name) for name in table.columns]
    counts = table.value_counts()
    fewest = _fewest(counts, largest)
    n_drawn = int((counts >= fewest).sum())
    canvas = Canvas(Picture(facecolor="white"), [])
    figure = canvas.figure
    FigureCanvasAgg(figure)  # marsilea measures its labels on a canvas
    with warnings.catch_warnings():
        # marsilea 0.8.1 sorts in place, which pandas 3.1 deprecates; the result is right.
        warnings.filterwarnings("ignore", "The inplace keyword in DataFrame.sort_values")
        plot = upset.Upset(
            upset.UpsetData(table), sets_order=list(table.columns), min_cardinality=fewest,
            sort_subsets="-cardinality", color=_BAR, radius=34, linewidth=1.3, shading=0.18,
            width=max(3.4, 0.3 * n_drawn), height=0.3 * table.shape[1],
            intersection_kws={"props": {"fontsize": SMALL}},
            sets_size_kws={"props": {"fontsize": TICK - 1}},
            sets_label_kws={"fontsize": TICK, "color": INK},
        )  # fmt: skip
    plot.set_margin(_MARGIN)
    plot.render(figure)
    shared, sizes = (axes for axes in figure.axes if axes.patches)
    for axes in (shared, sizes):
        plain_look(axes)
    shared.set_ylabel("neurons", fontsize=LABEL, color=INK)
    sizes.spines["left"].set_visible(False)
    sizes.set_xlabel("set size", fontsize=LABEL, color=INK)
    note = described(members)
    if n_drawn < len(counts):
        cut = f"the {n_drawn} largest of {len(counts)} combinations"
        note = f"{note}; {cut}" if note else f"T{cut[1:]}"
    canvas.title("Neurons that are in exactly these tasks' sets", note)
    return figure


def _fewest(counts: pd.Series, largest: int) -> int:
    """Return the size of the smallest combination to draw, of sizes in falling order.

    Those that tie for the last place are left out together, unless all tie.
    """
    fewest = int(counts.iloc[min(largest, len(counts)) - 1])
    if (counts >= fewest).sum() > largest and counts.iloc[0] > fewest:
        return fewest + 1
    return fewest


def _marsilea() -> ModuleType:
    try:
        return import_module("marsilea.upset")
    except ImportError as error:
        raise MissingPackageError(
            "An UpSet plot needs marsilea: pip install 'tl-taskneurons[upset]'."
        ) from error
