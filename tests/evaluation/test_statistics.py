import itertools

import numpy as np
import pytest
from scipy import stats

from tl_taskneurons.evaluation.statistics import (
    average,
    clustered,
    diagonal_test,
    holm,
    mean_interval,
    n_permutations,
    paired_effect,
    partial_conjunction,
    power_of_sign_flip,
    power_of_t,
    share_interval,
    sign_flip,
    slope,
)

pytestmark = pytest.mark.needs("once")  # tables and numbers alone

# --- Holm ---


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1.0, 1.0])
    np.testing.assert_allclose(holm([0.02]), [0.02])
    assert holm([]).tolist() == []
    np.testing.assert_allclose(holm([0.01, np.nan, 0.02]), [0.02, np.nan, 0.02])  # two tests
    assert np.isnan(holm([np.nan])).all()


# --- sign flips ---


def test_sign_flip_by_hand():
    assert sign_flip([1, 2, 3]) == 1 / 8
    assert sign_flip([-1, 2, 3]) == 2 / 8  # only all plus is above it, and itself
    assert sign_flip([-1, -2, -3]) == 1
    assert sign_flip([0, 0]) == 1
    assert (sign_flip([2]), sign_flip([-2])) == (0.5, 1)
    assert sign_flip([0.1, 0.1, -0.1]) == 4 / 8  # ties count, whatever the rounding


def test_nothing_is_tested_of_a_nan():
    nan = float("nan")
    assert np.isnan([sign_flip([1, 2, nan, 3]), sign_flip([nan]), sign_flip([nan] * 20)]).all()
    assert np.isnan(diagonal_test([[0, 5, 5], [5, 0, nan], [5, 5, 0]]))
    assert np.isnan(clustered([1.0, 2.0, nan, 3.0, 4.0], [0, 1, 2, 2, 3])).all()
    assert np.isnan(partial_conjunction([0.01, nan, 0.02], 2))


def test_what_cannot_be_tested_is_told():
    with pytest.raises(ValueError, match="give at least one"):
        sign_flip([])
    for clusters in ([0, 1, np.nan, 2], ["a", "b", None, "c"]):
        with pytest.raises(ValueError, match=r"Values \[2\] .* have no cluster"):
            clustered([1.0, 2.0, 3.0, 4.0], clusters)
    for matrix in ([], np.ones((2, 3)), [1.0, 2.0]):
        with pytest.raises(ValueError, match="give a square one"):
            diagonal_test(matrix)


def test_sign_flip_of_many_is_near_the_exact_one():
    values = np.random.default_rng(0).normal(0.5, 1, 14)
    signs = np.array(list(itertools.product((1, -1), repeat=14)))
    exact = (signs @ values >= values.sum() - 1e-9).mean()
    assert sign_flip(values) == pytest.approx(exact, abs=0.01)
    assert sign_flip(np.ones(30)) == 1 / 10_001


# --- permutations ---


def test_diagonal_test_by_hand():
    assert diagonal_test(np.eye(4)) == 1 / 24
    assert diagonal_test(1 - np.eye(3)) == 1
    assert diagonal_test(np.ones((3, 3))) == 1
    matrix = [[3, 2, 0], [2, 2, 0], [0, 0, 0]]  # traces: 5, 4, 3, 2, 2, 0 by permutation
    assert diagonal_test(matrix) == 1 / 6


def test_diagonal_test_within_kinds():
    kinds = ["x", "x", "y", "y"]
    assert n_permutations(kinds) == 4
    assert diagonal_test(np.eye(4), kinds) == 1 / 4
    between = np.kron(np.eye(2), np.ones((2, 2)))  # the kinds differ, but nothing within them
    assert diagonal_test(between, kinds) == 1
    assert diagonal_test(between) == 4 / 24


def test_diagonal_test_samples_many_permutations():
    assert diagonal_test(np.eye(12)) == 1 / 10_001
    noise = np.random.default_rng(0).normal(size=(12, 12))
    assert diagonal_test(noise) == diagonal_test(noise)
    both = np.kron(np.eye(2), np.ones((8, 8)))
    assert diagonal_test(both, ["x"] * 8 + ["y"] * 8) == 1


def test_diagonal_test_has_its_size():
    rng = np.random.default_rng(0)
    found = [diagonal_test(rng.normal(size=(4, 4))) for _ in range(500)]
    assert np.mean(np.array(found) <= 0.25) == pytest.approx(0.25, abs=0.06)


# --- slopes ---


def test_slope_by_hand():
    assert slope([0, 1, 2], [1, 3, 5]) == pytest.approx(2)
    assert slope([0, 1, 2], [0, 0, 3]) == pytest.approx(1.5)
    np.testing.assert_allclose(slope([0.5, 1.0], [[1, 2], [2, 2]]), [2, 0])


def test_slope_needs_two_places():
    with pytest.raises(ValueError, match=r"two different places.*\[0\.1, 0\.1\]"):
        slope([0.1, 0.1], [1, 2])


# --- effects over seeds and items ---


def test_paired_effect_of_constant_values():
    assert paired_effect(np.full((3, 4), 0.25)) == (0.25, 0.25, 0.25, 1 / 2**4)
    assert paired_effect(np.zeros((3, 4))).p == 1
    assert paired_effect(np.full((3, 4), -0.25)).p == 1


@pytest.mark.parametrize("by_seed", [True, False])
@pytest.mark.parametrize("n", [2, 4, 100])
def test_one_axis_is_students(by_seed: bool, n: int):
    values = np.random.default_rng(0).normal(0.2, 1, n)
    found = paired_effect(values[:, None] if by_seed else values[None])
    exact = stats.ttest_1samp(values, 0, alternative="greater")[1]
    low, high = stats.ttest_1samp(values, 0).confidence_interval()
    assert found == pytest.approx((values.mean(), low, high, exact))


def test_interval_and_p_agree():
    rng = np.random.default_rng(0)
    for shift in (-0.2, 0.0, 0.1, 0.3):
        values = rng.normal(shift, 0.5, (3, 20)) + rng.normal(0, 0.1, (3, 1))
        found = paired_effect(values)
        assert (found.p < 0.025) == (found.low > 0)
        assert paired_effect(-values).p == pytest.approx(1 - found.p)
        edge = paired_effect(values - found.low)  # its interval begins at 0
        assert edge.p == pytest.approx(0.025, abs=1e-6)


def test_a_single_value_has_no_interval():
    found = paired_effect([[0.5]])
    assert found.effect == 0.5
    assert np.isnan([found.low, found.high]).all()
    assert found.p == 1


def test_effects_are_sums_of_means():
    first, second = np.array([[1.0, 3.0]]), np.array([[1.0, 1.0, 4.0], [2.0, 2.0, 2.0]])
    assert paired_effect({"a": first, "b": -second}).effect == 0
    one = paired_effect({"b": second})
    assert one.effect == 2
    assert one.low < 2 < one.high


def test_average_of_contrasts():
    first, second = np.array([[1.0, 3.0]]), np.array([[1.0, 1.0], [3.0, 3.0]])
    mean = average([{"a": first}, {"a": second, "b": second}])
    np.testing.assert_allclose(mean["a"], [[1, 2], [2, 3]])
    np.testing.assert_allclose(mean["b"], second / 2)


@pytest.mark.parametrize("n", [3, 5, 9, 40])
def test_intervals_of_few_values_hold_the_true_mean(n: int):
    draws = np.random.default_rng(0).normal(1.0, 2.0, (2000, n))
    spans = np.array([mean_interval(values) for values in draws])
    assert ((spans[:, 0] <= 1) & (spans[:, 1] >= 1)).mean() >= 0.93
    if n <= 9:  # why few values are not resampled: a bootstrap's interval is too narrow
        picks = np.random.default_rng(1).integers(0, n, (200, n))
        naive = np.percentile(draws[:, picks].mean(-1), [2.5, 97.5], axis=1)
        assert ((naive[0] <= 1) & (naive[1] >= 1)).mean() < 0.93


@pytest.mark.parametrize(
    ("shape", "seed_spread", "item_spread"),
    [((3, 60), 0.0, 0.0), ((3, 60), 0.5, 0.0), ((3, 60), 0.1, 0.3), ((5, 200), 0.2, 0.0),
     ((2, 40), 0.1, 0.0)],
)  # fmt: skip
def test_false_positives_and_coverage(shape, seed_spread, item_spread):
    rng = np.random.default_rng(0)
    n_tables, positive, held = 400, 0, 0
    for _ in range(n_tables):
        values = rng.normal(0, 0.5, shape)
        values += rng.normal(0, seed_spread, (shape[0], 1))
        values += rng.normal(0, item_spread, (1, shape[1]))
        found = paired_effect(values)
        positive += found.p < 0.05
        held += found.low <= 0 <= found.high
    # What chance allows a rate of 5%, and a coverage of 93%, in 99 of 100 simulations.
    assert positive <= stats.binom.ppf(0.99, n_tables, 0.05)
    assert held >= stats.binom.ppf(0.01, n_tables, 0.93)


@pytest.mark.parametrize(("n_items", "has_one"), [(1, False), (2, False), (3, True)])
def test_an_interval_needs_three_values(n_items: int, has_one: bool):
    values = np.arange(n_items, dtype=float)
    assert np.isfinite(mean_interval(values)).tolist() == [has_one, has_one]
    assert np.isfinite(share_interval(values > 0)).tolist() == [has_one, has_one]
    assert np.isfinite(clustered(values, values)[1:3]).tolist() == [has_one, has_one]
    assert np.isnan(mean_interval([1.0, 2.0, np.nan, 4.0])).all()


def test_an_interval_over_seeds_is_wider_when_seeds_differ():
    same = np.tile(np.random.default_rng(1).normal(size=50), (5, 1))
    shifted = same + np.arange(5)[:, None]
    width = [high - low for low, high in (mean_interval(same), mean_interval(shifted))]
    assert width[1] > 2 * width[0]


# --- clusters ---


def test_identical_rows_are_no_further_evidence():
    once = clustered([0.1, 0.2, 0.6], [0, 1, 2])
    thrice = clustered([0.1, 0.2, 0.6] * 3, [0, 1, 2] * 3)
    assert thrice == pytest.approx(once)
    assert once == pytest.approx(paired_effect([[0.1], [0.2], [0.6]]))
    assert clustered([0.1, 0.2, 0.6], [0, 1, 1]).p == 1


@pytest.mark.parametrize("correlation", [0.6, 0.9])
def test_rows_of_a_seed_are_clustered(correlation: float):
    rng = np.random.default_rng(0)
    seeds, n, hits, naive, positive = np.repeat([0, 1, 2], 3), 1000, 0, 0, 0
    for _ in range(n):
        shared = rng.normal(0, correlation**0.5, 3)[seeds]
        values = shared + rng.normal(0, (1 - correlation) ** 0.5, 9)
        found = clustered(values, seeds)
        hits += found.low <= 0 <= found.high
        positive += found.p < 0.05
        low, high = mean_interval(values)
        naive += low <= 0 <= high
    assert hits / n >= 0.93
    assert positive <= stats.binom.ppf(0.99, n, 0.05)
    assert naive / n < 0.85


# --- several effects, and power ---


def test_partial_conjunction_by_hand():
    p = [0.01, 0.04, 0.02, 0.30]
    assert partial_conjunction(p, 4) == 0.30
    assert partial_conjunction(p, 3) == pytest.approx(2 * 0.04)  # Simes of .04 and .30
    assert partial_conjunction(p, 1) == pytest.approx(4 * 0.01)
    with pytest.raises(ValueError, match="least is 5; it must be from 1 to 4"):
        partial_conjunction(p, 5)


def test_partial_conjunction_has_its_size():
    rng = np.random.default_rng(0)
    drawn = rng.uniform(size=(4000, 12))
    drawn[:, :8] = 1e-9  # eight effects there are, and nine are asked for
    found = [partial_conjunction(p, 9) < 0.05 for p in drawn]
    assert sum(found) <= stats.binom.ppf(0.99, len(found), 0.05)
    drawn[:, 8:10] = 1e-9
    assert all(partial_conjunction(p, 9) < 0.05 for p in drawn)


def test_power_is_how_often_an_effect_is_found():
    rng = np.random.default_rng(0)
    tables = rng.normal(0.5, 1.0, (1000, 12))
    flips = np.mean([sign_flip(values) < 0.05 for values in tables[:100]])
    assert power_of_sign_flip(0.5, 1.0, 12) == pytest.approx(flips, abs=0.1)
    students = np.mean([paired_effect(values[None]).p < 0.05 for values in tables])
    exact = paired_effect(np.array([[-1.0, 1.0] * 6]) * (11 / 12) ** 0.5 + 0.5)  # spread of 1
    assert power_of_t(0.5, exact, 11) == pytest.approx(students, abs=0.04)
    assert power_of_sign_flip(0.0, 1.0, 12) == pytest.approx(0.05, abs=0.03)
    assert np.isnan(power_of_t(0.5, paired_effect([[1.0]]), 1))


def test_rounding_is_no_effect():
    noise = np.random.default_rng(0).normal(1e-17, 1e-18, (3, 40))
    assert paired_effect(noise) == (0.0, 0.0, 0.0, 1.0)
    assert sign_flip(noise.mean(0)[:8]) == 1.0
    constant = slope([0.1, 0.5, 1.0], np.full((3, 3, 40), 0.3))  # a slope of a constant isn't exact
    assert constant.any()
    assert paired_effect(constant) == (0.0, 0.0, 0.0, 1.0)
