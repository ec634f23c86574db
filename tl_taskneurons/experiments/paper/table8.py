"""The paper's Table 8: overlap of the trained tasks' neurons with the test tasks', by share.

Nothing is trained. Neurons are found on several samples of the training examples, for the spread.
"""

import pandas as pd
from matplotlib.figure import Figure

from tl_taskneurons.analysis.overlap import overlap, overlap_by_fraction
from tl_taskneurons.experiments.lab import states
from tl_taskneurons.experiments.lab.detection import scores, task_sets
from tl_taskneurons.experiments.lab.experiment import Experiment, Tables
from tl_taskneurons.experiments.lab.groups import groups_of
from tl_taskneurons.experiments.lab.lab import Lab
from tl_taskneurons.plots import overlap_curves, overlap_heatmap


class Table8(Experiment):
    """Overlap of tasks' neurons by share."""

    name = "table8"
    title = "overlap of tasks' neurons by share"
    needs_samples = True

    def items(self, lab: Lab) -> pd.DataFrame:
        """Overlap rates of groups for every sample: the columns of ``overlap`` and ``sample``."""
        groups = groups_of(lab.tasks)
        train = {name: group.train for name, group in groups.items()}
        test = {name: group.test for name, group in groups.items()}
        frames = [
            overlap_by_fraction(
                scores(lab, states.base(lab), sample), lab.plan.shares, train, test
            ).assign(sample=sample)
            for sample in range(lab.plan.detections)
        ]
        return pd.concat(frames, ignore_index=True)

    def tables(self, lab: Lab) -> Tables:
        """Rates of groups, means over the samples with their range, and of single tasks."""
        found = self.items(lab)
        by_group = found.groupby(["fraction", "task_x", "task_y"], sort=False).agg(
            iou=("iou", "mean"),
            least=("iou", "min"),
            most=("iou", "max"),
            expected_iou=("expected_iou", "mean"),
            samples=("sample", "nunique"),
        )
        by_task = overlap(task_sets(lab, states.base(lab))).assign(fraction=lab.plan.fraction)
        return {"table8": by_group.reset_index(), "overlap": by_task}

    def evidence(self, lab: Lab) -> Tables:
        """For C5."""
        renamed = {"sample": "detection_seed", "task_x": "train_group", "task_y": "test_group"}
        return {"overlap": self.items(lab).rename(columns=renamed)}

    def draw(self, tables: Tables) -> dict[str, Figure]:
        """Draw the curves and the matrix of tasks."""
        return {
            "table8": overlap_curves(tables["table8"]),
            "overlap": overlap_heatmap(tables["overlap"]),
        }
