"""Where a figure is drawn: panels of its own, or axes that the caller lends."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage

from tl_taskneurons.plots.look import (
    DPI,
    GREY,
    INK,
    LABEL,
    PALE,
    TICK,
    TITLE,
    WIDTH,
    plain_look,
    spaced,
)
from tl_taskneurons.runtime.errors import InputError, InputTypeError

# Axes of the caller's, one for each panel; None makes a figure.
Own = Axes | Iterable[Axes] | np.ndarray | None


class Picture(Figure):
    """A figure that a notebook shows where a cell ends with it.

    pyplot doesn't know it, so that nothing else shows it a second time.
    """

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=DPI)
        width, height = (round(self.dpi * inches) for inches in self.get_size_inches())
        return buffer.getvalue(), {"width": width, "height": height}


@dataclass(frozen=True)
class Canvas:
    """The panels of a figure.

    Attributes:
        figure: the figure.
        panels: its axes, without colour bars.
        is_lent: whether they are the caller's, so that what lies around them is not ours.
    """

    figure: Figure
    panels: list[Axes]
    is_lent: bool = False

    def label(self, x: str, y: str) -> None:
        """Name the axes: x below the lowest panel of each column, y once at the left."""
        n_columns = 1 if self.is_lent else _n_columns(len(self.panels))
        room = int(self.figure.get_size_inches()[0] / n_columns * 12)
        for axes in self.panels if self.is_lent else self.panels[-n_columns:]:
            axes.set_xlabel(textwrap.fill(x, room), fontsize=LABEL, color=INK)
        if self.is_lent:
            for axes in self.panels:
                axes.set_ylabel(y, fontsize=LABEL, color=INK)
        elif len(self.panels) == n_columns:
            self.panels[0].set_ylabel(y, fontsize=LABEL, color=INK)
        else:
            self.figure.supylabel(y, fontsize=LABEL, color=INK)

    def title(self, text: str, note: str = "") -> None:
        """Say what the figure shows, in lines that fit its width; the note stands below.

        Lent axes get the text alone, and where they have a heading already, none.
        """
        if self.is_lent:
            if len(self.panels) == 1 and not _heading(self.panels[0]):
                self.panels[0].set_title(text, fontsize=LABEL, loc="left", color=INK)
            return
        room = int(self.figure.get_size_inches()[0] * 12)
        lines = [textwrap.fill(line, room) for line in (text, note) if line]
        self.figure.suptitle("\n".join(lines), fontsize=TITLE, x=0.01, ha="left", color=INK)

    def legend(self, order: Sequence[str] = ()) -> None:
        """Draw one legend for all panels, with each label once, those of ``order`` first.

        It stands below the panels, in a figure that grows by what it needs; of lent axes in the
        last.
        """
        found: dict[str, Any] = {}
        for axes in self.panels:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                found.setdefault(label, handle)
        labels = [label for label in order if label in found]
        labels += [label for label in found if label not in labels]
        handles = [found[label] for label in labels]
        if self.is_lent:
            self.panels[-1].legend(
                handles, labels, frameon=False, fontsize=TICK - 1, labelcolor=INK
            )
            return
        width, height = self.figure.get_size_inches()
        room = int(width / (0.55 + 0.065 * max(len(label) for label in labels)))
        n_columns = max(1, min(room, len(labels)))
        self.figure.set_size_inches(width, height + 0.1 + 0.2 * -(-len(labels) // n_columns))
        self.figure.legend(
            handles, labels, loc="outside lower center", frameon=False, fontsize=TICK,
            ncols=n_columns, labelcolor=INK,
        )  # fmt: skip

    def colour_bar(
        self, image: AxesImage, label: str, panels: Sequence[Axes] | None = None
    ) -> None:
        """Draw the scale of a heatmap beside its panels, by default all."""
        beside = list(self.panels if panels is None else panels)
        scale = self.figure.colorbar(image, ax=beside, pad=0.02, aspect=28, fraction=0.05)
        room = max(12, int((self.figure.get_size_inches()[1] - 0.75) * 16))
        scale.set_label(textwrap.fill(label, room), fontsize=TICK, color=INK)
        for spine in scale.ax.spines.values():
            spine.set_visible(False)
        scale.ax.tick_params(labelsize=TICK - 0.5, color=GREY, labelcolor=INK)


def new_figure(width: float, height: float) -> Picture:
    """Return an empty figure, sizes in inches, that makes room for its labels."""
    return Picture(figsize=(width, height), layout="constrained", facecolor="white")


def single(width: float, height: float, ax: Own) -> Canvas:
    """Return a figure with one panel, sizes in inches, or the axes that were lent."""
    if ax is not None:
        return lent(ax, [""])
    figure = new_figure(width, height)
    return Canvas(figure, [figure.subplots()])


def panels(names: Sequence[str], *, height: float = 2.1, ax: Own = None) -> Canvas:
    """Return a figure with one panel per name, at most three side by side, on one y scale.

    A single panel is larger; an empty name gives no heading.

    Args:
        names: the headings.
        height: of a row of panels, in inches.
        ax: the caller's axes, to draw there instead.
    """
    if ax is not None:
        canvas = lent(ax, names)
        for axes, name in zip(canvas.panels, names, strict=True):
            _dress(axes, spaced(name))
        return canvas
    n_columns = _n_columns(len(names))
    n_rows = -(-len(names) // n_columns)
    height *= 1.3 if n_columns == 1 else 1
    figure = new_figure(5.6 if n_columns == 1 else WIDTH, 0.9 + height * n_rows)
    rows = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False)
    grid = [axes for row in rows for axes in row]
    room = int(figure.get_size_inches()[0] / n_columns * 12)
    for axes, name in zip(grid, names, strict=False):
        _dress(axes, textwrap.fill(spaced(name), room))
    for axes in grid[len(names) :]:
        axes.remove()
    return Canvas(figure, grid[: len(names)])


def lent(ax: Own, names: Sequence[str]) -> Canvas:
    """Return the caller's axes, one for each panel.

    Raises:
        TypeError: for what is no axes.
        ValueError: for too few or too many, with the panels that there are.
    """
    # subplots returns rows of panels as an array.
    listed: list[Any] = list(np.ravel(np.asarray(ax, dtype=object)))
    for one in listed:
        if not isinstance(one, Axes):
            raise InputTypeError(
                f"ax is {str(ax)[:60]!r} ({type(ax).__name__}); give matplotlib axes, as "
                "figure.subplots() returns them."
            )
    if len(listed) != len(names):
        told = f": {', '.join(map(str, names))}" if any(names) else ""
        raise InputError(
            f"ax has {len(listed)} axes, and this makes {len(names)} panels{told}; give one axes "
            "for each, or a table with less in it."
        )
    figure: Any = listed[0].figure
    while isinstance(figure, SubFigure):
        figure = figure.figure
    return Canvas(figure, listed, is_lent=True)


def _heading(axes: Axes) -> str:
    return axes.get_title() or axes.get_title(loc="left")


def _dress(axes: Axes, heading: str) -> None:
    if heading:
        axes.set_title(heading, fontsize=LABEL, loc="left", color=INK)
    plain_look(axes)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=PALE, linewidth=0.8)


def _n_columns(n_panels: int) -> int:
    return {1: 1, 2: 2, 4: 2}.get(n_panels, 3)
