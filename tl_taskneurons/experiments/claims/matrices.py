"""Test of claim C3, on tasks against tasks. No torch."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from tl_taskneurons.evaluation.statistics import (
    Contrast,
    average,
    diagonal_test,
    paired_effect,
    require_columns,
)
from tl_taskneurons.experiments.claims.verdicts import (
    NAN,
    Comparison,
    Verdict,
    cube,
    judge,
    named,
    not_tested,
    same_items,
    settle,
    without,
)

MIN_TASKS = 3
MIN_PERMUTED = 5  # with fewer tasks, permutations can't give a p that passes Holm's correction
UNIT = "change / plain score"


@dataclass(frozen=True)
class _Matrix:
    """Changes of scores, above 0 in the direction of the claim, as a share of the plain score.

    Attributes:
        part: ``"silenced"`` or ``"trained"``.
        tasks: rows and columns.
        changes: ``[seeds, items]`` by task of the row and tested task.
    """

    part: str
    tasks: list[str]
    changes: dict[tuple[str, str], np.ndarray]

    @property
    def means(self) -> np.ndarray:
        return np.array([[self.changes[i, j].mean() for j in self.tasks] for i in self.tasks])

    def row(self, task: str) -> Contrast:
        """The own cell minus the mean of the rest of the row."""
        rest = len(self.tasks) - 1
        return {
            f"{self.part}/{j}": self.changes[task, j] / (1 if j == task else -rest)
            for j in self.tasks
        }

    def column(self, task: str) -> Contrast:
        """The own cell minus the mean of the rest of the column."""
        rest = [self.changes[i, task] for i in self.tasks if i != task]
        return {f"{self.part}/{task}": self.changes[task, task] - np.mean(rest, axis=0)}

    def diagonal(self) -> Contrast:
        """The mean of the diagonal minus the mean of the rest."""
        return average([self.column(task) for task in self.tasks])

    def extremes(self) -> str:
        """In how many rows and columns the own cell is the largest."""
        means, own = self.means, np.arange(len(self.tasks))
        rows, columns = ((means.argmax(axis) == own).sum() for axis in (1, 0))
        return f"{self.part}: largest in {rows} of {len(own)} rows, {columns} of {len(own)} columns"


def c3(
    deactivation: pd.DataFrame | None,
    trained: pd.DataFrame | None,
    plain: pd.DataFrame | None,
) -> Verdict:
    """Test C3: each task's own cell against the rest of its row, and of its column.

    A cell is the drop of a task's score when the neurons of another are silenced, or its gain when
    they are trained, divided by the task's plain score (taken as fixed), because scores of
    different tasks are on different scales. Parts ``"silenced"`` and ``"trained"``; besides rows
    and columns, the whole diagonal is tested by permuting rows, from five tasks on.

    Args:
        deactivation: the rows of ``deactivation_items``, all tasks on all sets.
        trained: rows ``trained, neurons, seed, task, item, score``, likewise.
        plain: rows ``task, item, score`` of the model before it was trained.

    Raises:
        ValueError: for a task that lacks scores, or is not on the same items everywhere.
    """
    missing = [without(deactivation=deactivation, trained=trained, plain=plain)]
    matrices: list[_Matrix] = []
    if deactivation is not None:
        columns = ["silenced", "kind", "seed", "task", "item", "score"]
        require_columns(deactivation, columns, "deactivation")
        kind = deactivation["kind"]
        rows = deactivation[kind == "task"].rename(columns={"silenced": "of"})
        missing.append(_read("silenced", rows, deactivation[kind == "none"], -1, matrices))
    if trained is not None and plain is not None:
        columns = ["trained", "neurons", "seed", "task", "item", "score"]
        require_columns(trained, columns, "trained")
        require_columns(plain, ["task", "item", "score"], "plain")
        rows = trained[trained["neurons"] == "task"].rename(columns={"trained": "of"})
        missing.append(_read("trained", rows, plain, 1, matrices))
    said = "; ".join(each for each in missing if each)
    if not matrices:
        return not_tested("C3", said)
    comparisons = settle([each for matrix in matrices for each in _comparisons(matrix)])
    pooled = paired_effect(average([m.diagonal() for m in matrices]))
    note = "; ".join(matrix.extremes() for matrix in matrices)
    return judge("C3", comparisons, pooled, note, missing=said)


def _read(
    part: str, rows: pd.DataFrame, plain: pd.DataFrame, sign: int, matrices: list[_Matrix]
) -> str:
    """Add a matrix to the list; or say what it lacks."""
    tasks = named(rows["of"])
    if len(tasks) < MIN_TASKS:
        return f"{part}: needs {MIN_TASKS} tasks; there are {len(tasks)}"
    cells = {(str(of), str(task)): cell for (of, task), cell in rows.groupby(["of", "task"])}
    changes = {}
    for task in tasks:
        before = plain[plain["task"] == task]
        base = cube(before, task, ["item"])
        if base.mean() == 0:
            return f"{part}: {task!r} scores 0 in the plain model, so no change is relative to it"
        for of in tasks:
            if (of, task) not in cells:
                return f"{part}: the neurons of {of!r} were not tested on {task!r}"
            same_items(task, before, cells[of, task])
            after = cube(cells[of, task], task, ["seed", "item"])
            changes[of, task] = sign * (after - base) / base.mean()
    matrices.append(_Matrix(part, tasks, changes))
    return ""


def _comparisons(matrix: _Matrix) -> list[Comparison]:
    contrasts = {f"{task}: row": matrix.row(task) for task in matrix.tasks}
    contrasts |= {f"{task}: column": matrix.column(task) for task in matrix.tasks}
    contrasts["diagonal"] = matrix.diagonal()
    found = [paired_effect(each) for each in contrasts.values()]
    listed = [
        Comparison("C3", matrix.part, what, *estimate, NAN, False, UNIT)
        for what, estimate in zip(contrasts, found, strict=True)
    ]
    *cells, diagonal = listed
    if len(matrix.tasks) < MIN_PERMUTED:
        return cells
    return [*cells, replace(diagonal, p=diagonal_test(matrix.means))]
