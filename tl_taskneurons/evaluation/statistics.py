"""The statistics behind every claim, stated once and used everywhere. No torch.

- All tests are one-sided: is the effect above 0, in the direction that the claim gives?
- Scores are compared in pairs, the same items and seeds with and without; ``paired_effect``.
- A few units without items (rows of tasks, samples for detection) have their signs flipped;
  ``sign_flip``.
- Labels of a matrix are permuted; ``diagonal_test``.
- All comparisons of a claim are corrected together by Holm's method, at 5%; ``settle``.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from tl_taskneurons.runtime.errors import InputError

N_RESAMPLES = 2000  # of a bootstrap interval
N_DRAWS = 10_000  # so that the smallest p, 1/10,001, passes Holm's correction of a whole claim
N_PERMUTATIONS = 10_000  # also the number up to which all permutations are tried

Contrast = Mapping[str, np.ndarray]
"""An effect as a sum of means: arrays ``[seeds, items]`` by the name of a set of items."""


class Estimate(NamedTuple):
    """An effect, its 95% interval, and its one-sided p value."""

    effect: float
    low: float
    high: float
    p: float


def paired_effect(values: ArrayLike, *, seed: int = 0, n_boot: int = N_DRAWS) -> Estimate:
    """Estimate the mean of differences ``[seeds, items]``; see ``paired_effects``."""
    return paired_effects([{"": np.asarray(values, dtype=float)}], seed=seed, n_boot=n_boot)[0]


def paired_effects(
    contrasts: Sequence[Contrast], *, seed: int = 0, n_boot: int = N_DRAWS
) -> list[Estimate]:
    """Estimate effects by a bootstrap over seeds and items.

    Each of ``n_boot`` draws is the effect plus two deviations. Items are resampled with
    replacement, each set of items apart from the others but alike in all contrasts. Seeds are too
    few to be resampled: three of them have ten samples, and their spread is one third too small.
    Their deviation is drawn from Student's t with seeds - 1 degrees of freedom, times the standard
    error of the seeds' means. The items' deviation is widened likewise, by sqrt(n / (n - 1)) and
    t's tails, which matters below some 20 items. ``p`` is (1 + draws of at most 0) / (1 + n_boot).

    Where there is no effect, p < 5% in this share of 2,000 simulated tables (noise in all cells;
    then seeds, items or both that differ, besides): with 3 seeds and 60 items 1.0, 5.5, 2.0 and
    2.5%; with 5 seeds and 200 items 1.1, 4.4, 3.3 and 4.4%. The 5.5% is of 6,000 tables, standard
    error 0.3%; Student's t alone, which this case comes down to, has 5% exactly. With seeds that
    differ, an interval that resamples them instead is above 0 in 13.4% and 7.3%, where 2.5% is
    meant. The price is power: a p of 0.4%, the least that Holm asks of 12 tasks, takes about 11
    standard errors with 3 seeds, and 5 with 5 seeds.

    Args:
        contrasts: the effects; arrays of the same name have the same items. The arrays of one
            contrast with the same number of seeds share these; those with one seed vary by items
            alone, and their interval says nothing about other seeds.
        seed: of the draws.
        n_boot: number of draws.

    Returns:
        One estimate per contrast. A single value has no interval (NaN), and a p of 1.
    """
    rng = np.random.default_rng(seed)
    effects = np.array([sum(v.mean() for v in contrast.values()) for contrast in contrasts])
    draws = np.tile(effects, (n_boot, 1))
    for name in dict.fromkeys(name for contrast in contrasts for name in contrast):
        places = [place for place, contrast in enumerate(contrasts) if name in contrast]
        means = np.stack([contrasts[place][name].mean(0) for place in places])
        draws[:, places] += _item_deviations(means, rng, n_boot)
    for n_seeds in sorted({len(v) for contrast in contrasts for v in contrast.values()} - {1}):
        errors = [_standard_error(contrast, n_seeds) for contrast in contrasts]
        draws += rng.standard_t(n_seeds - 1, n_boot)[:, None] * np.array(errors)
    return [
        _estimate(float(effect), draws[:, place], contrasts[place])
        for place, effect in enumerate(effects)
    ]


def average(contrasts: Sequence[Contrast]) -> dict[str, np.ndarray]:
    """Return the contrast whose effect is the mean effect of several."""
    total: dict[str, np.ndarray] = {}
    for contrast in contrasts:
        for name, values in contrast.items():
            share = values / len(contrasts)
            total[name] = total[name] + share if name in total else share
    return total


def sign_flip(values: ArrayLike, *, seed: int = 0) -> float:
    """Test whether the mean of a few independent differences is above 0, by flipping signs.

    Without an effect each difference could as well have the other sign. Up to 12 values all
    signs are tried, so that the smallest p is 1 / 2^n; above that 10,000 random ones.
    """
    given = np.asarray(values, dtype=float)
    least = given.sum() - 1e-12 * np.abs(given).sum()  # rounding must not break ties
    if len(given) <= 12:
        signs = np.array(list(itertools.product((1, -1), repeat=len(given))))
        return float((signs @ given >= least).mean())
    signs = np.random.default_rng(seed).choice((1, -1), size=(N_PERMUTATIONS, len(given)))
    return float((1 + (signs @ given >= least).sum()) / (1 + N_PERMUTATIONS))


def diagonal_test(matrix: ArrayLike, kinds: Sequence[str] | None = None, *, seed: int = 0) -> float:
    """Test whether the diagonal of a square matrix is above the rest, by permuting its rows.

    The statistic is the mean of the diagonal minus the mean of the rest. Up to 10,000 permutations
    all are tried, above that 10,000 random ones.

    Args:
        matrix: rows and columns of the same things in the same order.
        kinds: permute only rows of the same kind.
        seed: of random permutations.
    """
    values = np.asarray(matrix, dtype=float)
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


def _item_deviations(means: np.ndarray, rng: np.random.Generator, n_boot: int) -> np.ndarray:
    """Deviations ``[draw, contrast]`` of the mean over items, for ``means [contrast, item]``."""
    n = means.shape[1]
    if n == 1:
        return np.zeros((n_boot, len(means)))
    weights = rng.multinomial(n, np.full(n, 1 / n), size=n_boot) / n
    widened = np.sqrt(n / rng.chisquare(n - 1, n_boot))  # sqrt(n / (n - 1)) and t's tails
    return (weights - 1 / n) @ means.T * widened[:, None]


def _standard_error(contrast: Contrast, n_seeds: int) -> float:
    """Of the mean over seeds, of the arrays with so many of them."""
    rows = [values.mean(1) for values in contrast.values() if len(values) == n_seeds]
    return float(np.std(np.sum(rows, axis=0), ddof=1) / np.sqrt(n_seeds)) if rows else 0.0


def _estimate(effect: float, draws: np.ndarray, contrast: Contrast) -> Estimate:
    if all(values.size == 1 for values in contrast.values()):
        return Estimate(effect, float("nan"), float("nan"), 1.0)
    low, high = np.percentile(draws, [2.5, 97.5])
    p = (1 + (draws <= 1e-12).sum()) / (1 + len(draws))
    return Estimate(effect, float(low), float(high), float(p))


def bootstrap(
    values: np.ndarray,
    *,
    seed: int = 0,
    n_boot: int = N_RESAMPLES,
) -> tuple[float, float]:
    """Return a 95% percentile interval of the mean of ``values [seeds, items]``.

    Seeds and items are resampled independently; with one seed only items are. Fewer than three
    items have no interval (NaN): that of two would be the two values, which hold the true mean
    between them half of the time. An interval of few items is too narrow.

    Args:
        values: one row per seed (control), one column per item.
        seed: of the resampling.
        n_boot: number of resamples.
    """
    n_seeds, n_items = values.shape
    if n_items < 3 or np.isnan(values).any():
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    items = rng.multinomial(n_items, np.full(n_items, 1 / n_items), size=n_boot) / n_items
    per_seed = items @ values.T
    if n_seeds > 1:
        weights = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=n_boot) / n_seeds
        means = (per_seed * weights).sum(1)
    else:
        means = per_seed[:, 0]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def holm(p: ArrayLike) -> np.ndarray:
    """Correct p values for their number by Holm's method; in the order they were given."""
    given = np.asarray(p, dtype=float)
    order = given.argsort(kind="stable")
    steps = np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1))
    corrected = np.empty_like(given)
    corrected[order] = steps.clip(max=1.0)
    return corrected


def require_columns(table: pd.DataFrame, columns: Sequence[str], name: str) -> None:
    """Raise ValueError when a table, called ``name`` in the message, lacks a column."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(
            f"{name} lacks the columns {missing}; it has {list(map(str, table.columns))}."
        )
