"""What is lost without a ranking's top neurons, kept with them alone, and lost by other tasks."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tl_taskneurons.plots.lines import common_legend, draw_lines, numbered
from tl_taskneurons.plots.look import GREY, label_axes, panels, spaced, title
from tl_taskneurons.plots.tables import require
from tl_taskneurons.runtime.errors import InputError

_PANELS = {
    "necessity": "top neurons silenced",
    "sufficiency": "all but the top silenced",
    "harm": "top neurons silenced: other tasks, mean",
}


def ablation_curves(
    table: pd.DataFrame, *, curve: str = "necessity", ax: Axes | None = None
) -> Figure:
    """Draw the share of a task that is left against the share of neurons, one line per ranking.

    By default one panel per curve; with ``ax``, one curve in these axes.

    Args:
        table: ``AblationCurves.table``.
        curve: which one, in ``ax``: ``"necessity"``, ``"sufficiency"`` or ``"harm"``.
        ax: axes of your own.

    Returns:
        The figure; with ``ax``, the one that it belongs to.

    Raises:
        ValueError: for a missing column, an empty table, two rows for one point, or a curve that
            the table doesn't have.
    """
    require(table, ["ranking", "curve", "task", "fraction"], ["value"], also=["faithfulness"])
    # The logarithm has no place for k = 0, which is the same for all rankings.
    means = (
        table[table["fraction"] > 0]
        .groupby(["ranking", "curve", "fraction"], sort=False)["faithfulness"]
        .mean()
        .mul(100)
        .reset_index()
    )
    wanted = [name for name in _PANELS if name in set(means["curve"])]
    if ax is None:
        figure, drawn = panels([_PANELS[name] for name in wanted])
    elif curve in wanted:
        wanted, drawn = [curve], [ax]
        found = ax.figure
        assert isinstance(found, Figure)  # axes of a subfigure have none of their own
        figure = found
    else:
        raise InputError(f"curve is {curve!r}; the table has {wanted}.")
    styles = numbered(means["ranking"])
    for axes, name in zip(drawn, wanted, strict=True):
        part = means[means["curve"] == name]
        draw_lines(axes, part, ("ranking", "fraction", "faithfulness"), styles, factor=100.0)
        axes.set_xscale("log")
        axes.axhline(100, color=GREY, linewidth=0.8, linestyle="--")
        axes.axhline(0, color=GREY, linewidth=0.8)
    if ax is not None:
        ax.set(xlabel="neurons (% of all)", ylabel="task left (%)", title=_PANELS[curve])
        return figure
    label_axes(figure, drawn, "neurons (% of all)", "task left (%)")
    common_legend(figure, drawn, list(styles))
    own = table.loc[table["curve"] == "sufficiency", "task"]
    title(figure, f"What silencing leaves of {spaced(own.iloc[0])}" if len(own) else "Silencing")
    return figure
