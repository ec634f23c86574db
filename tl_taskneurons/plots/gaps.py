"""How much better task neurons learn than random ones, over rate, updates and share."""

import pandas as pd
from matplotlib.figure import Figure

from tl_taskneurons.plots.canvas import Own, panels
from tl_taskneurons.plots.lines import draw_lines, numbered
from tl_taskneurons.plots.look import GREY, by_doubling
from tl_taskneurons.plots.tables import groups, require

_MATCHES = {"total": "random", "layer": "random by layer"}


def gap_curves(table: pd.DataFrame, *, ax: Own = None) -> Figure:
    """Draw the loss of random minus that of task neurons against the number of updates.

    One panel per share and kind of random neurons, one line per learning rate; above 0 the task's
    neurons are better. Bands are 95% intervals over tasks.

    Args:
        table: rows ``match, fraction, lr, updates, gap, low, high`` (nats per token).
        ax: axes of your own, one for each panel.

    Raises:
        ValueError: for a missing column, an empty table, or two rows for one point.
    """
    require(table, ["match", "fraction", "lr", "updates"], ["gap"], also=["low", "high"])
    named = table.assign(
        line=[f"rate {lr:g}" for lr in table["lr"]],
        panel=[
            f"{_MATCHES.get(match, match)}, {100 * fraction:g}% of all"
            for match, fraction in zip(table["match"], table["fraction"], strict=True)
        ],
    )
    parts = list(groups(named, ["panel"]))
    canvas = panels([name for name, _ in parts], ax=ax)
    styles = numbered(named["line"])
    for axes, (_, part) in zip(canvas.panels, parts, strict=True):
        axes.axhline(0, color=GREY, linewidth=0.8)
        draw_lines(axes, part, ("line", "updates", "gap"), styles, bands=True)
        by_doubling(axes)
    canvas.label("updates", "loss gap (nats per token)")
    canvas.legend(list(styles))
    canvas.title("Loss with random minus loss with task neurons trained")
    return canvas.figure
