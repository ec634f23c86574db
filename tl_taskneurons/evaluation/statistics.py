"""The statistics behind every table and claim, stated once and used everywhere. No torch.

- All tests are one-sided: is the effect above 0, in the direction that the claim gives?
- Means over seeds and items have Student's t intervals; ``mean_interval``, ``paired_effect``.
- Means over rows that belong together have these of the clusters' means; ``clustered``.
- Tasks have the signs of their effects flipped; ``sign_flip``.
- Labels of a matrix are permuted; ``diagonal_test``.
- Of several tests, how many hold is asked by ``partial_conjunction``; ``holm`` names which.
- Where a value is NaN, nothing is tested: p is NaN.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats
from scipy.optimize import root_scalar
from scipy.special import stdtrit

from tl_taskneurons.runtime.errors import InputError, InputTypeError

LEVEL = 0.05  # of every test
N_PERMUTATIONS = 10_000  # up to this number all permutations and sign flips are tried
N_SIMULATIONS = 500  # of a power
ROUND_OFF = 1e-12  # differences below it are 0: the mean of three equal numbers isn't exact
NAN = float("nan")

Contrast = Mapping[str, np.ndarray]
"""An effect as a sum of means: arrays ``[seeds, items]`` by the name of a set of items."""


class Estimate(NamedTuple):
    """An effect, its 95% interval, and its one-sided p value."""

    effect: float
    low: float
    high: float
    p: float


def paired_effect(contrast: Contrast | ArrayLike) -> Estimate:
    """Estimate an effect over seeds and items, both taken as samples, by Student's t.

    The squared standard error is that of the seeds' means plus that of the items' means less
    that of what is left of each cell, which both contain (variance components of a crossed
    design), and never less than the larger of the two. Its quantile is Cochran's: that of seeds
    and that of items, weighted by their squared errors. In 1,000 simulated tables of normal
    values each, intervals hold the true mean in 93 to 99%, with 3, 5 and 10 seeds, 2 to 200 items,
    and seeds, items, both or neither that differ.

    Args:
        contrast: the differences ``[seeds, items]``, or several sets of items. Items of different
            sets are independent; arrays with the same number of seeds share these. Arrays with
            one seed vary by items alone, and their interval says nothing about other seeds.

    Returns:
        The estimate. A single value has no interval (NaN) and a p of 1. Values that are all the
        same have an interval of no width, and the p of as many coins. Differences below 1e-12 are
        errors of rounding, and count as 0.
    """
    if not isinstance(contrast, Mapping):
        contrast = {"": np.asarray(contrast, dtype=float)}
    arrays = [_rounded(values) for values in contrast.values()]
    effect = float(sum(values.mean() for values in arrays))
    parts = [part for values in arrays for part in _of_items(values)]
    for n_seeds in sorted({len(values) for values in arrays} - {1}):
        means = np.sum([values.mean(1) for values in arrays if len(values) == n_seeds], axis=0)
        parts.append((float(means.var(ddof=1)) / n_seeds, n_seeds - 1))
    cells = math.fsum(_of_cells(values) for values in arrays if min(values.shape) > 1)
    return _student(effect, parts, cells, max(max(values.shape) for values in arrays))


def mean_interval(values: ArrayLike) -> tuple[float, float]:
    """Return the 95% interval of the mean of ``values [seeds, items]``; see ``paired_effect``.

    Values of one axis are items. Fewer than three values have no interval (NaN), nor have those
    with a NaN among them.
    """
    given = np.atleast_2d(np.asarray(values, dtype=float))
    if given.size < 3 or np.isnan(given).any():
        return NAN, NAN
    return paired_effect(given)[1:3]


def share_interval(hits: ArrayLike) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share, of values 0 and 1; (NaN, NaN) of fewer than 3.

    Unlike Student's it stays within 0 and 1, and has a width when all values are the same.
    """
    given = np.asarray(hits, dtype=float)
    if given.size < 3 or np.isnan(given).any():
        return NAN, NAN
    found = stats.binomtest(int(given.sum()), given.size).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def clustered(values: ArrayLike, clusters: ArrayLike) -> Estimate:
    """Estimate the mean of values that share what is drawn at random with others of a cluster.

    Rows of tasks with the same seed have the same tasks and items, so they are worth little more
    than one; a method that doesn't depend on the order gives the same row for every order. The
    means of clusters are independent: Student's t over these. Fewer than three clusters have no
    interval (NaN) and a p of 1; with a NaN among the values everything is NaN.

    Raises:
        InputError: for a value without a cluster.
    """
    given, labels = np.asarray(values, dtype=float), np.asarray(clusters)
    lacking = pd.isna(labels)
    if lacking.any():
        raise InputError(
            f"Values {np.flatnonzero(lacking).tolist()} (counted from 0) have no cluster; name it, "
            "or leave them out."
        )
    if np.isnan(given).any():
        return Estimate(NAN, NAN, NAN, NAN)
    means = pd.Series(given).groupby(labels).mean()
    if len(means) < 3:
        return Estimate(float(means.mean()), NAN, NAN, 1.0)
    return paired_effect(means.to_numpy()[:, None])


def average(contrasts: Sequence[Contrast]) -> dict[str, np.ndarray]:
    """Return the contrast whose effect is the mean effect of several."""
    total: dict[str, np.ndarray] = {}
    for contrast in contrasts:
        for name, values in contrast.items():
            share = values / len(contrasts)
            total[name] = total[name] + share if name in total else share
    return total


def sign_flip(values: ArrayLike) -> float:
    """Test whether the mean of a few independent differences is above 0, by flipping signs.

    Without an effect each difference could as well have the other sign. Up to 13 values all
    signs are tried, so that the smallest p is 1 / 2^n; above that 10,000 random ones. NaN with a
    NaN among the values.

    Raises:
        InputError: for no values.
    """
    given = _rounded(values)
    if not given.size:
        raise InputError("values is empty; give at least one difference.")
    if np.isnan(given).any():
        return NAN
    if len(given) == 1:  # SciPy asks for two
        return 0.5 if given[0] > 0 else 1.0
    return float(
        stats.permutation_test(
            (given,), np.mean, permutation_type="samples", alternative="greater",
            n_resamples=N_PERMUTATIONS, vectorized=True, rng=np.random.default_rng(0),
        ).pvalue
    )  # fmt: skip


def partial_conjunction(p: ArrayLike, least: int) -> float:
    """Test whether at least ``least`` of several effects are above 0 (Benjamini & Heller 2008).

    The ``least - 1`` smallest p values are set aside and the rest combined by Simes' method: were
    fewer effects above 0, some of the rest would have none. With all of them asked for, it is the
    largest p, which needs no correction (an intersection-union test). NaN with a NaN among them.

    Raises:
        InputError: unless ``least`` is from 1 to the number of p values.
    """
    rest = np.sort(np.asarray(p, dtype=float))[least - 1 :]
    if not 1 <= least <= len(np.atleast_1d(p)):
        raise InputError(f"least is {least}; it must be from 1 to {len(np.atleast_1d(p))}.")
    return float(np.minimum(1.0, (len(rest) / np.arange(1, len(rest) + 1) * rest).min()))


def power_of_t(effect: float, estimate: Estimate, df: int) -> float:
    """Return how often Student's test finds an effect, with the standard error of an estimate."""
    error = (estimate.high - estimate.low) / (2 * stats.t.ppf(0.975, df))
    if not error > 0:
        return NAN
    return float(stats.nct.sf(stats.t.ppf(1 - LEVEL, df), df, effect / error))


def power_of_sign_flip(effect: float, spread: float, n: int) -> float:
    """Return how often ``sign_flip`` finds a mean effect of ``n`` tasks with such a spread.

    A share of 500 simulations with normal values.
    """
    drawn = np.random.default_rng(0).normal(effect, spread, (N_SIMULATIONS, n))
    if n <= 13:
        signs = np.array(list(itertools.product((1, -1), repeat=n)))
    else:
        signs = np.random.default_rng(1).choice((1, -1), size=(N_PERMUTATIONS, n))
    sums = signs @ drawn.T
    return float(((sums >= drawn.sum(1) - 1e-12).mean(0) < LEVEL).mean())


def diagonal_test(matrix: ArrayLike, kinds: Sequence[str] | None = None, *, seed: int = 0) -> float:
    """Test whether the diagonal of a square matrix is above the rest, by permuting its rows.

    The statistic is the mean of the diagonal minus the mean of the rest. Up to 10,000 permutations
    all are tried, above that 10,000 random ones. NaN with a NaN in the matrix.

    Args:
        matrix: rows and columns of the same things in the same order.
        kinds: permute only rows of the same kind.
        seed: of random permutations.

    Raises:
        InputError: for a matrix that is empty or not square.
    """
    values = np.asarray(matrix, dtype=float)
    if not values.size or values.shape != (len(values), len(values)):
        raise InputError(f"The matrix has the shape {values.shape}; give a square one.")
    if np.isnan(values).any():
        return NAN
    # The whole sum stays the same, so the sum of the diagonal orders permutations alike.
    least = np.trace(values) - 1e-12 * np.abs(values).sum()
    labels = np.zeros(len(values), dtype=int) if kinds is None else np.asarray(kinds)
    places = [np.flatnonzero(labels == kind) for kind in np.unique(labels)]
    columns = np.concatenate(places)
    if n_permutations(labels) <= N_PERMUTATIONS:
        each = itertools.product(*(itertools.permutations(group) for group in places))
        orders = np.array([np.concatenate(order) for order in each])
        return float((values[orders, columns].sum(1) >= least).mean())
    rng = np.random.default_rng(seed)
    orders = np.concatenate(
        [rng.permuted(np.tile(group, (N_PERMUTATIONS, 1)), axis=1) for group in places], axis=1
    )
    return float((1 + (values[orders, columns].sum(1) >= least).sum()) / (1 + N_PERMUTATIONS))


def n_permutations(kinds: ArrayLike) -> int:
    """Count the permutations that keep every kind in its places."""
    return math.prod(math.factorial(count) for count in np.unique(kinds, return_counts=True)[1])


def slope(x: ArrayLike, values: ArrayLike) -> np.ndarray:
    """Return the least-squares slope along the first axis of ``values``, at the places ``x``.

    Raises:
        ValueError: for fewer than two different places.
    """
    places = np.asarray(x, dtype=float)
    if len(np.unique(places)) < 2:
        raise InputError(f"A slope needs two different places or more; x is {places.tolist()}.")
    centred = places - places.mean()
    return np.tensordot(centred / (centred**2).sum(), np.asarray(values, dtype=float), axes=1)


def _rounded(values: ArrayLike) -> np.ndarray:
    given = np.asarray(values, dtype=float)
    return np.where(np.abs(given) < ROUND_OFF, 0.0, given)


def _of_items(values: np.ndarray) -> list[tuple[float, int]]:
    """The squared standard error of the mean over items, with its degrees of freedom."""
    n_items = values.shape[1]
    return [(float(values.mean(0).var(ddof=1)) / n_items, n_items - 1)] if n_items > 1 else []


def _of_cells(values: np.ndarray) -> float:
    """The same of what neither seed nor item explains."""
    rest = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    return float((rest**2).sum()) / ((len(values) - 1) * (values.shape[1] - 1)) / values.size


def _student(effect: float, parts: Sequence[tuple[float, int]], cells: float, n: int) -> Estimate:
    if not parts:
        return Estimate(effect, NAN, NAN, 1.0)
    total = sum(part for part, _ in parts)
    error = math.sqrt(max(total - cells, *(part for part, _ in parts)))
    if error <= 1e-12 * abs(effect):  # all values are the same
        return Estimate(effect, effect, effect, 0.5**n if effect > 0 else 1.0)
    weights = np.array([part / total for part, _ in parts])
    df = np.array([df for _, df in parts])

    def beyond(p: float) -> float:
        return float(weights @ stdtrit(df, 1 - p))

    reach, t = error * beyond(0.025), abs(effect) / error
    least = 1e-12
    p = least
    if beyond(least) > t:
        p = root_scalar(lambda p: beyond(p) - t, bracket=(least, 0.5)).root
    return Estimate(effect, effect - reach, effect + reach, float(p if effect > 0 else 1 - p))


def holm(p: ArrayLike) -> np.ndarray:
    """Correct p values for their number by Holm's method; in the order they were given.

    A NaN is no test: it stays NaN, and is not counted.
    """
    given = np.asarray(p, dtype=float)
    order = given.argsort(kind="stable")[: np.count_nonzero(~np.isnan(given))]  # NaN comes last
    steps = np.maximum.accumulate(given[order] * np.arange(len(order), 0, -1))
    corrected = np.full_like(given, NAN)
    corrected[order] = steps.clip(max=1.0)
    return corrected


def require_columns(table: pd.DataFrame, columns: Sequence[str], name: str) -> None:
    """Raise ValueError when a table, called ``name`` in the message, lacks a column."""
    if not isinstance(table, pd.DataFrame):
        raise InputTypeError(
            f"{name} is {str(table)[:60]!r} ({type(table).__name__}); give a table "
            f"(pandas.DataFrame) with the columns {list(columns)}."
        )
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(
            f"{name} lacks the columns {missing}; it has {list(map(str, table.columns))}. Give a "
            "table that has them."
        )
