"""The one look of every figure: sizes, colours, names, saving."""

import os
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from tl_taskneurons.runtime.atomic import write_atomically
from tl_taskneurons.runtime.errors import InputError, InputTypeError

INK = "#222222"
GREY = "#9a9a9a"
PALE = "#e6e6e6"
# Points. Figures are at most 7.6 inches wide unless a matrix needs more.
TITLE, LABEL, TICK, SMALL = 11.0, 9.5, 8.5, 6.6
WIDTH = 7.6
DPI = 160
# Matplotlib would write the time into a PDF, and the same figure would differ from run to run.
_FORMATS: dict[str, dict[str, Any]] = {
    ".png": {"dpi": DPI},
    ".pdf": {"metadata": {"CreationDate": None}},
}
# After Okabe and Ito, without the yellow that white paper swallows. Colour and marker together
# tell lines apart, so that a grey print does too.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", INK)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", "--", ":")
_METRICS = {"accuracy": "accuracy", "exact_match": "exact match", "rougeL": "ROUGE-L"}


@dataclass(frozen=True)
class Style:
    """How one line is drawn."""

    colour: str
    marker: str
    dash: str

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of ``plot`` and ``errorbar``."""
        return {
            "color": self.colour, "marker": self.marker, "linestyle": self.dash,
            "linewidth": 1.6, "markersize": 4.5, "markeredgewidth": 1.0,
            "markerfacecolor": self.colour if self.dash == "-" else "white",
        }  # fmt: skip


def line_style(k: int) -> Style:
    """Return the style of the k-th line; up to 21 lines differ."""
    cycle, place = divmod(k, len(_COLOURS))
    return Style(_COLOURS[place], _MARKERS[place], _DASHES[cycle % len(_DASHES)])


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG or PDF, by the suffix, atomically.

    The same figure gives the same bytes: its layout is settled at the first saving and kept. Text
    in a PDF stays text.

    Raises:
        TypeError: for what is no path, or no figure.
        ValueError: for another suffix.
    """
    if not isinstance(figure, Figure):
        raise InputTypeError(
            f"figure is {figure!r} ({type(figure).__name__}); give what a function of plots made."
        )
    if not isinstance(path, str | os.PathLike):
        raise InputTypeError(f"path is {path!r}; give a file name that ends in .png or .pdf.")
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise InputError(f"{path} ends in {suffix!r}; use one of {list(_FORMATS)}.")
    options = _FORMATS[suffix]
    # Laying out again, from what the last time gave, would move things by fractions of a point.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # pyright: ignore[reportArgumentType] - not in the stubs
    with mpl.rc_context({"pdf.fonttype": 42}):
        write_atomically(
            path,
            lambda temporary: figure.savefig(temporary, format=suffix.removeprefix("."), **options),
        )


def plain_look(axes: Axes) -> None:
    """Take away what distracts."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
    axes.tick_params(labelsize=TICK, color=GREY, labelcolor=INK)


def by_doubling(axes: Axes) -> None:
    """Count along x in doublings, in plain numbers."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def signed(value: float, digits: int) -> str:
    """Return the number with its sign, a true minus, and no sign on zero."""
    text = f"{value:+.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "\u2212")


def spaced(name: object) -> str:
    """Return a task's name with spaces."""
    return str(name).replace("_", " ")


def broken(name: object) -> str:
    """Return a task's name in short lines."""
    return textwrap.fill(spaced(name), 11)


def metric_names(frame: pd.DataFrame) -> str:
    """Name the metrics of a table, or say ``score`` where it has no such column."""
    if "metric" not in frame.columns:
        return "score"
    return " / ".join(_METRICS.get(str(name), str(name)) for name in frame["metric"].unique())


def described(frame: pd.DataFrame) -> str:
    """Say which neurons a table is about, where it says so."""
    if "selection" not in frame.columns or "fraction" not in frame.columns:
        return ""
    return describe(frame["selection"].iloc[0], float(frame["fraction"].iloc[0]))


def describe(selection: str, fraction: float) -> str:
    """Say in a few words which neurons a selection takes."""
    top = f"top {100 * fraction:g}%"
    return {
        "plain": f"Plain: the {top} of each task",
        "exclusive": f"Exclusive: in the {top} of this task alone",
        "exclude": f"Exclude: {top}, none of other tasks' {top}",
        "difference": f"Difference: {top} by score beyond other tasks'",
        "found": "Found: few neurons that take the task and spare the others",
        "rank": f"Rank: {top} by rank beyond other tasks'",
    }.get(selection, f"{top}, {selection}")
