"""Lines with their intervals, and crowds of lines."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from tl_taskneurons.plots.look import GREY, Style, line_style
from tl_taskneurons.plots.tables import reach

# More lines than this are no longer told apart where each one matters little.
CROWD = 7
_BOLD = line_style(0)


def numbered(names: pd.Series) -> dict[str, Style]:
    """Give each name of a column its style, in order of appearance."""
    return {str(name): line_style(k) for k, name in enumerate(names.unique())}


def draw_lines(
    axes: Axes,
    frame: pd.DataFrame,
    columns: tuple[str, str, str],
    styles: Mapping[str, Style],
    *,
    factor: float = 1.0,
    bands: bool = False,
    dodge: float = 0.0,
) -> None:
    """Draw a line for each value of a column, and its intervals where there are ``low, high``.

    Args:
        axes: where.
        frame: the rows; those whose line has no style are left out.
        columns: the column that names the lines, the one to the right, and the one upwards.
        styles: the lines by name; all panels of a figure share them.
        factor: what x is multiplied by; 100 for shares.
        bands: draw intervals as bands, for lines of many points, and not as bars.
        dodge: how far apart the bars of two lines stand, in units of x after ``factor``.
    """
    by, x, y = columns
    for k, (name, style) in enumerate(styles.items()):
        rows = frame[frame[by].astype(str) == name].sort_values(x)
        if rows.empty:
            continue
        at = factor * rows[x].to_numpy(dtype=float) + dodge * (k - (len(styles) - 1) / 2)
        axes.plot(
            at, rows[y], label=name, markevery=max(1, round(len(rows) / 12)), **style.options
        )  # fmt: skip
        if not {"low", "high"} <= set(rows.columns):
            continue
        if bands:
            low, high = (rows[end].to_numpy(dtype=float) for end in ("low", "high"))
            axes.fill_between(at, low, high, color=style.colour, alpha=0.16, linewidth=0)
        else:
            axes.errorbar(
                at, rows[y], yerr=reach(rows, y), fmt="none", ecolor=style.colour, elinewidth=1,
                capsize=2.5,
            )  # fmt: skip


def draw_crowd(
    axes: Axes, frame: pd.DataFrame, by: str, x: str, y: str, *, factor: float = 1.0, what: str
) -> None:
    """Draw many lines in thin grey, and their mean over them.

    Args:
        axes: where.
        frame: the rows.
        by: the column that names the lines.
        x: the column to the right.
        y: the column upwards.
        factor: what x is multiplied by.
        what: what the lines are, for the legend.
    """
    label = f"{frame[by].nunique()} {what}"
    for _, rows in frame.groupby(by, sort=False):
        rows = rows.sort_values(x)
        axes.plot(factor * rows[x], rows[y], color=GREY, linewidth=0.6, alpha=0.7, label=label)
        label = ""
    mean = frame.groupby(x)[y].mean()
    every = max(1, round(len(mean) / 12))
    at = factor * np.asarray(mean.index)
    axes.plot(at, mean, label="their mean", markevery=every, **_BOLD.options)
