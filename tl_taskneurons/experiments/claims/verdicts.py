"""What the test of a claim finds: a verdict with its comparisons, and its forms on disk. No torch.

How a verdict is reached is in ``decide``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import pandas as pd

from tl_taskneurons.evaluation.statistics import NAN
from tl_taskneurons.runtime.errors import InputError

Category = Literal[
    "supported for all", "supported for most", "supported on average", "refuted", "inconclusive",
    "not testable",
]  # fmt: skip


# How the note of a question begins whose experiment was not run.
UNASKED = ("no table", "no rows")


@dataclass(frozen=True)
class Question:
    """One way to ask a claim, fixed before any table is there.

    Attributes:
        claim: ``"C1"`` to ``"C11"``.
        part: what is asked, such as ``"speed"``, with the setting, such as ``"1%"``.
        unit: what effects are measured in.
        interest: the smallest effect of interest; below it the claim is refuted.
        paper: the paper's own effect in this unit, or None where the paper gives none.
        primary: whether the claim's verdict on the first page is this one's.
    """

    claim: str
    part: str
    unit: str
    interest: float
    paper: float | None = None
    primary: bool = True

    @property
    def sought(self) -> float:
        """The effect that the power is given for."""
        return self.interest if self.paper is None else self.paper


@dataclass(frozen=True)
class Comparison:
    """One comparison of a question.

    Attributes:
        claim: ``"C1"`` to ``"C11"``.
        part: that of the question.
        what: what is compared, such as the task's name.
        effect: above 0 if it is as the claim says.
        low: lower end of the 95% interval.
        high: its upper end.
        p: one-sided: effect above 0; NaN without replicates.
        p_holm: corrected for all comparisons of the question, to name those that hold.
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
    unit: str


@dataclass(frozen=True)
class Verdict:
    """What the test of a question found.

    Attributes:
        claim: ``"C1"`` to ``"C11"``.
        part: what was asked, and in which setting.
        primary: whether this is the claim's verdict on the first page.
        statement: the claim in one line.
        verdict: the category; see ``decide``.
        effect: mean effect of the comparisons; NaN without any.
        low: lower end of its 95% interval.
        high: its upper end.
        p: of the mean effect.
        p_most: of the partial conjunction, NaN without one.
        p_all: of all comparisons together, their largest p.
        n_hold: how many comparisons have p < 5%.
        n: how many have a p of their own; none has without replicates, as with one seed in C7.
        unit: what effects are measured in.
        interest: the smallest effect of interest.
        sought: the paper's effect, or where it gives none the smallest of interest.
        power: how often the mean effect would be found if it were ``sought``, with the spread
            that was seen.
        note: what was compared, or what is missing for a test.
        comparisons: all of them.
    """

    claim: str
    part: str
    primary: bool
    statement: str
    verdict: Category
    effect: float
    low: float
    high: float
    p: float
    p_most: float
    p_all: float
    n_hold: int
    n: int
    unit: str
    interest: float
    sought: float
    power: float
    note: str
    comparisons: tuple[Comparison, ...]

    @property
    def asked(self) -> bool:
        """Whether the tables are there that the question needs."""
        return not self.note.startswith(UNASKED) or self.verdict != "not testable"

    @property
    def supported(self) -> bool:
        """Whether it is supported in one of the three ways."""
        return self.verdict.startswith("supported")


def frame(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row per verdict, without its comparisons."""
    columns = [each.name for each in fields(Verdict) if each.name != "comparisons"]
    return pd.DataFrame([[getattr(v, name) for name in columns] for v in verdicts], columns=columns)


def comparisons_frame(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row per comparison of all verdicts; the columns are ``Comparison``'s."""
    return pd.DataFrame(
        [asdict(comparison) for verdict in verdicts for comparison in verdict.comparisons],
        columns=[field.name for field in fields(Comparison)],
    )


def headline(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Return the verdicts for the first page."""
    return [verdict for verdict in verdicts if verdict.primary]


def to_json(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return what ``from_json`` reads; numbers that are NaN become None."""
    return {"claims": [_without_nan(asdict(verdict)) for verdict in verdicts]}


def from_json(stored: Mapping[str, Any]) -> list[Verdict]:
    """Read what ``to_json`` returned.

    Raises:
        InputError: for anything else, also the verdicts of the first version (holds, fails).
    """
    try:
        return [_verdict(dict(each)) for each in stored["claims"]]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"This is no file of verdicts on claims ({type(error).__name__}: {error}); give the "
            "claims.json of a reproduction, made by this version."
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
