"""What is lost without a ranking's top neurons, kept with them alone, and lost by other tasks."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tl_taskneurons.plots.canvas import Own, panels
from tl_taskneurons.plots.lines import draw_lines, numbered
from tl_taskneurons.plots.look import GREY, spaced
from tl_taskneurons.plots.tables import require
from tl_taskneurons.runtime.errors import InputError

_PANELS = {
    "necessity": "top neurons silenced",
    "sufficiency": "all but the top silenced",
    "harm": "top neurons silenced: other tasks, mean",
}


def ablation_curves(table: pd.DataFrame, *, curve: str = "necessity", ax: Own = None) -> Figure:
    """Draw the share of a task that is left against the share of neurons, one line per ranking.

    One panel per curve; one curve alone where ``ax`` is one axes.

    Args:
        table: ``AblationCurves.table``, of one task.
        curve: which one, in one axes: ``"necessity"``, ``"sufficiency"`` or ``"harm"``.
        ax: axes of your own: one, or one for each curve.

    Returns:
        The figure; with ``ax``, the one that it belongs to.

    Raises:
        ValueError: for a missing column, an empty table, two rows for one point, curves of
            several tasks, or a curve that the table doesn't have.
    """
    require(table, ["ranking", "curve", "task", "fraction"], ["value"], also=["faithfulness"])
    tasks = list(table.loc[table["curve"] != "harm", "task"].unique())
    if len(tasks) > 1:
        raise InputError(
            f"The table has the curves of {len(tasks)} tasks ({', '.join(map(str, tasks))}), of "
            "which one line would be the mean; draw the table of one at a time."
        )
    # The logarithm has no place for k = 0, which is the same for all rankings.
    means = (
        table[table["fraction"] > 0]
        .groupby(["ranking", "curve", "fraction"], sort=False)["faithfulness"]
        .mean()
        .mul(100)
        .reset_index()
    )
    wanted = [name for name in _PANELS if name in set(means["curve"])]
    if isinstance(ax, Axes):
        if curve not in wanted:
            raise InputError(f"curve is {curve!r}; the table has {wanted}.")
        wanted = [curve]
    canvas = panels([_PANELS[name] for name in wanted], ax=ax)
    styles = numbered(means["ranking"])
    for axes, name in zip(canvas.panels, wanted, strict=True):
        part = means[means["curve"] == name]
        draw_lines(axes, part, ("ranking", "fraction", "faithfulness"), styles, factor=100.0)
        axes.set_xscale("log")
        axes.axhline(100, color=GREY, linewidth=0.8, linestyle="--")
        axes.axhline(0, color=GREY, linewidth=0.8)
    canvas.label("neurons (% of all)", "task left (%)")
    canvas.legend(list(styles))
    own = table.loc[table["curve"] == "sufficiency", "task"]
    canvas.title(f"What silencing leaves of {spaced(own.iloc[0])}" if len(own) else "Silencing")
    return canvas.figure
