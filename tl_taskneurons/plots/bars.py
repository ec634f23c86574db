"""Scores with and without neurons, side by side."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tl_taskneurons.plots.canvas import Own, single
from tl_taskneurons.plots.look import (
    INK,
    LABEL,
    PALE,
    TICK,
    broken,
    described,
    plain_look,
)
from tl_taskneurons.plots.tables import reach, require, require_table
from tl_taskneurons.plots.units import unit_of
from tl_taskneurons.runtime.errors import InputError

# Dark enough apart in grey print: original, random, task (after Okabe and Ito).
_BARS = {
    "original": ("original", "#56b4e9"),
    "random": ("random neurons silenced", "#bdbdbd"),
    "silenced": ("own neurons silenced", "#d55e00"),
}


def deactivation_bars(table: pd.DataFrame, *, ax: Own = None) -> Figure:
    """Draw the original score, and those with random and with own neurons silenced.

    The lines are 95% intervals over items, and for the random neurons over the controls too.

    Args:
        table: from ``deactivation_table``, of one selection: ``task, metric`` and ``original,
            random, silenced`` (shares of 1, or in the metric's ``unit``), each also with ``_low``
            and ``_high``.
        ax: axes of your own.

    Raises:
        ValueError: for a missing column, an empty table, a task twice, a task judged by loss
            alone, or metrics that are counted in different units.
    """
    require_table(table, ["task"], _BARS)
    if "original" in table.columns and table["original"].isna().any():
        raise InputError(
            "A task here has no score but its loss; draw deactivation_heatmap instead."
        )
    ends = [f"{column}_{end}" for column in _BARS for end in ("low", "high")]
    require(table, ["task"], list(_BARS), also=ends)
    unit = unit_of(table)
    if unit.is_share:
        # Intervals of few items reach beyond what a share can be, and would leave the figure.
        table = table.assign(**{end: table[end].clip(0, 1) for end in ends})
    canvas = single(max(5.0, 1.8 + 0.95 * len(table)), 3.6, ax)
    (axes,) = canvas.panels
    places = np.arange(len(table))
    for k, (column, (label, colour)) in enumerate(_BARS.items()):
        heights = unit.factor * table[column].to_numpy(dtype=float)
        at = places + (k - 1) * 0.27
        axes.bar(at, heights, 0.25, label=label, color=colour)
        axes.errorbar(
            at, heights, yerr=unit.factor * reach(table, column, f"{column}_low", f"{column}_high"),
            fmt="o", markersize=4, ecolor=INK, markerfacecolor=colour, markeredgecolor=INK,
            elinewidth=1, capsize=2.5, clip_on=False, zorder=3,
        )  # fmt: skip
    note = "less is better" if unit.less_is_better else ""
    axes.set_ylabel(unit.label("%", note), fontsize=LABEL, color=INK)
    axes.set_xticks(places, [broken(name) for name in table["task"]], fontsize=TICK)
    if unit.is_share:
        axes.set_ylim(0, 105)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=PALE, linewidth=0.8)
    plain_look(axes)
    canvas.title("Scores with neurons silenced, and 95% intervals", described(table))
    canvas.legend()
    return canvas.figure
