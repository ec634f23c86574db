"""Every neuron's score: layers down, neurons across."""

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from tl_taskneurons.plots.canvas import Own, single
from tl_taskneurons.plots.look import INK, LABEL, PALE, WIDTH, plain_look
from tl_taskneurons.plots.tables import require

# Columns of pixels at most; of neighbours that share one the largest size is drawn.
_COLUMNS = 512


def score_map(scores: pd.DataFrame, *, name: str = "", ax: Own = None) -> Figure:
    """Draw the size of every neuron's score on a logarithmic scale over four decades.

    Of a part of the layers or neurons, the map goes from the first to the last; what lies between
    and isn't in the table stays grey.

    Args:
        scores: ``NeuronScores.to_frame()``: ``layer, neuron, score``.
        name: the task, for the title.
        ax: axes of your own.

    Returns:
        The figure; with ``ax``, the one that it belongs to.

    Raises:
        ValueError: for a missing column, an empty table, a neuron twice, or what is no number.
    """
    require(scores, ["layer", "neuron"], ["layer", "neuron", "score"])
    layers, neurons = (_span(scores[name]) for name in ("layer", "neuron"))
    table = scores.pivot(index="layer", columns="neuron", values="score").abs()
    sizes = table.reindex(index=layers, columns=neurons).to_numpy(dtype=float)
    step = -(-sizes.shape[1] // _COLUMNS)
    edges = np.arange(0, sizes.shape[1], step)
    shown = np.fmax.reduceat(sizes, edges, axis=1)
    largest = float(np.nanmax(shown)) or 1.0
    canvas = single(WIDTH, 1.4 + 0.09 * len(shown), ax)
    (axes,) = canvas.panels
    image = axes.imshow(
        np.maximum(shown, 1e-4 * largest), aspect="auto", cmap="Purples",
        norm=LogNorm(1e-4 * largest, largest), interpolation="nearest",
        extent=(neurons[0] - 0.5, neurons[-1] + 0.5, layers[-1] + 0.5, layers[0] - 0.5),
    )  # fmt: skip
    axes.set_facecolor(PALE)
    axes.locator_params(axis="y", integer=True)
    axes.set_xlabel("neuron", fontsize=LABEL, color=INK)
    axes.set_ylabel("layer", fontsize=LABEL, color=INK)
    plain_look(axes)
    canvas.colour_bar(image, "size of the score")
    canvas.title(f"Scores of all neurons{f' for {name}' if name else ''}")
    return canvas.figure


def _span(column: pd.Series) -> range:
    return range(int(column.min()), int(column.max()) + 1)
