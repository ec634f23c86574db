"""What the test of a claim finds: a verdict with its comparisons, and its forms on disk. No torch.

Also what all tests share: reading item tables, and comparing scores in pairs.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from tl_taskneurons.evaluation.statistics import Contrast, Estimate, average, holm, paired_effect
from tl_taskneurons.runtime.errors import InputError

LEVEL = 0.05

SCORE = "accuracy / ROUGE-L (share of 1)"
NAN = float("nan")

STATEMENTS = {
    "C1": "Silencing a task's neurons hurts the task more than silencing as many random ones.",
    "C2": "Training a task's neurons helps the task more than training as many random ones.",
    "C3": "Silencing or training a task's neurons changes that task most, by rows and by columns.",
    "C4": "Trained together, tasks score best below a share of 100%; alone, they and the transfer "
    "to siblings rise with the share.",
    "C5": "Tasks of one type share more neurons than tasks of two types, at every share below "
    "100%.",
    "C6": "With as many trained neurons, more overlap with the tested task's neurons gives better "
    "transfer.",
    "C7": "Similarity of tasks' parameters is low in the lowest layer and rises with depth.",
    "C8": "The more similar the parameters of two tasks, the better the transfer between them.",
    "C9": "Learning in a row: seq-ft < seq-lora < ncft < w-ncft, and w-ncft at most per-task.",
    "C10": "NCFT forgets less than seq-ft and seq-lora at every stage.",
    "C11": "What holds of this holds in every architecture.",
}


@dataclass(frozen=True)
class Comparison:
    """One comparison of a claim.

    Attributes:
        claim: ``"C1"`` to ``"C11"``.
        part: the part of the claim, such as ``"peak"``; may be empty.
        what: what is compared, such as the task's name.
        effect: above 0 if it is as the claim says.
        low: lower end of the 95% interval.
        high: its upper end.
        p: one-sided: effect above 0.
        p_holm: corrected for all comparisons of the claim.
        holds: whether ``p_holm`` is below 5%.
        unit: what the effect is measured in.
    """

    claim: str
    part: str
    what: str
    effect: float
    low: float
    high: float
    p: float
    p_holm: float
    holds: bool
    unit: str


@dataclass(frozen=True)
class Verdict:
    """What the test of a claim found.

    Attributes:
        claim: ``"C1"`` to ``"C11"``.
        statement: the claim in one line.
        verdict: it holds when all its comparisons hold.
        effect: mean effect of the comparisons; NaN without any.
        low: lower end of its 95% interval.
        high: its upper end.
        n_hold: how many comparisons hold.
        n: how many there are.
        unit: what the effect is measured in.
        note: what decided, or what is missing for a test.
        comparisons: all of them; a claim that is not tested may have some.
    """

    claim: str
    statement: str
    verdict: Literal["holds", "fails", "not tested"]
    effect: float
    low: float
    high: float
    n_hold: int
    n: int
    unit: str
    note: str
    comparisons: tuple[Comparison, ...]


def judge(
    claim: str,
    comparisons: Sequence[Comparison],
    pooled: Estimate,
    note: str,
    *,
    missing: str = "",
) -> Verdict:
    """Make a verdict of comparisons that are settled.

    Args:
        claim: which.
        comparisons: all of the claim.
        pooled: their mean effect.
        note: what decided.
        missing: what a test lacks; the claim is then not tested, and this is the note.
    """
    n_hold = sum(comparison.holds for comparison in comparisons)
    verdict = "holds" if n_hold == len(comparisons) else "fails"
    return Verdict(
        claim, STATEMENTS[claim], "not tested" if missing else verdict,
        pooled.effect, pooled.low, pooled.high, n_hold, len(comparisons),
        comparisons[0].unit if comparisons else "", missing or note, tuple(comparisons),
    )  # fmt: skip


def not_tested(claim: str, missing: str) -> Verdict:
    """Return the verdict on a claim for which there is nothing to compare."""
    return judge(claim, (), Estimate(NAN, NAN, NAN, NAN), "", missing=missing)


def without(**tables: pd.DataFrame | None) -> str:
    """Say which tables are missing; empty if none is."""
    names = [name for name, table in tables.items() if table is None]
    return f"no table: {', '.join(names)}" if names else ""


def compare(
    claim: str, contrasts: Mapping[tuple[str, str], Contrast], unit: str
) -> tuple[tuple[Comparison, ...], Estimate]:
    """Compare in pairs: settled comparisons by part and what is compared, and their mean effect."""
    listed = list(contrasts.values())
    *found, pooled = [paired_effect(each) for each in [*listed, average(listed)]]
    comparisons = [
        Comparison(claim, part, what, *estimate, NAN, False, unit)
        for (part, what), estimate in zip(contrasts, found, strict=True)
    ]
    return settle(comparisons), pooled


def cube(rows: pd.DataFrame, task: Hashable, axes: list[str]) -> np.ndarray:
    """Return one task's scores as an array with the given axes, each in sorted order.

    Args:
        rows: of the task, with a column for each axis, and ``score``.
        task: its name, for messages.
        axes: columns, such as ``["seed", "item"]``.

    Raises:
        ValueError: for no rows, a score of NaN, several scores of one item, or items that are
            missing in a part of the conditions.
    """
    if rows.empty:
        raise InputError(
            f"Task {task!r} has no rows in one of the conditions that are compared; run it in all "
            "of them or leave the task out."
        )
    if rows["score"].isna().any():
        raise InputError(
            f"Task {task!r} has items without a score (NaN); claims are judged by scores, so "
            "evaluate it with a metric or leave it out."
        )
    places = [np.unique(rows[axis].to_numpy(), return_inverse=True) for axis in axes]
    shape = [len(levels) for levels, _ in places]
    cells = np.ravel_multi_index([codes for _, codes in places], shape)
    if len(np.unique(cells)) < len(cells):
        raise InputError(f"Task {task!r} has several scores for the same {', '.join(axes)}.")
    if len(cells) < np.prod(shape):
        raise InputError(
            f"Task {task!r} has other items in some of the conditions ({', '.join(axes)}) than in "
            "others, so these can't be compared in pairs; evaluate all on the same items."
        )
    scores = np.empty(len(cells))
    scores[cells] = rows["score"].to_numpy(dtype=float)
    return scores.reshape(shape)


def wide_table(
    table: pd.DataFrame, index: list[str], columns: list[str], value: str
) -> pd.DataFrame:
    """Pivot; raise ValueError for a cell that is missing, NaN, or there twice."""
    if table.duplicated([*index, *columns]).any():
        twice = table.loc[table.duplicated([*index, *columns]), [*index, *columns]].iloc[0]
        raise InputError(f"There are several rows for {twice.to_dict()}; keep one of them.")
    wide = table.pivot(index=index, columns=columns, values=value)
    holes = wide.isna()
    if holes.any(axis=None):
        column = wide.columns[holes.any()][0]
        row = wide.index[holes[column]][0]
        raise InputError(f"{value} is missing or NaN for {columns} {column}, {index} {row}.")
    return wide


def same_items(task: Hashable, *rows: pd.DataFrame) -> None:
    """Raise ValueError unless a task has the same items in several tables."""
    if len({frozenset(table["item"]) for table in rows}) > 1:
        raise InputError(
            f"Task {task!r} has other items in one of the tables that are compared; evaluate all "
            "on the same items."
        )


def named(column: pd.Series) -> list[str]:
    """List the different names in a column, as they come."""
    return [str(name) for name in column.unique()]


def seeds_note(n_seeds: int) -> str:
    """Say what the intervals cover."""
    if n_seeds == 1:
        return "one seed, so intervals cover items only"
    return f"intervals over {n_seeds} seeds and items"


def frame(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row per verdict, without its comparisons."""
    columns = [
        "claim", "statement", "verdict", "effect", "low", "high", "unit", "n_hold", "n", "note",
    ]  # fmt: skip
    return pd.DataFrame([[getattr(v, name) for name in columns] for v in verdicts], columns=columns)


def comparisons_frame(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row per comparison of all verdicts; the columns are ``Comparison``'s."""
    return pd.DataFrame(
        [asdict(comparison) for verdict in verdicts for comparison in verdict.comparisons],
        columns=[field.name for field in fields(Comparison)],
    )


def to_json(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return what ``from_json`` reads; numbers that are NaN become None."""
    return {"claims": [_without_nan(asdict(verdict)) for verdict in verdicts]}


def from_json(stored: Mapping[str, Any]) -> list[Verdict]:
    """Read what ``to_json`` returned.

    Raises:
        ValueError: for anything else.
    """
    try:
        return [_verdict(dict(each)) for each in stored["claims"]]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"This is no file of verdicts on claims ({type(error).__name__}: {error}); give the "
            "claims.json of a reproduction."
        ) from error


def _verdict(stored: dict[str, Any]) -> Verdict:
    comparisons = tuple(Comparison(**_with_nan(each)) for each in stored.pop("comparisons"))
    return Verdict(**_with_nan(stored), comparisons=comparisons)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _with_nan(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {name: NAN if value is None else value for name, value in stored.items()}


def settle(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Correct the p values of a claim's comparisons together, and say which of them hold."""
    corrected = holm([comparison.p for comparison in comparisons])
    return tuple(
        replace(comparison, p_holm=float(p), holds=bool(p < LEVEL))
        for comparison, p in zip(comparisons, corrected, strict=True)
    )
