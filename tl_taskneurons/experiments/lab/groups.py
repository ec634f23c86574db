"""Groups of tasks as in the paper's section 3, and intervals of means over seeds and items."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from tl_taskneurons.evaluation.statistics import mean_interval
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.tasks.task import Task, Tasks


def union_scores(scores: Mapping[str, NeuronScores], names: Sequence[str]) -> NeuronScores:
    """Scores of several tasks together: each task's scores divided by their sum, then averaged."""
    values = torch.stack([scores[name].values / scores[name].values.sum() for name in names])
    return replace(scores[names[0]], values=values.mean(0), name="+".join(names))


def seed_rows(items: pd.DataFrame, column: str = "score") -> np.ndarray:
    """One task's values as ``[seeds, items]``."""
    return items.pivot(index="seed", columns="item", values=column).to_numpy()


def interval(items: pd.DataFrame, column: str = "score") -> dict[str, float]:
    """Mean over seeds, tasks and items with its 95% interval over seeds and items.

    Tasks count alike and are taken as fixed.
    """
    per_task = [seed_rows(group, column) for _, group in items.groupby("task")]
    width = min(rows.shape[1] for rows in per_task)
    joined = np.mean([rows[:, :width] for rows in per_task], axis=0)
    low, high = mean_interval(joined)
    return {"score": float(np.mean([rows.mean() for rows in per_task])), "low": low, "high": high}


def groups_of(tasks: Tasks) -> dict[str, dict[str, tuple[str, ...]]]:
    """The paper's groups: of every family its first task is trained, its second is the sibling.

    Returns:
        ``{"CLS": {"train": ..., "test": ...}, "GEN": ...}``, classification and generation; a
        group without a family of two is left out.

    Raises:
        ValueError: when no family has two tasks.
    """
    families: dict[str, list[Task]] = {}
    for task in tasks:
        families.setdefault(task.family, []).append(task)
    groups: dict[str, dict[str, list[str]]] = {}
    for members in families.values():
        if len(members) >= 2:
            kind = "CLS" if members[0].is_classification else "GEN"
            group = groups.setdefault(kind, {"train": [], "test": []})
            group["train"].append(members[0].name)
            group["test"].append(members[1].name)
    if not groups:
        raise InputError(
            f"No two of the tasks {list(tasks.names)} are of one family; transfer between siblings "
            "needs pairs such as mini_food and mini_film."
        )
    return {
        kind: {side: tuple(names) for side, names in group.items()}
        for kind, group in groups.items()
    }
