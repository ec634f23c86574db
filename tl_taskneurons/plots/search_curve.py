"""What the sets that a search tried take and harm, against their size."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tl_taskneurons.plots.lines import common_legend, draw_lines, numbered
from tl_taskneurons.plots.look import label_axes, panels, title
from tl_taskneurons.plots.tables import require


def search_curve(curve: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """Draw what is taken of the task and lost by the others against the number of neurons.

    Args:
        curve: ``FoundNeurons.curve``; of its rows those of growing sets that were kept are drawn,
            a line for each share that was left out.
        ax: axes of your own, for what is taken alone.

    Raises:
        ValueError: for a missing column or an empty table.
    """
    require(curve, [], ["outside", "n_neurons", "taken", "harm"], also=["kept"])
    grown = curve[(curve["step"] == "grow") & curve["kept"]]
    grown = grown.assign(
        line=[f"outside the others' top {100 * share:g}%" for share in grown["outside"]],
        taken=100 * grown["taken"], harm=100 * grown["harm"],
    )  # fmt: skip
    labels = {"taken": "taken of the task (%)", "harm": "lost by others (points)"}
    if ax is None:
        figure, drawn = panels(["the task", "the others, mean"])
        for axes in drawn[1:]:
            axes.tick_params(labelleft=True)
    else:
        found = ax.figure
        assert isinstance(found, Figure)
        figure, drawn = found, [ax]
    styles = numbered(grown["line"])
    for axes, (column, label) in zip(drawn, labels.items(), strict=False):
        draw_lines(axes, grown, ("line", "n_neurons", column), styles)
        axes.set_xscale("log", base=2)
        axes.set_ylabel(label)
    if ax is not None:
        ax.set_xlabel("neurons silenced")
        return figure
    label_axes(figure, drawn, "neurons silenced", labels["taken"])
    drawn[1].set_ylabel(labels["harm"])
    common_legend(figure, drawn, list(styles))
    title(figure, "What growing sets take, and what it costs others")
    return figure
