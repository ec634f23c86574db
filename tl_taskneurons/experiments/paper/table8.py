"""The paper's Table 8: overlap of the trained tasks' neurons with the test tasks', by share.

Nothing is trained. Neurons are found on several samples of the training examples, for the spread.
"""

import pandas as pd
from matplotlib.figure import Figure

from tl_taskneurons.analysis.overlap import overlap, overlap_by_fraction
from tl_taskneurons.experiments.lab.experiment import Experiment, Tables
from tl_taskneurons.experiments.lab.groups import groups_of
from tl_taskneurons.experiments.lab.lab import Lab
from tl_taskneurons.experiments.lab.store import Cell
from tl_taskneurons.plots import overlap_curves, overlap_heatmap


def cells(_: Lab) -> list[Cell]:
    """Nothing beyond finding neurons."""
    return []


def rates(lab: Lab) -> pd.DataFrame:
    """Overlap rates of groups for every sample: the columns of ``overlap`` and ``sample``."""
    groups = groups_of(lab.tasks)
    train = {name: group["train"] for name, group in groups.items()}
    test = {name: group["test"] for name, group in groups.items()}
    frames = [
        overlap_by_fraction(lab.scores(sample=k), lab.plan.shares, train, test).assign(sample=k)
        for k in range(lab.plan.detections)
    ]
    return pd.concat(frames, ignore_index=True)


def tables(lab: Lab) -> Tables:
    """Rates of groups, means over the samples with their range, and of single tasks."""
    found = rates(lab)
    keys = ["fraction", "task_x", "task_y"]
    by_group = found.groupby(keys, sort=False).agg(
        iou=("iou", "mean"), least=("iou", "min"), most=("iou", "max"),
        expected_iou=("expected_iou", "mean"), samples=("sample", "nunique"),
    )  # fmt: skip
    by_task = overlap(lab.sets()).assign(fraction=lab.plan.fraction)
    return {"table8": by_group.reset_index(), "overlap": by_task}


def evidence(lab: Lab) -> Tables:
    """For C5."""
    renamed = {"sample": "detection_seed", "task_x": "train_group", "task_y": "test_group"}
    return {"overlap": rates(lab).rename(columns=renamed)}


def draw(found: Tables) -> dict[str, Figure]:
    """Draw the curves and the matrix of tasks."""
    return {
        "table8": overlap_curves(found["table8"]), "overlap": overlap_heatmap(found["overlap"])
    }  # fmt: skip


EXPERIMENT = Experiment(
    "table8",
    "overlap of tasks' neurons by share",
    cells,
    tables,
    evidence,
    draw,
    detections=True,
    trains=False,
)
