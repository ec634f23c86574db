"""How much better task neurons learn than random ones, over rate, updates and share."""

import pandas as pd
from matplotlib.figure import Figure

from tl_taskneurons.plots.canvas import Own, panels
from tl_taskneurons.plots.lines import draw_lines, numbered
from tl_taskneurons.plots.look import GREY, by_doubling
from tl_taskneurons.plots.tables import groups, require

_MATCHES = {"total": "random", "layer": "random by layer"}
_APART = 1.06  # by which factor the intervals of two lines stand apart


def gap_curves(table: pd.DataFrame, *, ax: Own = None) -> Figure:
    """Draw the loss of random minus that of task neurons: above 0 the task's neurons are better.

    One panel per share and kind of random neurons, one line per learning rate, over the number of
    updates. Where all have the same number, one panel per share and one line per kind of random
    neurons, over the learning rate. Bars are 95% intervals over tasks.

    Args:
        table: rows ``match, fraction, lr, updates, gap, low, high`` (nats per token).
        ax: axes of your own, one for each panel.

    Raises:
        ValueError: for a missing column, an empty table, or two rows for one point.
    """
    require(table, ["match", "fraction", "lr", "updates"], ["gap"], also=["low", "high"])
    table = table.sort_values("match", ascending=False, kind="stable")  # "total" before "layer"
    kinds = table["match"].replace(_MATCHES)
    shares = table["fraction"].map(lambda share: f"{100 * share:g}% of the neurons")
    named_rates = table["lr"].map(lambda lr: f"rate {lr:g}")
    over_rates = table["updates"].nunique() == 1 < table["lr"].nunique()
    x = "lr" if over_rates else "updates"
    named = table.assign(
        line=kinds if over_rates else named_rates,
        panel=shares if over_rates else shares + " against " + kinds,
    )
    styles = numbered(named["line"])
    apart = {name: _APART ** (k - (len(styles) - 1) / 2) for k, name in enumerate(styles)}
    named[x] = table[x] * named["line"].map(apart)
    parts = list(groups(named, ["panel"]))
    canvas = panels([name for name, _ in parts], ax=ax)
    for axes, (_, part) in zip(canvas.panels, parts, strict=True):
        axes.axhline(0, color=GREY, linewidth=0.8)
        draw_lines(axes, part, ("line", x, "gap"), styles)
        if over_rates:
            axes.set_xscale("log")
            rates = sorted(table["lr"].unique())
            axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
            axes.minorticks_off()
        else:
            by_doubling(axes)
    canvas.label("learning rate" if over_rates else "updates", "difference (nats per token)")
    canvas.legend(list(styles))
    after = f", after {table['updates'].iloc[0]} updates" if over_rates else ""
    canvas.title(
        f"Loss after training random neurons minus loss after training the task's{after}",
        "Above 0, the task's neurons are better; bars: 95% over tasks",
    )
    return canvas.figure
