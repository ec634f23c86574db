"""Reading the tables that claims are tested on: gates, and scores of items as arrays. No torch."""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pandas as pd

from tl_taskneurons.evaluation.statistics import LEVEL, paired_effect
from tl_taskneurons.experiments.claims.columns import TABLES
from tl_taskneurons.runtime.errors import InputError

SCORE, LOSS = "accuracy / ROUGE-L (share of 1)", "nats per token"
UNITS = {"loss": LOSS, "score": SCORE}
MEASURES = ("loss", "score")


class NotTestable(Exception):
    """A table, or what it needs for a test, is missing; the message says what."""


class Evidence:
    """The tables of a reproduction; any of them may be missing."""

    def __init__(self, tables: Mapping[str, pd.DataFrame | None]) -> None:
        """Hold tables by the names of ``columns.TABLES``."""
        self._tables = tables

    def has(self, name: str) -> bool:
        """Whether a table is there."""
        return self._tables.get(name) is not None

    def need(self, name: str) -> pd.DataFrame:
        """Return a table with its defaults filled in.

        Raises:
            NotTestable: when it, or one of its columns, is missing, or it has no rows.
            InputError: for several rows of one key.
        """
        table = self._tables.get(name)
        if table is None:
            raise NotTestable(f"no table: {name}")
        missing = TABLES[name].missing(table)
        if missing:
            raise NotTestable(f"the table {name} lacks the columns {', '.join(missing)}")
        if table.empty:
            raise NotTestable(f"the table {name} is empty")
        return TABLES[name].read(table)

    def able(self, table: str, measure: str) -> set[str]:
        """The tasks that pass the gate of a table.

        In nats a task passes when training lowered its loss, by score when its score is above
        guessing besides. What is silenced need not have been trained here: in nats a score above
        guessing is enough there. Each is a one-sided test over items at 5%.

        Raises:
            NotTestable: when no task passes, or there are no gates.
        """
        gates = self.need("gates")
        found = set()
        for task, rows in gates[gates["table"] == table].groupby("task"):
            if _passes(rows, table, measure):
                found.add(str(task))
        if not found:
            raise NotTestable(
                f"no task passes the gate of {table} in {UNITS[measure]}: the model is not above "
                "guessing, or no better than before training"
            )
        return found


def summary_of_gates(gates: pd.DataFrame) -> pd.DataFrame:
    """One row per table and task: means of the items, and whether claims are asked of the task.

    Args:
        gates: the evidence table ``gates``.

    Returns:
        ``table, task, score, loss, zero_shot_score, zero_shot_loss, floor``, then ``by_loss`` and
        ``by_score``: whether the gate is passed in nats and by score, as ``Evidence.able`` has it.
    """
    rows = []
    for (table, task), part in gates.groupby(["table", "task"], sort=False):
        means = {name: float(part[name].mean()) for name in _MEANS}
        passed = {f"by_{each}": _passes(part, str(table), each) for each in MEASURES}
        rows.append({"table": table, "task": task, **means, **passed})
    return pd.DataFrame(rows)


_MEANS = ("score", "loss", "zero_shot_score", "zero_shot_loss", "floor")


def _passes(rows: pd.DataFrame, table: str, measure: str) -> bool:
    learned = _above(rows["zero_shot_loss"] - rows["loss"])
    scored = _above(rows["score"] - rows["floor"])
    if measure == "score":
        return learned and scored
    return learned or (table == "deactivation" and scored)


def _above(values: pd.Series) -> bool:
    given = values.dropna().to_numpy(dtype=float)
    return len(given) > 1 and paired_effect(given[None]).p < LEVEL


def good(rows: pd.DataFrame, task: Hashable, measure: str, axes: list[str]) -> np.ndarray:
    """Return how well a task does, higher is better: its scores, or its losses' negatives.

    Args:
        rows: all that there are of the task in the conditions.
        task: its name.
        measure: ``"loss"`` or ``"score"``.
        axes: columns such as ``["seed", "item"]``, the array's axes, each in sorted order.

    Raises:
        InputError: for no rows, NaN, several values of one item, or items that are missing in a
            part of the conditions.
    """
    if rows.empty:
        raise InputError(
            f"Task {task!r} has no rows in one of the conditions that are compared; run it in all "
            "of them or leave the task out."
        )
    if rows[measure].isna().any():
        raise InputError(
            f"Task {task!r} has items without a {measure} (NaN); evaluate it again or leave it out."
        )
    places = [np.unique(rows[axis].to_numpy(), return_inverse=True) for axis in axes]
    shape = [len(levels) for levels, _ in places]
    cells = np.ravel_multi_index([codes for _, codes in places], shape)
    if len(np.unique(cells)) < len(cells):
        raise InputError(f"Task {task!r} has several values for the same {', '.join(axes)}.")
    if len(cells) < np.prod(shape):
        raise InputError(
            f"Task {task!r} has other items in some of the conditions ({', '.join(axes)}) than in "
            "others, so these can't be compared in pairs; evaluate all on the same items."
        )
    values = np.empty(len(cells))
    values[cells] = rows[measure].to_numpy(dtype=float) * (1 if measure == "score" else -1)
    return values.reshape(shape)


def same_items(task: Hashable, *rows: pd.DataFrame) -> None:
    """Raise InputError unless a task has the same items in several tables."""
    if len({frozenset(table["item"]) for table in rows}) > 1:
        raise InputError(
            f"Task {task!r} has other items in one of the tables that are compared; evaluate all "
            "on the same items."
        )


def wide_table(
    table: pd.DataFrame, index: list[str], columns: list[str], value: str
) -> pd.DataFrame:
    """Pivot; raise InputError for a cell that is missing or NaN."""
    wide = table.pivot(index=index, columns=columns, values=value)
    holes = wide.isna()
    if holes.any(axis=None):
        column = wide.columns[holes.any()][0]
        row = wide.index[holes[column]][0]
        raise InputError(f"{value} is missing or NaN for {columns} {column}, {index} {row}.")
    return wide


def named(column: pd.Series, among: set[str]) -> list[str]:
    """List the different names in a column, as they come, that are among some."""
    return [str(name) for name in column.unique() if str(name) in among]


def nearest(values: Sequence[float], wanted: float) -> float:
    """Return the value that is nearest, by ratio, to the one that is wanted."""
    return min(values, key=lambda value: abs(np.log(value / wanted)))
