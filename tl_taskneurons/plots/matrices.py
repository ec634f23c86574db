"""Matrices of tasks: deactivation, training, overlap. The diagonal is always framed.

In a matrix of changes red means that a task is hurt, blue that it gains.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from tl_taskneurons.plots.canvas import Own
from tl_taskneurons.plots.cells import ROOMY, frame_cell, matrix_canvas, name_cells, write_cell
from tl_taskneurons.plots.look import (
    INK,
    LABEL,
    PALE,
    described,
    signed,
)
from tl_taskneurons.plots.tables import grid, require, require_table
from tl_taskneurons.plots.units import unit_of
from tl_taskneurons.runtime.errors import InputError

_ROW_LABELS = {"silenced": "neurons silenced", "trained": "neurons trained"}


def deactivation_heatmap(
    matrix: pd.DataFrame, column: str = "loss_change", *, ax: Own = None
) -> Figure:
    """Draw silenced x evaluated tasks: the change of each, with its interval.

    With more than seven tasks a cell has no room for its interval; there, bold numbers are those
    whose interval excludes 0.

    Args:
        matrix: from ``deactivation_matrix``, of one selection: ``silenced, task`` and, for
            ``"change"``, ``metric, change, low, high`` (shares of 1, or in the metric's ``unit``;
            ``better`` is ``"lower"`` where a rise hurts), or, for ``"loss_change"``,
            ``loss_change, loss_low, loss_high`` (nats per token).
        column: ``"loss_change"`` (nats per token) or ``"change"`` (of the metric: in points for
            accuracy, exact match, ROUGE-L and probability, else in its unit).
        ax: axes of your own.

    Raises:
        ValueError: for an unknown column, a missing one, an empty table, two rows for one cell,
            a change that is NaN, or changes of metrics that are counted in different units.
    """
    return _change_heatmap(
        matrix, "silenced", column, "What silencing a task's neurons changes on every task", ax
    )


def training_heatmap(matrix: pd.DataFrame, column: str = "change", *, ax: Own = None) -> Figure:
    """Draw trained x evaluated tasks: the change of each when a task's neurons are trained.

    Args:
        matrix: like that of ``deactivation_heatmap``, with ``trained`` in place of ``silenced``.
        column: ``"change"`` (of the metric, as there) or ``"loss_change"`` (nats per token).
        ax: axes of your own.

    Raises:
        ValueError: as for ``deactivation_heatmap``.
    """
    return _change_heatmap(
        matrix, "trained", column, "What training a task's neurons changes on every task", ax
    )


def overlap_heatmap(overlaps: pd.DataFrame, *, ax: Own = None) -> Figure:
    """Draw which tasks share neurons: the overlap of each pair, and below it that of chance.

    A pair that stands in the table once is drawn on both sides of the diagonal. The diagonal
    has the size of each set where the table has it, and where two different sets have one name
    (``overlap(before, after)``) their overlap.

    Args:
        overlaps: from ``overlap``, at one share: ``task_x, task_y, iou, expected_iou`` (shares of
            1), and if at hand ``n_x, n_y``.
        ax: axes of your own.

    Raises:
        ValueError: for a missing column, an empty table, two rows for one pair, or NaN.
    """
    require(overlaps, ["task_x", "task_y"], ["iou", "expected_iou"])
    names = list(pd.unique(pd.concat([overlaps["task_x"], overlaps["task_y"]])))
    values, chance = (_both_sides(overlaps, name, names) for name in ("iou", "expected_iou"))
    # A set shares all with itself, which would be the end of the colour scale.
    np.fill_diagonal(values, np.where(values.diagonal() < 100, values.diagonal(), np.nan))
    sizes = _set_sizes(overlaps)
    canvas = matrix_canvas(len(names), len(names), ax)
    (axes,) = canvas.panels
    roomy = len(names) <= ROOMY
    top = float(np.nanmax(values)) if np.isfinite(values).any() else 0.0
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=top or 1.0, aspect="auto")
    axes.set_facecolor(PALE)
    for i, j in np.ndindex(*values.shape):
        ink = "white" if values[i, j] > 0.5 * top else INK
        if i == j:
            frame_cell(axes, i, j)
        if np.isfinite(values[i, j]):
            shown = f"{values[i, j]:.1f}", f"{chance[i, j]:.1f}"
            write_cell(axes, i, j, *shown, ink=ink, bold=True, roomy=roomy)
        elif i == j and names[i] in sizes:
            size = f"{sizes[names[i]]:,}"
            write_cell(axes, i, j, size, "neurons", ink=INK, bold=False, roomy=roomy)
    name_cells(axes, names, names)
    canvas.colour_bar(image, "shared neurons (% of those in either)")
    about = described(overlaps)
    note = f"{about}. In each cell" if about else "In each cell"
    canvas.title("Which tasks share neurons", f"{note}: overlap in %, below it that of chance")
    return canvas.figure


def check_changes(matrix: pd.DataFrame, rows: str, column: str) -> None:
    """Refuse a matrix of changes that cannot be drawn."""
    if column not in ("loss_change", "change"):
        raise InputError(f"column is {column!r}; use 'loss_change' or 'change'.")
    require_table(matrix, [rows, "task", column])
    if column == "change" and column in matrix.columns and matrix[column].isna().any():
        task = matrix[matrix[column].isna()]["task"].iloc[0]
        raise InputError(f"Task {task!r} has no score but its loss; use column='loss_change'.")
    also = ["low", "high"] if column == "change" else ["loss_low", "loss_high"]
    require(matrix, [rows, "task"], [column], also=also)
    _factor(matrix, column)


def change_limit(matrix: pd.DataFrame, column: str) -> float:
    """Return the end of a colour scale that has 0 in the middle."""
    largest = float(matrix[column].abs().max())
    return _factor(matrix, column) * largest or 1.0


def change_label(matrix: pd.DataFrame, column: str) -> str:
    """Say what a matrix of changes holds, with its unit."""
    if column == "loss_change":
        return "change of loss (nats per token)"
    return f"change of {unit_of(matrix).label('percentage points')}"


def draw_changes(
    axes: Axes,
    matrix: pd.DataFrame,
    rows: str,
    column: str,
    limit: float,
    *,
    name_rows: bool = True,
) -> AxesImage:
    """Draw a checked matrix of changes: red where it hurts, the diagonal framed.

    Args:
        axes: where.
        matrix: the table.
        rows: ``"silenced"`` or ``"trained"``.
        column: ``"change"`` or ``"loss_change"``.
        limit: the end of the colour scale.
        name_rows: label the rows; a second matrix beside the first does without.
    """
    low, high = ("low", "high") if column == "change" else ("loss_low", "loss_high")
    rise_hurts = column == "loss_change" or unit_of(matrix).less_is_better
    factor, map_name = _factor(matrix, column), "RdBu_r" if rise_hurts else "RdBu"
    table = factor * grid(matrix, rows, "task", column)
    # Columns in the order of the rows, so that a task's own cell lies on the diagonal.
    own = [name for name in table.index if name in table.columns]
    table = table[own + [name for name in table.columns if name not in own]]
    cells = {
        (row[rows], row["task"]): [factor * row[name] for name in (column, low, high)]
        for row in matrix.to_dict("records")
    }
    image = axes.imshow(table, cmap=map_name, vmin=-limit, vmax=limit, aspect="auto")
    axes.set_facecolor(PALE)
    digits = 0 if factor == 100 else 1 if limit >= 10 else 2
    roomy = max(table.shape) <= ROOMY
    for i, chosen in enumerate(table.index):
        for j, task in enumerate(table.columns):
            if chosen == task:
                frame_cell(axes, i, j)
            if (chosen, task) not in cells:
                continue
            value, start, end = cells[chosen, task]
            span = ""
            if roomy and np.isfinite(start):
                span = f"{signed(start, digits)} to {signed(end, digits)}"
            write_cell(
                axes, i, j, signed(value, digits), span,
                ink="white" if abs(value) > 0.62 * limit else INK,
                bold=roomy or start > 0 or end < 0, roomy=roomy,
            )  # fmt: skip
    name_cells(axes, list(table.index) if name_rows else [], list(table.columns))
    axes.set_xlabel("evaluated on", fontsize=LABEL, color=INK)
    if name_rows:
        axes.set_ylabel(_ROW_LABELS[rows], fontsize=LABEL, color=INK)
    return image


def _change_heatmap(matrix: pd.DataFrame, rows: str, column: str, text: str, ax: Own) -> Figure:
    check_changes(matrix, rows, column)
    shape = matrix[rows].nunique(), matrix["task"].nunique()
    canvas = matrix_canvas(*shape, ax)
    (axes,) = canvas.panels
    image = draw_changes(axes, matrix, rows, column, change_limit(matrix, column))
    canvas.colour_bar(image, change_label(matrix, column))
    note = described(matrix)
    if max(shape) > ROOMY:
        note = f"{note}; bold: the interval excludes 0" if note else "Bold: the interval excludes 0"
    canvas.title(text, note)
    return canvas.figure


def _factor(matrix: pd.DataFrame, column: str) -> int:
    """Return what changes are multiplied by: 100 for those of shares."""
    return 1 if column == "loss_change" else unit_of(matrix).factor


def _both_sides(overlaps: pd.DataFrame, column: str, names: list[str]) -> np.ndarray:
    """Return a symmetric matrix in %, from a table with each pair in one order or in both."""
    table = grid(overlaps, "task_x", "task_y", column).reindex(index=names, columns=names)
    return 100 * table.fillna(table.T).to_numpy(dtype=float)


def _set_sizes(overlaps: pd.DataFrame) -> dict[str, int]:
    if not {"n_x", "n_y"} <= set(overlaps.columns):
        return {}
    sizes = dict(zip(overlaps["task_y"], overlaps["n_y"], strict=True))
    return sizes | dict(zip(overlaps["task_x"], overlaps["n_x"], strict=True))
