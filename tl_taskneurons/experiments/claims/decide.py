"""How a verdict is reached: five categories, each wrong in at most 5% of cases. No torch.

Fixed here before the runs that are published. With n comparisons, such as one for each task:

- *refuted*: the upper end of the mean effect's 95% interval lies below the smallest effect of
  interest, so that the effect, if there is one, is too small to matter;
- *supported for all*: every p is below 5%. An intersection-union test needs no correction;
- *supported for most*: three quarters or more (9 of 12) have an effect, by partial conjunction;
- *supported on average*: the mean effect is above 0, by flipping the signs of tasks (five or more),
  otherwise by Student's t over seeds;
- *inconclusive*: none of these, with the power to find the paper's effect;

and *not testable* where a table is missing or the trained model misses its gate.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tl_taskneurons.evaluation.statistics import (
    LEVEL,
    NAN,
    Contrast,
    Estimate,
    average,
    clustered,
    holm,
    paired_effect,
    partial_conjunction,
    power_of_sign_flip,
    power_of_t,
    sign_flip,
)
from tl_taskneurons.experiments.claims.verdicts import Category, Comparison, Question, Verdict

MOST = 0.75
MIN_FLIPPED = 5  # the smallest p of fewer sign flips is above 5%

STATEMENTS = {
    "C1": "Silencing a task's neurons hurts the task more than silencing as many random ones.",
    "C2": "Training a task's neurons helps the task more than training as many random ones.",
    "C3": "Silencing or training a task's neurons changes that task most, by rows and by columns.",
    "C4": "Trained together, tasks do best below a share of 100%; alone, they and the transfer "
    "to siblings rise with the share.",
    "C5": "Tasks of one type share more neurons than tasks of two types, at every share below "
    "100%.",
    "C6": "With as many trained neurons, more overlap with the tested task's neurons gives better "
    "transfer.",
    "C7": "Siblings' parameters are more alike than other tasks', the more so the deeper the "
    "layer.",
    "C8": "The more similar the parameters of two tasks, the better the transfer between them.",
    "C9": "Learning in a row: seq-ft < seq-lora < ncft < w-ncft, and w-ncft at most per-task.",
    "C10": "NCFT forgets less than seq-ft and seq-lora at every stage.",
    "C11": "What is supported of this is supported in every architecture.",
}


@dataclass(frozen=True)
class Pooled:
    """A mean effect, and how often it would be found if it were the one that is sought."""

    estimate: Estimate
    power: float


def over_tasks(effects: ArrayLike, sought: float) -> Pooled:
    """Pool the effects of tasks (five or more), which are taken as a sample."""
    values = np.asarray(effects, dtype=float)
    power = power_of_sign_flip(sought, float(values.std(ddof=1)), len(values))
    return Pooled(flipped(values), power)


def flipped(effects: np.ndarray) -> Estimate:
    """Estimate the mean of a sample of effects; p by flipping signs."""
    return paired_effect(effects[None])._replace(p=sign_flip(effects))


def over_seeds(contrast: Contrast, sought: float) -> Pooled:
    """Pool by Student's t over seeds and items; the tasks are taken as fixed."""
    found = paired_effect(contrast)
    most = max(len(values) for values in contrast.values())
    df = most - 1 if most > 1 else sum(values.shape[1] for values in contrast.values()) - 1
    return Pooled(found, power_of_t(sought, found, df) if df else NAN)


def over_clusters(values: ArrayLike, clusters: ArrayLike, sought: float) -> Pooled:
    """Pool rows that belong to clusters; see ``statistics.clustered``."""
    found = clustered(values, clusters)
    n = len(np.unique(np.asarray(clusters)))
    return Pooled(found, power_of_t(sought, found, n - 1) if n > 2 else NAN)


def pool(contrasts: Mapping[str, Contrast], sought: float) -> Pooled:
    """Pool tasks as a sample where there are enough, otherwise as fixed."""
    if len(contrasts) < MIN_FLIPPED:
        return over_seeds(average(list(contrasts.values())), sought)
    effects = [sum(values.mean() for values in each.values()) for each in contrasts.values()]
    return over_tasks(effects, sought)


def compare(question: Question, estimates: Mapping[str, Estimate]) -> tuple[Comparison, ...]:
    """Make comparisons of estimates by what is compared."""
    corrected = holm([1.0 if math.isnan(each.p) else each.p for each in estimates.values()])
    return tuple(
        Comparison(question.claim, question.part, what, *each, float(p), question.unit)
        for (what, each), p in zip(estimates.items(), corrected, strict=True)
    )


def judge(
    question: Question, estimates: Mapping[str, Estimate], pooled: Pooled, note: str
) -> Verdict:
    """Reach the verdict on a question.

    Args:
        question: what is asked.
        estimates: by what is compared; a p of NaN (no replicates) can't support "most" or "all".
        pooled: their mean effect.
        note: what was compared.
    """
    p = [1.0 if math.isnan(each.p) else each.p for each in estimates.values()]
    found, p_most, p_all = categorise(question, pooled.estimate, p)
    return _verdict(question, found, pooled, note, compare(question, estimates), p_most, p_all)


def categorise(
    question: Question, pooled: Estimate, p: Sequence[float]
) -> tuple[Category, float, float]:
    """Return the category, and the p of "most" (NaN of three or fewer) and of "all"."""
    least = math.ceil(MOST * len(p))
    p_most = partial_conjunction(p, least) if least < len(p) else NAN
    p_all = float(max(p))
    # Without any variance the interval is no interval, and nothing is excluded by it.
    if pooled.low < pooled.high < question.interest:
        return "refuted", p_most, p_all
    if p_all < LEVEL and len(p) > 1:
        return "supported for all", p_most, p_all
    if p_most < LEVEL:
        return "supported for most", p_most, p_all
    if pooled.p < LEVEL:
        return "supported on average", p_most, p_all
    return "inconclusive", p_most, p_all


def not_testable(question: Question, why: str) -> Verdict:
    """Return the verdict on a question without an answer."""
    nothing = Pooled(Estimate(NAN, NAN, NAN, NAN), NAN)
    return _verdict(question, "not testable", nothing, why, (), NAN, NAN)


def _verdict(
    question: Question,
    verdict: Category,
    pooled: Pooled,
    note: str,
    comparisons: Sequence[Comparison],
    p_most: float,
    p_all: float,
) -> Verdict:
    found = pooled.estimate
    return Verdict(
        claim=question.claim, part=question.part, primary=question.primary,
        statement=STATEMENTS[question.claim], verdict=verdict, effect=found.effect, low=found.low,
        high=found.high, p=found.p, p_most=p_most, p_all=p_all,
        n_hold=sum(each.p < LEVEL for each in comparisons),
        n=sum(not math.isnan(each.p) for each in comparisons), unit=question.unit,
        interest=question.interest, sought=question.sought, power=pooled.power, note=note,
        comparisons=tuple(comparisons),
    )  # fmt: skip
