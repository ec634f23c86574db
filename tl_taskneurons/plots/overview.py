"""The demo's figure: two selections of neurons side by side."""

import pandas as pd
from matplotlib.figure import Figure

from tl_taskneurons.plots.layers import LAYER_LABELS, check_layers, draw_layers
from tl_taskneurons.plots.look import INK, LABEL, TITLE, colour_bar, described, new_figure
from tl_taskneurons.plots.matrices import change_label, change_limit, check_changes, draw_changes
from tl_taskneurons.runtime.errors import InputError


def demo_figure(
    layers: pd.DataFrame,
    matrix: pd.DataFrame,
    selections: tuple[str, str] = ("plain", "exclusive"),
    column: str = "change",
) -> Figure:
    """Draw critical beside specific: where the neurons are, and what silencing each set does.

    Left, the share of each task's neurons by layer, for both selections; middle and right, the
    deactivation matrices of both on one colour scale.

    Args:
        layers: rows with ``selection, task, layer, share``.
        matrix: ``deactivation_matrix`` tables with a column ``selection``.
        selections: which selection stands in the middle, and which on the right.
        column: as in ``deactivation_heatmap``.

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
    figure = new_figure(5.3 + names + 1.84 * n_tasks, 2.1 + 0.62 * n_tasks)
    grid = figure.add_gridspec(2, 3, width_ratios=(3.4 + names, 0.95 * n_tasks, 0.95 * n_tasks))
    left = [figure.add_subplot(grid[row, 0]) for row in range(2)]
    right = [figure.add_subplot(grid[:, column]) for column in (1, 2)]
    limit = change_limit(both, column)
    top = max(float(shares["share"].max()) for shares, _ in parts)
    for k, (shares, changes) in enumerate(parts):
        image = draw_layers(left[k], shares, "share", top=top)
        left[k].set_title(described(shares), fontsize=LABEL, loc="left", color=INK)
        cells = draw_changes(right[k], changes, "silenced", column, limit, name_rows=k == 0)
        right[k].set_title(described(changes), fontsize=LABEL, loc="left", color=INK)
        if k == 1:
            colour_bar(figure, image, left, LAYER_LABELS["share"])
            colour_bar(figure, cells, right, change_label(both, column))
    left[0].set_xlabel("")
    figure.suptitle(
        "Where each task's neurons lie (left), and what silencing them changes on every task",
        fontsize=TITLE + 1, x=0.01, ha="left", color=INK, fontweight="bold",
    )  # fmt: skip
    return figure
