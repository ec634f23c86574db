"""Scores against the share of neurons, overlap against k, forgetting by stage."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tl_taskneurons.plots.canvas import Own, panels
from tl_taskneurons.plots.lines import CROWD, draw_crowd, draw_lines, numbered
from tl_taskneurons.plots.look import (
    GREY,
    Style,
    described,
    line_style,
    metric_names,
    spaced,
)
from tl_taskneurons.plots.tables import groups, require, require_table
from tl_taskneurons.runtime.errors import InputError

KINDS = ("in-domain", "out-of-domain")


def share_curves(
    table: pd.DataFrame,
    *,
    panel: str = "train_group",
    line: str | None = "test_group",
    ax: Own = None,
) -> Figure:
    """Draw the score against the share of trained neurons (Figures 2 and 6).

    In-domain lines are solid, out-of-domain ones dashed with open markers. One panel per group
    that was trained and one colour per group that is tested (Figure 2); or, with
    ``panel="task", line=None``, one panel per task trained alone (Figure 6).

    Args:
        table: rows with ``fraction`` (share of the neurons, of 1), ``kind`` (``"in-domain"`` or
            ``"out-of-domain"``), ``score, low, high`` (shares of 1; low and high may be NaN), the
            columns named by ``panel`` and ``line``, and if at hand ``metric``.
        panel: the column with one panel per value.
        line: the column with one colour per value; ``None`` tells lines apart by kind alone.
        ax: axes of your own, one for each panel.

    Raises:
        ValueError: for a missing column, an empty table, two rows for one point, an unknown kind,
            or a score that is NaN.
    """
    keys = [panel, *([line] if line else []), "kind", "fraction"]
    require(table, keys, ["score"], also=["low", "high"])
    unknown = sorted(set(table["kind"]) - set(KINDS))
    if unknown:
        raise InputError(f"The kinds {unknown} are unknown; use {list(KINDS)}.")
    tested = list(table[line].unique()) if line else [""]
    styles: dict[str, Style] = {}
    for k, name in enumerate(tested):
        for kind, dash in zip(KINDS, ("-", "--"), strict=True):
            plain = line_style(k if line else KINDS.index(kind))
            styles[_tested(name, kind)] = Style(plain.colour, plain.marker, dash)
    names = table[line] if line else pd.Series("", index=table.index)
    labels = [_tested(name, kind) for name, kind in zip(names, table["kind"], strict=True)]
    percent = _percent(table).assign(line=labels)
    parts = list(groups(percent, [panel]))
    canvas = panels([f"trained: {name}" for name, _ in parts], ax=ax)
    for axes, (_, part) in zip(canvas.panels, parts, strict=True):
        draw_lines(axes, part, ("line", "fraction", "score"), styles, factor=100.0, dodge=0.6)
        _share_axis(axes, table["fraction"])
    canvas.label("trained neurons (% of all)", f"{metric_names(table)} (%)")
    canvas.legend(list(styles))
    canvas.title(_told("Scores when a growing share of neurons is trained", table))
    return canvas.figure


def overlap_curves(overlaps: pd.DataFrame, *, ax: Own = None) -> Figure:
    """Draw the overlap of tasks or groups against the share of neurons taken (Table 8).

    Dotted lines are the overlap that chance gives. With more than seven pairs the pairs are thin
    grey lines and their means are drawn over them.

    Args:
        overlaps: from ``overlap_by_fraction``: ``fraction, task_x, task_y, iou, expected_iou``,
            all shares of 1.
        ax: axes of your own.

    Raises:
        ValueError: for a missing column, an empty table, two rows for one point, or NaN.
    """
    require(overlaps, ["fraction", "task_x", "task_y"], ["iou", "expected_iou"])
    pairs = overlaps["task_x"].map(spaced) + " \u2013 " + overlaps["task_y"].map(spaced)
    percent = overlaps.assign(
        pair=pairs, iou=100 * overlaps["iou"], expected_iou=100 * overlaps["expected_iou"]
    )
    canvas = panels([""], ax=ax)
    (axes,) = canvas.panels
    styles = numbered(pairs)
    if len(styles) > CROWD:
        draw_crowd(axes, percent, "pair", "fraction", "iou", factor=100.0, what="pairs")
        chance = percent.groupby("fraction")["expected_iou"].mean()
        axes.plot(100 * np.asarray(chance.index), chance, ":", color=GREY, label="chance, mean")
    else:
        draw_lines(axes, percent, ("pair", "fraction", "iou"), styles, factor=100.0)
        for k, (name, style) in enumerate(styles.items()):
            rows = percent[percent["pair"] == name].sort_values("fraction")
            axes.plot(
                100 * rows["fraction"], rows["expected_iou"], ":", color=style.colour,
                linewidth=1.2, label="by chance" if k == 0 else "",
            )  # fmt: skip
    _share_axis(axes, overlaps["fraction"])
    canvas.label("neurons taken per task (% of all)", "shared neurons (% of those in either)")
    canvas.legend(list(styles))
    canvas.title("How many neurons tasks share, against how many are taken")
    return canvas.figure


def controlled_overlap_curves(table: pd.DataFrame, *, ax: Own = None) -> Figure:
    """Draw the score against an overlap that was set, at fixed shares (Tables 9 to 11).

    One line per share of trained neurons, one panel per pair of groups.

    Args:
        table: rows with ``fraction`` (share of neurons trained), ``overlap`` (with the test
            task's neurons), ``score, low, high`` (all shares of 1; low and high may be NaN), and
            if there are several ``train_group`` and ``test_group``; if at hand ``metric``.
        ax: axes of your own, one for each panel.

    Raises:
        ValueError: for a missing column, an empty table, two rows for one point, or NaN.
    """
    require_table(table, ["fraction", "overlap", "score"])
    split = [name for name in ("train_group", "test_group") if name in table.columns]
    require(table, [*split, "fraction", "overlap"], ["score"], also=["low", "high"])
    labels = table["fraction"].map(lambda share: f"{100 * share:g}% of neurons trained")
    percent = _percent(table).assign(line=labels)
    styles = numbered(percent.sort_values("fraction")["line"])
    parts = list(groups(percent, split))
    canvas = panels([name for name, _ in parts], ax=ax)
    for axes, (_, part) in zip(canvas.panels, parts, strict=True):
        draw_lines(axes, part, ("line", "overlap", "score"), styles, factor=100.0, dodge=0.8)
        _share_axis(axes, table["overlap"])
    canvas.label("trained neurons that are the test task's (%)", f"{metric_names(table)} (%)")
    canvas.legend()
    canvas.title(_told("Transfer at a set overlap and a fixed share", table))
    return canvas.figure


def forgetting_curves(table: pd.DataFrame, *, ax: Own = None) -> Figure:
    """Draw what is left of the earlier tasks after each stage of a sequence (Figure 4).

    Args:
        table: rows with ``method, stage`` (a whole number; the first stage has nothing to
            forget) and ``fg, low, high``: the mean of a(i, j) / A(i) over the tasks i before
            stage j, as a share of 1 (low and high may be NaN).
        ax: axes of your own.

    Raises:
        ValueError: for a missing column, an empty table, two rows for one point, or NaN.
    """
    require(table, ["method", "stage"], ["fg"], also=["low", "high"])
    percent = _percent(table, "fg")
    styles = numbered(table["method"])
    canvas = panels([""], ax=ax)
    (axes,) = canvas.panels
    draw_lines(axes, percent, ("method", "stage", "fg"), styles, dodge=0.5 / len(styles))
    axes.axhline(100, color=GREY, linewidth=0.8, linestyle="--")
    axes.set_xticks(sorted(table["stage"].unique()))
    canvas.label("tasks learned so far", "score kept (% of learned alone)")
    canvas.legend()
    told = _told("What is left of earlier tasks after each stage", table)
    canvas.title(told, described(table))
    return canvas.figure


def _percent(table: pd.DataFrame, value: str = "score") -> pd.DataFrame:
    return table.assign(**{name: 100 * table[name] for name in (value, "low", "high")})


def _told(text: str, table: pd.DataFrame) -> str:
    """The title says that there are intervals where there are: one run alone has none."""
    return f"{text}, and 95% intervals" if table["low"].notna().any() else text


def _tested(name: object, kind: str) -> str:
    return f"tested: {spaced(name)}, {kind}" if name else kind


def _share_axis(axes: Axes, shares: pd.Series) -> None:
    """A tick where the table has a point."""
    at = sorted(100 * shares.unique())
    axes.set_xticks(at, [f"{place:g}" for place in at])
