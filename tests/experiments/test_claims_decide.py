"""Verdicts on simulated effects: each category is reached when it should be, and wrong in 5%."""

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from tl_taskneurons.evaluation.statistics import NAN, Estimate, paired_effect
from tl_taskneurons.experiments.claims.decide import (
    Pooled,
    categorise,
    flipped,
    judge,
    not_testable,
    over_clusters,
    over_seeds,
    over_tasks,
    pool,
)
from tl_taskneurons.experiments.claims.verdicts import Question

pytestmark = pytest.mark.needs("once")  # tables and numbers alone

QUESTION = Question("C1", "", "nats", 0.5)
N = 120


def verdict(effects: np.ndarray, rng, spread: float = 1.0, seeds: int = 5) -> str:
    """Of tasks with true effects, each seen with several seeds."""
    values = effects + rng.normal(0, spread, (seeds, len(effects)))
    # What ``paired_effect`` gives, for all tasks at once.
    p = np.asarray(stats.ttest_1samp(values, 0, alternative="greater")[1])
    return categorise(QUESTION, flipped(values.mean(0)), p.tolist())[0]


def counts(effects, spread: float = 1.0) -> Counter:
    rng = np.random.default_rng(0)
    return Counter(verdict(np.asarray(effects, dtype=float), rng, spread) for _ in range(N))


def at_most_5_percent(n: int) -> bool:
    return bool(n <= stats.binom.ppf(0.99, N, 0.05))


def test_no_effect_is_rarely_supported():
    found = counts([0.0] * 12)
    assert at_most_5_percent(sum(n for name, n in found.items() if name.startswith("supported")))


def test_some_effects_do_not_make_an_average():
    found = counts([2.0, -2.0] * 6)
    assert at_most_5_percent(sum(n for name, n in found.items() if name.startswith("supported")))


def test_eight_effects_are_rarely_most_and_eleven_rarely_all():
    eight = counts([5.0] * 8 + [0.0] * 4)
    assert at_most_5_percent(eight["supported for most"] + eight["supported for all"])
    assert eight["supported on average"] > 0.9 * N
    eleven = counts([9.0] * 11 + [0.0])
    assert at_most_5_percent(eleven["supported for all"])
    assert eleven["supported for most"] > 0.9 * N


def test_what_is_as_large_as_interesting_is_rarely_refuted():
    found = counts([0.5] * 12, spread=0.5)
    assert at_most_5_percent(found["refuted"])
    assert found["supported for all"] < N / 2


def test_each_category_is_reached():
    assert counts([9.0] * 12)["supported for all"] == N
    assert counts([0.0] * 12, spread=0.3)["refuted"] > 0.95 * N
    assert counts([0.2] * 12, spread=0.3)["refuted"] > 0.95 * N  # there, but too small to matter
    assert counts([0.5] * 12, spread=3.0)["inconclusive"] > 0.5 * N
    assert not_testable(QUESTION, "why").verdict == "not testable"


def test_single_comparisons_and_those_without_replicates():
    one = Estimate(1.0, 0.7, 1.3, 0.001)
    assert judge(QUESTION, {"a": one}, Pooled(one, 1.0), "").verdict == "supported on average"
    bare = one._replace(p=NAN)
    found = judge(QUESTION, dict.fromkeys("abcde", bare), Pooled(one, 1.0), "")
    assert found.verdict == "supported on average"
    assert (found.n_hold, found.n, len(found.comparisons)) == (0, 0, 5)


def test_pools():
    rng = np.random.default_rng(0)
    few = {name: {name: rng.normal(1, 0.1, (3, 4))} for name in "abcd"}
    fixed = pool(few, 0.5).estimate
    mean = {name: each[name] / 4 for name, each in few.items()}
    assert fixed == pytest.approx(paired_effect(mean))
    many = {**few, "e": {"e": rng.normal(1, 0.1, (3, 4))}}
    assert pool(many, 0.5).estimate.p == 1 / 32
    seeds = over_clusters([1.0, 1.0, 2.0, 2.0, 4.0, 4.0], [0, 0, 1, 1, 2, 2], 1.0).estimate
    assert seeds == pytest.approx(paired_effect(np.array([[1.0], [2.0], [4.0]])))


def test_power_is_that_of_the_decision():
    rng = np.random.default_rng(0)
    effects = rng.normal(0.0, 1.0, 12)
    spread = effects.std(ddof=1)
    said = over_tasks(effects, 0.5).power
    found = np.mean([flipped(rng.normal(0.5, spread, 12)).p < 0.05 for _ in range(200)])
    assert said == pytest.approx(found, abs=0.1)
    assert over_tasks(effects, 5.0).power == 1
    assert over_seeds({"": rng.normal(0, 1, (5, 4))}, 9.0).power > 0.95


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (-0.004, 0.004)])
def test_values_without_variance_refute_nothing(low: float, high: float):
    question = Question("C6", "transfer", "nats", 0.02)
    verdict, _, _ = categorise(question, Estimate(0.0, low, high, 1.0), [1.0])
    assert verdict == ("inconclusive" if low == high else "refuted")
