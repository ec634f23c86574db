"""The demo's figure: two selections of neurons side by side."""

import pandas as pd
from matplotlib.figure import Figure

from tl_taskneurons.plots.canvas import Canvas, Own, lent, new_figure
from tl_taskneurons.plots.layers import LAYER_LABELS, check_layers, draw_layers
from tl_taskneurons.plots.look import INK, LABEL, TITLE, described
from tl_taskneurons.plots.matrices import change_label, change_limit, check_changes, draw_changes
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
    for name in selections:
        for title, frame in (("layers", layers), ("matrix", matrix)):
            if "selection" not in frame.columns or name not in set(frame["selection"]):
                raise InputError(f"The table {title} has no rows of the selection {name!r}.")
    parts = [
        (layers[layers["selection"] == name], matrix[matrix["selection"] == name])
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
