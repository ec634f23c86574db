"""Does a score predict what silencing does? Neuron by neuron, and set by set."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle

from tl_taskneurons.plots.canvas import Own, panels
from tl_taskneurons.plots.look import GREY, line_style
from tl_taskneurons.plots.tables import groups, require, require_table
from tl_taskneurons.runtime.errors import InputError

_SAMPLES = {
    "random": ("neurons drawn at random", line_style(4)),
    "top": ("neurons with the highest scores", line_style(1)),
}
_SETS = {"true": ("measured", line_style(0)), "predicted": ("predicted", line_style(1))}


def faithfulness_scatter(neurons: pd.DataFrame, *, ax: Own = None) -> Figure:
    """Draw the predicted against the exact effect of silencing each neuron of a sample.

    Both axes are logarithmic down to the smallest effect above 0, or a millionth of the largest if
    that is more, and linear from there to 0. On the dashed line both are equal.

    Args:
        neurons: ``Faithfulness.neurons``: ``layer, neuron, score, exact`` (nats, at least 0) and
            ``sample`` (``"top"`` or ``"random"``); one panel per ``method`` and ``task`` where it
            has these columns.
        ax: axes of your own, one for each panel.

    Raises:
        ValueError: for a missing column, an empty table, a neuron twice, an effect that is NaN or
            below 0, or an unknown sample.
    """
    require_table(neurons, ["layer", "neuron", "sample", "score", "exact"])
    split = [name for name in ("method", "task") if name in neurons.columns]
    require(neurons, [*split, "layer", "neuron", "sample"], ["score", "exact"])
    unknown = sorted(set(neurons["sample"]) - set(_SAMPLES))
    if unknown:
        raise InputError(f"The samples {unknown} are unknown; use {list(_SAMPLES)}.")
    both = neurons[["score", "exact"]].to_numpy(dtype=float)
    if (both < 0).any():
        raise InputError(f"The smallest effect is {both.min():g}; effects here are at least 0.")
    largest = float(both.max()) or 1.0
    smallest = max(float(both[both > 0].min(initial=largest)), 1e-6 * largest)
    parts = list(groups(neurons, split, joint=", "))
    canvas = panels([name for name, _ in parts], height=2.4, ax=ax)
    for axes, (_, part) in zip(canvas.panels, parts, strict=True):
        for sample, (label, style) in _SAMPLES.items():
            rows = part[part["sample"] == sample]
            axes.scatter(
                rows["score"], rows["exact"], s=14, color=style.colour, edgecolor="white",
                marker=MarkerStyle(style.marker), linewidth=0.3, label=label, zorder=3,
            )  # fmt: skip
        _log_scales(axes, smallest, largest)
    canvas.label("predicted effect (nats)", "exact effect (nats)")
    canvas.legend()
    canvas.title("Predicted and exact effect on the loss of silencing single neurons")
    return canvas.figure


def faithfulness_sets(sets: pd.DataFrame, *, ax: Own = None) -> Figure:
    """Draw the predicted and the measured change of the loss when whole sets are silenced.

    Args:
        sets: ``Faithfulness.sets``: ``fraction`` (of all neurons), ``predicted, true`` (nats);
            one panel per ``method`` and ``task`` where it has these columns.
        ax: axes of your own, one for each panel.

    Raises:
        ValueError: for a missing column, an empty table, two rows for one share, or NaN.
    """
    require_table(sets, ["fraction"], _SETS)
    split = [name for name in ("method", "task") if name in sets.columns]
    require(sets, [*split, "fraction"], list(_SETS))
    parts = list(groups(sets, split, joint=", "))
    canvas = panels([name for name, _ in parts], ax=ax)
    for axes, (_, part) in zip(canvas.panels, parts, strict=True):
        rows = part.sort_values("fraction")
        for column, (label, style) in _SETS.items():
            axes.plot(100 * rows["fraction"], rows[column], label=label, **style.options)
        axes.set_xscale("log")
        at = 100 * rows["fraction"]
        axes.set_xticks(at, [f"{place:g}" for place in at])
        axes.minorticks_off()
        axes.axhline(0, color=GREY, linewidth=0.8)
    canvas.label("neurons silenced (% of all)", "change of the loss (nats)")
    canvas.legend()
    canvas.title("Predicted and measured change of the loss when a set is silenced")
    return canvas.figure


def _log_scales(axes: Axes, smallest: float, largest: float) -> None:
    """Set both scales alike, with the line on which both effects are equal."""
    line = np.array([0.0, largest])
    axes.plot(line, line, color=GREY, linewidth=0.8, linestyle="--", zorder=1)
    decades = 10.0 ** np.arange(np.ceil(np.log10(3 * smallest)), np.ceil(np.log10(2 * largest)))
    ticks = [0.0, *decades[:: max(1, -(-len(decades) // 4))]]
    axes.set_xscale("symlog", linthresh=smallest, linscale=0.4)
    axes.set_yscale("symlog", linthresh=smallest, linscale=0.4)
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)
    axes.minorticks_off()
    axes.set_xlim(-0.25 * smallest, 2 * largest)
    axes.set_ylim(-0.25 * smallest, 2 * largest)
