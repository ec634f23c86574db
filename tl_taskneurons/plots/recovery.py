"""How many planted neurons each attribution method finds."""

import pandas as pd
from matplotlib.figure import Figure

from tl_taskneurons.plots.canvas import Own, panels
from tl_taskneurons.plots.lines import draw_lines, numbered
from tl_taskneurons.plots.look import INK, LABEL
from tl_taskneurons.plots.tables import require

_SWEEPS = {"noise": "noise in all weights", "overlap": "share of neurons common to all tasks"}


def recovery_curves(table: pd.DataFrame, *, ax: Own = None) -> Figure:
    """Draw the precision of each method against noise (left) and overlap (right).

    One row of panels for each kind of MLP. The noise is varied at the lowest overlap, the overlap
    at the noise for which there are most overlaps.

    Args:
        table: from ``experiments.planted``: ``mlp, noise, overlap, method, precision, low, high``
            (shares of 1; low and high may be NaN).
        ax: axes of your own, one for each panel.

    Raises:
        ValueError: for a missing column, an empty table, two rows for one point, or NaN.
    """
    require(table, ["mlp", "noise", "overlap", "method"], ["precision"], also=["low", "high"])
    fixed = table.groupby("noise")["overlap"].nunique().idxmax()
    parts = {
        "noise": table[table["overlap"] == table["overlap"].min()],
        "overlap": table[table["noise"] == fixed],
    }
    kinds = list(table["mlp"].unique())
    notes = {"noise": "growing noise", "overlap": f"growing overlap, noise {fixed:g}"}
    canvas = panels([f"{kind} MLP, {notes[sweep]}" for kind in kinds for sweep in parts], ax=ax)
    styles = numbered(table["method"])
    for k, axes in enumerate(canvas.panels):
        kind, sweep = kinds[k // 2], list(parts)[k % 2]
        part = parts[sweep]
        draw_lines(axes, part[part["mlp"] == kind], ("method", sweep, "precision"), styles)
        values = sorted(part[sweep].unique())
        if sweep == "noise" and len(values) > 2:
            axes.set_xscale("symlog", linthresh=values[1])
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.minorticks_off()
        axes.set_ylim(-0.05, 1.05)
        if canvas.is_lent or k >= len(canvas.panels) - 2:
            axes.set_xlabel(_SWEEPS[sweep], fontsize=LABEL, color=INK)
    if not canvas.is_lent:
        canvas.figure.supylabel("precision = recall", fontsize=LABEL, color=INK)
    canvas.legend()
    canvas.title("Planted neurons found, and 95% intervals over models")
    return canvas.figure
