"""Gates: before anything is concluded, the model must do the task, and have learnt something."""

from collections import Counter

import pandas as pd

from tl_taskneurons.experiments.lab import states
from tl_taskneurons.experiments.lab.lab import Lab
from tl_taskneurons.experiments.lab.states import Condition
from tl_taskneurons.tasks.task import Task

COLUMNS = ["table", "task", "item", "score", "loss", "zero_shot_score", "zero_shot_loss", "floor"]


def floor(task: Task, n_test: int | None = None) -> float:
    """The score by guessing: the larger of 1 / labels and the share of the commonest answer.

    It is 0 for answers that are generated.
    """
    if not task.is_classification:
        return 0.0
    answers = Counter(example.target for example in task.test[:n_test])
    return max(1 / len(task.labels), max(answers.values(), default=0) / max(1, answers.total()))


def zero_shot(lab: Lab) -> pd.DataFrame:
    """The base model's answers on all tasks."""
    return states.items(lab, Condition(states.base(lab), lab.tasks.names))


def gate(lab: Lab, table: str, items: pd.DataFrame) -> pd.DataFrame:
    """Compare answers after training, means over seeds, with the base model's.

    Args:
        lab: the lab.
        table: name of the evidence table that this is the gate of.
        items: answers, one row per task, item and seed.

    Returns:
        One row per task and item: ``table, task, item, score, loss, zero_shot_score,
        zero_shot_loss, floor``.
    """
    keys = ["task", "item"]
    means = items.groupby(keys, sort=False)[["score", "loss"]].mean()
    before = zero_shot(lab).set_index(keys)[["score", "loss"]].add_prefix("zero_shot_")
    found = means.join(before).reset_index()
    floors = {task.name: floor(task, lab.plan.n_test) for task in lab.tasks}
    return found.assign(table=table, floor=found["task"].map(floors))[COLUMNS]
