"""The demo's figures: two selections side by side, and what a search found beside them."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tl_taskneurons.plots.canvas import Canvas, Own, lent, new_figure
from tl_taskneurons.plots.layers import LAYER_LABELS, check_layers, draw_layers
from tl_taskneurons.plots.lines import draw_lines, numbered
from tl_taskneurons.plots.look import (
    INK,
    LABEL,
    PALE,
    TICK,
    TITLE,
    by_doubling,
    described,
    plain_look,
    spaced,
)
from tl_taskneurons.plots.matrices import change_label, change_limit, check_changes, draw_changes
from tl_taskneurons.plots.tables import require
from tl_taskneurons.runtime.errors import InputError


def demo_figure(
    layers: pd.DataFrame,
    matrix: pd.DataFrame,
    selections: tuple[str, str] = ("plain", "exclusive"),
    column: str = "change",
    *,
    ax: Own = None,
) -> Figure:
    """Draw critical beside specific: where the neurons are, and what silencing each set does.

    Left, the share of each task's neurons by layer, for both selections; middle and right, the
    deactivation matrices of both on one colour scale.

    Args:
        layers: rows with ``selection, task, layer, share``.
        matrix: ``deactivation_matrix`` tables with a column ``selection``.
        selections: which selection stands in the middle, and which on the right.
        column: as in ``deactivation_heatmap``.
        ax: four axes of your own: layers of both selections, then matrices of both.

    Raises:
        ValueError: when a table has no rows of a selection, or for what the others refuse.
    """
    parts = [
        (_of_selection("layers", layers, name), _of_selection("matrix", matrix, name))
        for name in selections
    ]
    for shares, changes in parts:
        check_layers(shares, "share")
        check_changes(changes, "silenced", column)
    both = pd.concat([changes for _, changes in parts])
    n_tasks = both["task"].nunique()
    # Long names stand left of the layers and take their room.
    names = 0.07 * max(0, max(both["task"].str.len()) - 14)
    if ax is not None:
        canvas = lent(
            ax, [f"{what} of {name}" for what in ("layers", "matrix") for name in selections]
        )
    else:
        figure = new_figure(5.3 + names + 1.84 * n_tasks, 2.1 + 0.62 * n_tasks)
        grid = figure.add_gridspec(2, 3, width_ratios=(3.4 + names, *[0.95 * n_tasks] * 2))
        places = (grid[0, 0], grid[1, 0], grid[:, 1], grid[:, 2])
        canvas = Canvas(figure, [figure.add_subplot(place) for place in places])
    left, right = canvas.panels[:2], canvas.panels[2:]
    limit = change_limit(both, column)
    top = max(float(shares["share"].max()) for shares, _ in parts)
    for k, (shares, changes) in enumerate(parts):
        image = draw_layers(left[k], shares, "share", top=top)
        left[k].set_title(described(shares), fontsize=LABEL, loc="left", color=INK)
        cells = draw_changes(right[k], changes, "silenced", column, limit, name_rows=k == 0)
        right[k].set_title(described(changes), fontsize=LABEL, loc="left", color=INK)
        if k == 1:
            canvas.colour_bar(image, LAYER_LABELS["share"], left)
            canvas.colour_bar(cells, change_label(both, column), right)
    left[0].set_xlabel("")
    if ax is None:
        canvas.figure.suptitle(
        "Where each task's neurons lie (left), and what silencing them changes on every task",
        fontsize=TITLE + 1, x=0.01, ha="left", color=INK, fontweight="bold",
    )  # fmt: skip
    return canvas.figure


def found_figure(
    matrix: pd.DataFrame,
    curve: pd.DataFrame,
    selections: tuple[str, str, str] = ("plain", "exclusive", "found"),
    column: str = "change",
    *,
    ax: Own = None,
) -> Figure:
    """Draw what silencing two selections does, and beside them the few neurons of a search.

    Left and middle, the deactivation matrices of the selections; right, on the same scale, that of
    the neurons found for one task, and below what the growing set took and harmed.

    Args:
        matrix: ``deactivation_matrix`` tables with a column ``selection``.
        curve: ``FoundNeurons.curve``.
        selections: what stands left, in the middle, and right.
        column: as in ``deactivation_heatmap``.
        ax: four axes of your own: the three matrices, then the curve.

    Raises:
        ValueError: when the matrix has no rows of a selection, or for what ``deactivation_heatmap``
            and ``search_curve`` refuse.
    """
    parts = [_of_selection("matrix", matrix, name) for name in selections]
    for part in parts:
        check_changes(part, "silenced", column)
    require(curve, [], ["n_neurons", "taken"], also=["harm", "kept"])
    if ax is not None:
        canvas = lent(ax, [*selections, "curve"])
    else:
        n_tasks = parts[0]["task"].nunique()
        figure = new_figure(2.6 + 3 * 1.02 * n_tasks, 2.0 + 0.72 * n_tasks)
        grid = figure.add_gridspec(n_tasks, 3)
        places = (grid[:, 0], grid[:, 1], grid[0, 2], grid[1:, 2])
        canvas = Canvas(figure, [figure.add_subplot(place) for place in places])
    limit = change_limit(pd.concat(parts), column)
    images = [
        draw_changes(axes, part, "silenced", column, limit, name_rows=k == 0)
        for k, (axes, part) in enumerate(zip(canvas.panels, parts, strict=False))
    ]
    for axes, name, part in zip(canvas.panels, selections, parts, strict=False):
        sizes = sorted({int(part["n_neurons"].min()), int(part["n_neurons"].max())})
        heading = f"{_SHORT.get(name, name)}: {' to '.join(f'{n:,}' for n in sizes)} neurons"
        axes.set_title(heading, fontsize=LABEL, loc="left", color=INK)
    if ax is None:
        canvas.panels[2].set_xlabel("")
        canvas.colour_bar(images[0], change_label(matrix, column), canvas.panels[:2])
        own = spaced(parts[2]["silenced"].iloc[0])
        canvas.figure.suptitle(
            f"What silencing a task's neurons changes; right, the few found for {own}",
            fontsize=TITLE + 1, x=0.01, ha="left", color=INK, fontweight="bold",
        )  # fmt: skip
    _draw_growth(canvas.panels[3], curve)
    return canvas.figure


_SHORT = {"plain": "Top 1% of each task", "exclusive": "In no other's top 1%", "found": "Found"}


def _draw_growth(axes: Axes, curve: pd.DataFrame) -> None:
    """Draw what the growing set takes of the task and costs the others, in percent and points."""
    grown = curve[(curve["step"] == "grow") & curve["kept"]].drop_duplicates("n_neurons")
    lines = [
        pd.DataFrame({"line": name, "n": grown["n_neurons"], "value": 100 * grown[column]})
        for name, column in (("taken of the task", "taken"), ("lost by the others", "harm"))
    ]
    frame = pd.concat(lines)
    draw_lines(axes, frame, ("line", "n", "value"), numbered(frame["line"]))
    plain_look(axes)
    by_doubling(axes)
    axes.set_ylim(-5, 105)
    axes.grid(axis="y", color=PALE, linewidth=0.8)
    axes.set_xlabel("neurons, while the set grows (training examples)", fontsize=LABEL, color=INK)
    axes.set_ylabel("%", fontsize=LABEL, color=INK)
    axes.legend(frameon=False, fontsize=TICK, labelcolor=INK)


def _of_selection(what: str, frame: pd.DataFrame, name: str) -> pd.DataFrame:
    if "selection" not in frame.columns or name not in set(frame["selection"]):
        raise InputError(f"The table {what} has no rows of the selection {name!r}.")
    return frame[frame["selection"] == name]
