"""The cells of a matrix of tasks: numbers, names, the frame of the diagonal."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from tl_taskneurons.plots.canvas import Canvas, Own, single
from tl_taskneurons.plots.look import (
    INK,
    LABEL,
    SMALL,
    TICK,
    broken,
    plain_look,
    spaced,
)

# More tasks than this leave no room for an interval in each cell.
ROOMY = 7
# A light edge, so that the diagonal's frame shows on dark cells too.
_HALO = withStroke(linewidth=4.5, foreground="white")


def matrix_canvas(n_rows: int, n_columns: int, ax: Own) -> Canvas:
    """Return a panel with room for the cells and their names, or the axes that were lent."""
    if max(n_rows, n_columns) > ROOMY:
        return single(2.6 + 0.56 * n_columns, 2.2 + 0.36 * n_rows, ax)
    return single(2.9 + 1.02 * n_columns, 1.7 + 0.72 * n_rows, ax)


def write_cell(
    axes: Axes, i: int, j: int, number: str, below: str, *, ink: str, bold: bool, roomy: bool
) -> None:
    """Write a cell's number, and smaller what stands below it.

    Args:
        axes: of the matrix.
        i: the row.
        j: the column.
        number: what the cell says.
        below: a second line, or ``""``.
        ink: the colour of both.
        bold: the number in bold.
        roomy: cells are large.
    """
    axes.text(
        j, i - 0.12 if below else i, number, ha="center", va="center", color=ink,
        fontsize=LABEL + 1 if roomy else TICK, fontweight="bold" if bold else "normal",
    )  # fmt: skip
    if below:
        axes.text(j, i + 0.25, below, ha="center", va="center", color=ink, fontsize=SMALL)


def frame_cell(axes: Axes, i: int, j: int) -> None:
    """Draw a frame around a cell."""
    axes.add_patch(
        Rectangle(
            (j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=INK, linewidth=2.2, zorder=3,
            clip_on=False, path_effects=[_HALO],
        )
    )  # fmt: skip


def name_cells(axes: Axes, rows: list[str], columns: list[str]) -> None:
    """Name rows and columns, and part the cells by white lines; without rows they stay unnamed."""
    if len(columns) > ROOMY:
        axes.set_xticks(
            range(len(columns)), [spaced(name) for name in columns], rotation=40, ha="right",
            rotation_mode="anchor",
        )  # fmt: skip
        axes.set_yticks(range(len(rows)), [spaced(name) for name in rows])
    else:
        axes.set_xticks(range(len(columns)), [broken(name) for name in columns])
        axes.set_yticks(range(len(rows)), [broken(name) for name in rows])
    bottom, top = axes.get_ylim()
    axes.set_xticks(np.arange(len(columns) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(round(bottom - top) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    plain_look(axes)
    axes.tick_params(which="both", length=0)
