"""The one look of every figure: sizes, colours, titles, legends, saving."""

import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from tl_taskneurons.runtime.atomic import write_atomically
from tl_taskneurons.runtime.errors import InputError

INK = "#222222"
GREY = "#9a9a9a"
PALE = "#e6e6e6"
# Points. Figures are at most 7.6 inches wide unless a matrix needs more.
TITLE, LABEL, TICK, SMALL = 11.0, 9.5, 8.5, 6.6
WIDTH = 7.6
_DPI = 160
# Matplotlib would write the time into a PDF, and the same figure would differ from run to run.
_FORMATS: dict[str, dict[str, Any]] = {
    ".png": {"dpi": _DPI},
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
        ValueError: for another suffix.
    """
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


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, sizes in inches, that makes room for its labels."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def panels(names: Sequence[str], *, height: float = 2.1) -> tuple[Figure, list[Axes]]:
    """Return a figure with one panel per name, at most three side by side, on one y scale.

    A single panel is larger; an empty name gives no heading.

    Args:
        names: the headings.
        height: of a row of panels, in inches.
    """
    n_columns = _n_columns(len(names))
    n_rows = -(-len(names) // n_columns)
    height *= 1.3 if n_columns == 1 else 1
    figure = new_figure(5.6 if n_columns == 1 else WIDTH, 0.9 + height * n_rows)
    rows = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False)
    grid = [axes for row in rows for axes in row]
    for axes, name in zip(grid, names, strict=False):
        if name:
            room = int(figure.get_size_inches()[0] / n_columns * 12)
            heading = textwrap.fill(spaced(name), room)
            axes.set_title(heading, fontsize=LABEL, loc="left", color=INK)
        plain_look(axes)
        axes.set_axisbelow(True)
        axes.grid(axis="y", color=PALE, linewidth=0.8)
    for axes in grid[len(names) :]:
        axes.remove()
    return figure, grid[: len(names)]


def plain_look(axes: Axes) -> None:
    """Take away what distracts."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
    axes.tick_params(labelsize=TICK, color=GREY, labelcolor=INK)


def label_axes(figure: Figure, drawn: Sequence[Axes], x: str, y: str) -> None:
    """Name the axes of all panels: x below the lowest of each column, y once at the left."""
    n_columns = _n_columns(len(drawn))
    room = int(figure.get_size_inches()[0] / n_columns * 12)
    for axes in drawn[-n_columns:]:
        axes.set_xlabel(textwrap.fill(x, room), fontsize=LABEL, color=INK)
    if len(drawn) == n_columns:
        drawn[0].set_ylabel(y, fontsize=LABEL, color=INK)
    else:
        figure.supylabel(y, fontsize=LABEL, color=INK)


def title(figure: Figure, text: str, note: str = "") -> None:
    """Say what the figure shows, in lines that fit its width; the note stands below."""
    room = int(figure.get_size_inches()[0] * 12)
    lines = [textwrap.fill(line, room) for line in (text, note) if line]
    figure.suptitle("\n".join(lines), fontsize=TITLE, x=0.01, ha="left", color=INK)


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Put the legend below the panels, and make the figure taller by what it needs."""
    width, height = figure.get_size_inches()
    room = int(width / (0.55 + 0.065 * max(len(label) for label in labels)))
    n_columns = max(1, min(room, len(labels)))
    figure.set_size_inches(width, height + 0.1 + 0.2 * -(-len(labels) // n_columns))
    figure.legend(
        list(handles), list(labels), loc="outside lower center", frameon=False, fontsize=TICK,
        ncols=n_columns, labelcolor=INK,
    )  # fmt: skip


def colour_bar(figure: Figure, image: AxesImage, axes: list[Axes], label: str) -> None:
    """Draw the scale of a heatmap beside its axes."""
    scale = figure.colorbar(image, ax=axes, pad=0.02, aspect=28, fraction=0.05)
    room = int((figure.get_size_inches()[1] - 0.75) * 16)
    scale.set_label(textwrap.fill(label, room), fontsize=TICK, color=INK)
    for spine in scale.ax.spines.values():
        spine.set_visible(False)
    scale.ax.tick_params(labelsize=TICK - 0.5, color=GREY, labelcolor=INK)


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
        "rank": f"Rank: {top} by rank beyond other tasks'",
    }.get(selection, f"{top}, {selection}")


def _n_columns(n_panels: int) -> int:
    return {1: 1, 2: 2, 4: 2}.get(n_panels, 3)
