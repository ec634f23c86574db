"""Groups of tasks as in the paper's section 3, and intervals of means over seeds and items."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from tl_taskneurons.evaluation.statistics import mean_interval
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.tasks.task import Task, Tasks


@dataclass(frozen=True)
class Group:
    """Tasks of one type: of every family the first is trained, the second is its sibling."""

    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Each trained task with its sibling."""
        return list(zip(self.train, self.test, strict=True))


def groups_of(tasks: Tasks) -> dict[str, Group]:
    """The paper's groups, ``"CLS"`` (classification) and ``"GEN"`` (generation).

    A group without a family of two is left out.

    Raises:
        ValueError: when no family has two tasks.
    """
    families: dict[str, list[Task]] = {}
    for task in tasks:
        families.setdefault(task.family, []).append(task)
    groups: dict[str, Group] = {}
    for members in families.values():
        if len(members) >= 2:
            kind = "CLS" if members[0].is_classification else "GEN"
            group = groups.get(kind, Group())
            groups[kind] = Group((*group.train, members[0].name), (*group.test, members[1].name))
    if not groups:
        raise InputError(
            f"No two of the tasks {list(tasks.names)} are of one family; transfer between siblings "
            "needs pairs such as mini_food and mini_film."
        )
    return groups


def union_scores(scores: Mapping[str, NeuronScores], names: Sequence[str]) -> NeuronScores:
    """Scores of several tasks together: each task's scores divided by their sum, then averaged."""
    values = torch.stack([scores[name].values / scores[name].values.sum() for name in names])
    return replace(scores[names[0]], values=values.mean(0), name="+".join(names))


def seed_rows(items: pd.DataFrame, column: str = "score") -> np.ndarray:
    """One task's values as ``[seeds, items]``."""
    return items.pivot(index="seed", columns="item", values=column).to_numpy()


def interval(items: pd.DataFrame, column: str = "score") -> dict[str, float]:
    """Mean over seeds, tasks and items with its 95% interval.

    It is over seeds and items; tasks count alike and are taken as fixed.

    Returns:
        ``{column: mean, "low": ..., "high": ...}``; the ends of a loss are ``loss_low`` and
        ``loss_high``.
    """
    per_task = [seed_rows(group, column) for _, group in items.groupby("task")]
    width = min(rows.shape[1] for rows in per_task)
    joined = np.mean([rows[:, :width] for rows in per_task], axis=0)
    low, high = mean_interval(joined)
    prefix = "" if column == "score" else f"{column}_"
    mean = float(np.mean([rows.mean() for rows in per_task]))
    return {column: mean, f"{prefix}low": low, f"{prefix}high": high}
