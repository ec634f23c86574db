"""For the tests of figures: tables to draw, and what a figure has drawn."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from tl_taskneurons import plots

FRACTIONS = (0.1, 0.3, 0.5, 0.7, 1.0)


def images(figure: Figure) -> list[Any]:
    return [image for axes in figure.axes for image in axes.get_images()]


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def lines(axes: Any) -> dict[str, np.ndarray]:
    """The points of each labelled line, ``[2, point]``."""
    return {
        line.get_label(): np.array(line.get_data(), dtype=float)
        for line in axes.get_lines()
        if not line.get_label().startswith("_")
    }


def bars(axes: Any) -> list[Any]:
    return list(axes.patches)


def intervals(axes: Any) -> list[np.ndarray]:
    """The ends of each line's intervals, ``[point, 2]``, in the order of drawing."""
    return [
        np.array(found.get_segments())[:, :, 1]
        for found in axes.collections
        if isinstance(found, LineCollection)
    ]


def heading(figure: Any) -> str:
    return figure.get_suptitle()


def y_label(figure: Any) -> str:
    """The label that all rows of panels share."""
    return figure.get_supylabel()


def clipped(figure: Any) -> list[str]:
    """The texts that do not lie within the figure, after drawing."""
    FigureCanvasAgg(figure).draw()
    width, height = figure.get_size_inches() * figure.dpi
    shown: list[Any] = [*figure.texts, *figure.legends]
    for axes in figure.axes:
        parts: Any = axes
        shown += [*parts.texts, parts.title, parts._left_title]
        for axis in (parts.xaxis, parts.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            shown += [axis.label, *(tick.label1 for tick in ticks)]
    found = []
    for artist in shown:
        name = artist.get_text() if hasattr(artist, "get_text") else "legend"
        if name and artist.get_visible():
            box = artist.get_window_extent()
            if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1:
                found.append(name)
    return found


def with_interval(frame: pd.DataFrame, value: str = "score") -> pd.DataFrame:
    return frame.assign(low=frame[value] - 0.04, high=frame[value] + 0.05)


def share_table() -> pd.DataFrame:
    """Two groups of tasks, each tested on itself and on both groups' siblings."""
    sides = [("CLS", "CLS", "in-domain"), ("CLS", "CLS", "out-of-domain")]
    sides += [("CLS", "GEN", "out-of-domain"), ("GEN", "GEN", "in-domain")]
    sides += [("GEN", "CLS", "out-of-domain"), ("GEN", "GEN", "out-of-domain")]
    rows = [
        {"train_group": trained, "test_group": tested, "kind": kind, "fraction": fraction,
         "score": 0.3 + 0.05 * k + 0.1 * fraction,
         "metric": "accuracy" if tested == "CLS" else "rougeL"}
        for k, (trained, tested, kind) in enumerate(sides)
        for fraction in FRACTIONS
    ]  # fmt: skip
    return with_interval(pd.DataFrame(rows))


def alone_table() -> pd.DataFrame:
    rows = [
        {"task": f"task_{k}", "kind": kind, "fraction": fraction,
         "score": 0.3 + 0.1 * k + 0.2 * fraction * (kind == "in-domain")}
        for k in range(4)
        for kind in ("in-domain", "out-of-domain")
        for fraction in FRACTIONS
    ]  # fmt: skip
    return with_interval(pd.DataFrame(rows))


def controlled_table() -> pd.DataFrame:
    rows = [
        {"train_group": group, "test_group": group, "fraction": share, "overlap": overlap,
         "score": 0.2 + 0.3 * share + 0.1 * overlap}
        for group in ("CLS", "GEN")
        for share in (0.5, 0.1, 0.3)
        for overlap in (0.1, 0.4, 1.0)
    ]  # fmt: skip
    return with_interval(pd.DataFrame(rows))


def forgetting_table(n_methods: int = 3) -> pd.DataFrame:
    rows = [
        {"method": f"method {k}", "stage": stage, "fg": 1.02 - 0.02 * k - 0.05 * stage}
        for k in range(n_methods)
        for stage in (2, 3, 4)
    ]
    return with_interval(pd.DataFrame(rows), "fg")


def overlap_table(n_tasks: int = 3, fractions: tuple[float, ...] = FRACTIONS) -> pd.DataFrame:
    rows = [
        {"fraction": fraction, "task_x": f"task_{i}", "task_y": f"task_{j}", "n_x": 1000 + i,
         "n_y": 1000 + j, "iou": fraction ** (0.5 + 0.1 * ((i + j) % 5)),
         "expected_iou": fraction / (2 - fraction)}
        for fraction in fractions
        for i in range(n_tasks)
        for j in range(i + 1, n_tasks)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def one_overlap_table(n_tasks: int = 3) -> pd.DataFrame:
    return overlap_table(n_tasks, (0.1,))


def similarity_table(n_tasks: int = 2) -> pd.DataFrame:
    rows = [
        {"reading": "masked", "part": part, "layer": layer, "task_x": "trained task",
         "task_y": f"task_{k}", "similarity": 0.1 * k + 0.02 * layer * (1 + (part == "W_out"))}
        for part in ("W_in", "W_out")
        for k in range(n_tasks)
        for layer in range(6)
    ]  # fmt: skip
    return with_interval(pd.DataFrame(rows), "similarity")


def sibling_table() -> pd.DataFrame:
    rows = [
        {"pairs": kind, "layer": layer, "similarity": height * (1 + layer)}
        for kind, height in (("siblings", 0.1), ("other pairs", 0.02), ("difference", 0.08))
        for layer in range(4)
    ]
    return with_interval(pd.DataFrame(rows), "similarity")


def layer_table() -> pd.DataFrame:
    rows = [
        {"task": f"task_{k}", "layer": layer, "n_neurons": 3 * layer + k}
        for k in range(4)
        for layer in range(5)
    ]
    table = pd.DataFrame(rows)
    total = table.groupby("task")["n_neurons"].transform("sum")
    return table.assign(share=table["n_neurons"] / total)


def training_table(n_tasks: int = 3) -> pd.DataFrame:
    """Training a task's neurons helps it much, and hurts the others a little."""
    rows = [
        {"trained": f"task_{i}", "task": f"task_{j}", "metric": "accuracy",
         "change": 0.4 if i == j else -0.02 * (j + 1), "loss_change": -2.0 if i == j else 0.3}
        for i in range(n_tasks)
        for j in range(n_tasks)
    ]  # fmt: skip
    table = with_interval(pd.DataFrame(rows), "change")
    return table.assign(loss_low=table["loss_change"] - 0.4, loss_high=table["loss_change"] + 0.4)


def silencing_table() -> pd.DataFrame:
    return training_table().rename(columns={"trained": "silenced"})


def neuron_table() -> pd.DataFrame:
    exact = np.array([0.0, 1e-3, 2e-2, 0.3, 1e-5, 0.0])
    return pd.DataFrame(
        {"task": "sst2", "layer": [0, 0, 1, 1, 2, 2], "neuron": range(6), "exact": exact,
         "score": 0.5 * exact + 1e-6, "sample": ["top"] * 3 + ["random"] * 3}
    )  # fmt: skip


def set_table() -> pd.DataFrame:
    return pd.DataFrame(
        {"fraction": [0.1, 0.001, 0.01], "predicted": [2.0, -0.01, 0.2], "true": [9.0, 0.1, 1.0]}
    )


def member_table() -> pd.DataFrame:
    """Four tasks: 5 neurons of all, 3 of two of them, and 2, 4, 6 and 8 of one."""
    sets: dict[str, list[int]] = {f"task_{k}": list(range(5)) for k in range(4)}
    sets["task_0"] += [5, 6, 7]
    sets["task_2"] += [5, 6, 7]
    free = 8
    for k, name in enumerate(sets):
        sets[name] += range(free, free + 2 * (k + 1))
        free += 2 * (k + 1)
    rows = [
        {"task": name, "layer": neuron % 3, "neuron": neuron}
        for name, members in sets.items()
        for neuron in members
    ]
    return pd.DataFrame(rows)


# What each function draws: (function, table, columns that name a cell, a column of numbers).
Drawn = tuple[Callable[..., Figure], Callable[[], pd.DataFrame], list[str], str]
DRAWN: dict[str, Drawn] = {
    "share": (plots.share_curves, share_table, ["train_group", "kind", "fraction"], "score"),
    "controlled": (plots.controlled_overlap_curves, controlled_table, ["overlap"], "score"),
    "forgetting": (plots.forgetting_curves, forgetting_table, ["method", "stage"], "fg"),
    "overlap_curves": (plots.overlap_curves, overlap_table, ["fraction", "task_y"], "iou"),
    "overlap_heatmap": (plots.overlap_heatmap, one_overlap_table, ["task_x", "task_y"], "iou"),
    "score_heatmap": (plots.score_heatmap, layer_table, ["task", "layer"], "share"),
    "by_layer": (plots.neurons_by_layer, layer_table, ["task", "layer"], "n_neurons"),
    "training": (plots.training_heatmap, training_table, ["trained", "task"], "change"),
    "deactivation": (
        plots.deactivation_heatmap, silencing_table, ["silenced", "task"], "loss_change",
    ),
    "scatter": (plots.faithfulness_scatter, neuron_table, ["layer", "neuron"], "exact"),
    "sets": (plots.faithfulness_sets, set_table, ["fraction"], "true"),
}  # fmt: skip
