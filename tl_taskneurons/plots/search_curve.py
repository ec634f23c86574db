"""What the sets that a search tried take and harm, against their size."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tl_taskneurons.plots.canvas import Own, panels
from tl_taskneurons.plots.lines import draw_lines, numbered
from tl_taskneurons.plots.look import INK, LABEL, by_doubling
from tl_taskneurons.plots.tables import require


def search_curve(curve: pd.DataFrame, *, ax: Own = None) -> Figure:
    """Draw what is taken of the task and lost by the others against the number of neurons.

    Args:
        curve: ``FoundNeurons.curve``; of its rows those of growing sets that were kept are drawn,
            a line for each share that was left out.
        ax: axes of your own: one, for what is taken alone, or two.

    Raises:
        ValueError: for a missing column or an empty table.
    """
    require(curve, [], ["outside", "n_neurons", "taken"], also=["kept"])
    grown = curve[(curve["step"] == "grow") & curve["kept"]]
    require(grown, [], ["harm"])  # of sets that were not kept it may be unknown
    grown = grown.assign(
        line=[f"outside the others' top {100 * share:g}%" for share in grown["outside"]],
        taken=100 * grown["taken"], harm=100 * grown["harm"],
    )  # fmt: skip
    labels = {"taken": "taken of the task (%)", "harm": "lost by others (points)"}
    names = ["the task", "the others, mean"]
    canvas = panels([""] if isinstance(ax, Axes) else names, ax=ax)
    styles = numbered(grown["line"])
    for axes, column in zip(canvas.panels, labels, strict=False):
        draw_lines(axes, grown, ("line", "n_neurons", column), styles)
        by_doubling(axes)
    canvas.label("neurons silenced", labels["taken"])
    for axes, label in zip(canvas.panels, labels.values(), strict=False):
        axes.tick_params(labelleft=True)
        axes.set_ylabel(label, fontsize=LABEL, color=INK)
    canvas.legend(list(styles))
    canvas.title("What growing sets take, and what it costs others")
    return canvas.figure
