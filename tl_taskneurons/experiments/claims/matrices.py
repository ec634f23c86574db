"""Test of claim C3, on tasks against tasks. No torch."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tl_taskneurons.evaluation.statistics import Estimate, paired_effect
from tl_taskneurons.experiments.claims.decide import judge, not_testable, over_tasks
from tl_taskneurons.experiments.claims.evidence import (
    UNITS,
    Evidence,
    NotTestable,
    good,
    named,
    nearest,
    same_items,
)
from tl_taskneurons.experiments.claims.items import SHARE, SILENCED, TRAINED
from tl_taskneurons.experiments.claims.verdicts import Question, Verdict

MIN_TASKS = 5  # of fewer, flipping signs gives no p below 5%


@dataclass(frozen=True)
class _Matrix:
    """Changes of losses, above 0 in the direction of the claim, in nats per token.

    Attributes:
        tasks: rows and columns.
        changes: ``[samples or seeds, items]`` by task of the row and tested task.
    """

    tasks: list[str]
    changes: dict[tuple[str, str], np.ndarray]

    @property
    def means(self) -> np.ndarray:
        return np.array([[self.changes[i, j].mean() for j in self.tasks] for i in self.tasks])

    def row(self, task: str) -> Estimate:
        """The own cell minus the mean of the rest of the row."""
        rest = len(self.tasks) - 1
        return paired_effect(
            {j: self.changes[task, j] / (1 if j == task else -rest) for j in self.tasks}
        )

    def column(self, task: str) -> Estimate:
        """The own cell minus the mean of the rest of the column."""
        rest = [self.changes[i, task] for i in self.tasks if i != task]
        return paired_effect(self.changes[task, task] - np.mean(rest, axis=0))

    def own(self, task: str) -> Estimate:
        """The weaker of both, as both have to hold."""
        return max(self.row(task), self.column(task), key=lambda each: each.p)

    def extremes(self) -> str:
        """In how many rows and columns the own cell is the largest."""
        means, own = self.means, np.arange(len(self.tasks))
        rows, columns = ((means.argmax(axis) == own).sum() for axis in (1, 0))
        return f"largest in {rows} of {len(own)} rows, {columns} of {len(own)} columns"


def c3(evidence: Evidence) -> list[Verdict]:
    """Test C3: a task's own cell against the rest of its row, and of its column.

    A cell is the rise of a task's loss when the neurons of another are silenced, or its fall when
    they are trained. A task's comparison is the weaker of its row and its column; on average, the
    mean of both is tested over tasks.
    """
    return [*_silenced(evidence), *_trained(evidence)]


def _silenced(evidence: Evidence) -> list[Verdict]:
    interest = SILENCED["loss"]
    try:
        items = evidence.need("deactivation")
        able = evidence.able("deactivation", "loss")
    except NotTestable as why:
        return [not_testable(Question("C3", "silenced", UNITS["loss"], interest), str(why))]
    chosen, plain = items[items["kind"] == "task"], items[items["kind"] == "none"]
    plain = plain.drop_duplicates(["task", "item"])
    shares = sorted(chosen["fraction"].unique())
    first = ("plain", nearest(shares, SHARE))
    return [
        _judged(
            Question(
                "C3", f"silenced: {share:.1%}, {selection}", UNITS["loss"], interest,
                primary=bool((selection, share) == first),
            ),
            rows.rename(columns={"silenced": "of"}), plain, -1, "sample", able,
        )
        for (selection, share), rows in chosen.groupby(["selection", "fraction"])
    ]  # fmt: skip


def _trained(evidence: Evidence) -> list[Verdict]:
    interest = TRAINED["loss"]
    try:
        items, plain = evidence.need("trained"), evidence.need("plain")
        able = evidence.able("trained", "loss")
    except NotTestable as why:
        return [not_testable(Question("C3", "trained", UNITS["loss"], interest), str(why))]
    chosen = items[(items["neurons"] == "task") & (items["question"] == "end point")]
    shares = sorted(chosen["fraction"].unique())
    if not shares:
        question = Question("C3", "trained", UNITS["loss"], interest)
        return [not_testable(question, "no rows of the question 'end point'")]
    return [
        _judged(
            Question(
                "C3", f"trained: {share:.1%}", UNITS["loss"], interest,
                primary=bool(share == nearest(shares, SHARE)),
            ),
            rows.rename(columns={"trained": "of"}), plain, 1, "seed", able,
        )
        for share, rows in chosen.groupby("fraction")
    ]  # fmt: skip


def _judged(
    question: Question, rows: pd.DataFrame, plain: pd.DataFrame, sign: int, axis: str,
    able: set[str],
) -> Verdict:  # fmt: skip
    try:
        matrix = _read(rows, plain, sign, axis, able)
    except NotTestable as why:
        return not_testable(question, str(why))
    estimates = {task: matrix.own(task) for task in matrix.tasks}
    effects = [(matrix.row(task)[0] + matrix.column(task)[0]) / 2 for task in matrix.tasks]
    pooled = over_tasks(effects, question.sought)
    return judge(question, estimates, pooled, matrix.extremes())


def _read(rows: pd.DataFrame, plain: pd.DataFrame, sign: int, axis: str, able: set[str]) -> _Matrix:
    tasks = named(rows["of"], able)
    if len(tasks) < MIN_TASKS:
        raise NotTestable(f"needs {MIN_TASKS} tasks that pass the gate; there are {len(tasks)}")
    cells = {(str(of), str(task)): cell for (of, task), cell in rows.groupby(["of", "task"])}
    changes = {}
    for task in tasks:
        before = plain[plain["task"] == task]
        base = good(before, task, "loss", ["item"])
        for of in tasks:
            if (of, task) not in cells:
                raise NotTestable(f"the neurons of {of!r} were not tested on {task!r}")
            same_items(task, before, cells[of, task])
            after = good(cells[of, task], task, "loss", [axis, "item"])
            changes[of, task] = sign * (after - base)
    return _Matrix(tasks, changes)
