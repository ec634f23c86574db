"""Which neurons tasks share, and whether that is more than chance would give (paper, section 3)."""

import functools
import itertools
import operator
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from tl_taskneurons.evaluation.statistics import holm
from tl_taskneurons.neurons.given import Scores, Sets, named_scores, named_sets
from tl_taskneurons.neurons.sets import NeuronSet, require_same_origin
from tl_taskneurons.runtime.errors import InputError, InputTypeError, did_you_mean

_SMALLEST = 1e-300


def overlap(sets: Sets, other: Sets | None = None) -> pd.DataFrame:
    """Compare sets of neurons pair by pair.

    Chance means: both sets keep their number of neurons in each layer, and these are placed at
    random there, as ``NeuronSet.random_like`` does. The number that a layer shares is then
    hypergeometric, and the total is a sum of independent ones, whose distribution is computed
    exactly, by convolution. The p value is one-sided (at least so many shared). Probabilities below
    1e-300 are left out, so a p of 0 means about that or less.

    Chance is a low bar: the top neurons of a real model include many that every input needs, so
    plain sets of unrelated tasks overlap significantly too. Compare pairs with each other, or
    compare contrastive sets (``select``).

    Args:
        sets: the sets by name, or in a list.
        other: what to compare them with; by default each other, every pair once. ``overlap(sets,
            sets)`` is the full grid, each set with itself included.

    Returns:
        One row per pair: ``task_x, task_y, n_x, n_y, shared, iou`` (the paper's overlap rate:
        shared neurons / neurons in either), ``share_of_x, share_of_y`` (shared / the set's own
        number), ``expected_shared, expected_iou`` (means under chance), ``z`` (standard deviations
        above ``expected_shared``; NaN where chance leaves no freedom, e.g. for full layers), ``p``,
        and ``p_holm``, Holm's correction for all pairs of the table, which holds although the pairs
        have sets in common.

    Raises:
        ValueError: for an empty set, fewer than two sets and no ``other``, or sets of different
            models.
    """
    members, pairs = pair_up(sets, other)
    rows = [_compare(*members[i], *members[j]) for i, j in pairs]
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p"]))


def overlap_matrix(
    sets: Sets,
    other: Sets | None = None,
    *,
    column: str = "iou",
) -> pd.DataFrame:
    """Return one column of ``overlap`` as a matrix, ``task_x`` down and ``task_y`` across.

    Args:
        sets: the rows.
        other: the columns; by default the same sets.
        column: any number that ``overlap`` returns. Without ``other``, ``"p_holm"`` corrects for
            every pair once, as ``overlap(sets)`` does, and is NaN on the diagonal.

    Raises:
        ValueError: for an unknown column, and as ``overlap`` does.
    """
    sets = named_sets(sets)
    across = sets if other is None else named_sets(other)
    if other is None and column == "p_holm":
        table = overlap(sets)
        turned = table.rename(columns={"task_x": "task_y", "task_y": "task_x"})
        table = pd.concat([table, turned])
    else:
        table = overlap(sets, across)
    if column not in table.columns[2:]:
        raise InputError(
            f"Unknown column {column!r}{did_you_mean(column, list(table.columns[2:]))}"
        )
    wide = table.pivot(index="task_x", columns="task_y", values=column)
    return wide.loc[list(sets), list(across)]


def group_overlap(
    sets: Sets,
    groups: Mapping[str, Sequence[str]],
    other: Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:
    """Compare groups of tasks, each with the union of its tasks' neurons.

    The paper's four overlap rates compare ``groups``, the trained tasks of each kind, with
    ``other``, the unseen tasks of each kind: ``group_overlap(sets, {"CLS": ["amazon", "qqp",
    "mnli"], "GEN": [...]}, {"CLS": ["sst2", "paws", "gptnli"], "GEN": [...]})``.

    Args:
        sets: the tasks' sets by name.
        groups: names of tasks by name of the group.
        other: the groups to compare them with; by default each other.

    Returns:
        The columns of ``overlap``; ``task_x`` and ``task_y`` are names of groups.

    Raises:
        ValueError: for a group that is empty or names an unknown task, and as ``overlap`` does.
    """
    sets = named_sets(sets)
    return overlap(_unions(sets, groups), None if other is None else _unions(sets, other))


def overlap_by_fraction(
    scores: Scores,
    fractions: Sequence[float] | np.ndarray,
    groups: Mapping[str, Sequence[str]] | None = None,
    other: Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:
    """Compare the tasks' top neurons at several sizes (the paper's Table 8).

    Args:
        scores: the tasks' scores by name.
        fractions: shares of all neurons, in (0, 1], e.g. ``(0.1, 0.3, 0.5, 0.7, 1.0)``.
        groups: compare groups of tasks, as ``group_overlap`` does, instead of single tasks.
        other: the groups to compare ``groups`` with.

    Returns:
        ``fraction`` and the columns of ``overlap``. ``p_holm`` corrects within a fraction.

    Raises:
        ValueError: without fractions, for ``other`` without ``groups``, and as ``group_overlap``
            and ``NeuronScores.top`` do.
    """
    scores = named_scores(scores)
    if isinstance(fractions, int | float | str):
        raise InputTypeError(f"fractions is {fractions!r}; give a list, e.g. (0.1, 0.5).")
    if not len(fractions):
        raise InputError("fractions is empty; give at least one, e.g. (0.1, 0.3, 0.5, 0.7, 1.0).")
    if other is not None and groups is None:
        raise InputError("other names groups to compare `groups` with, but there are no groups.")
    tables = []
    for fraction in fractions:
        sets = {name: own.top(fraction=fraction) for name, own in scores.items()}
        table = overlap(sets) if groups is None else group_overlap(sets, groups, other)
        table.insert(0, "fraction", fraction)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def pair_up(
    sets: Sets, other: Sets | None
) -> tuple[list[tuple[str, NeuronSet]], list[tuple[int, int]]]:
    """List the sets that a table compares, and its pairs.

    Returns:
        The sets of both mappings with their names, and each pair as two positions in that list.

    Raises:
        ValueError: for an empty set, no pair to compare, or sets of different models.
    """
    sets, other = named_sets(sets), None if other is None else named_sets(other)
    members = [*sets.items(), *(other or {}).items()]
    if other is None:
        pairs = list(itertools.combinations(range(len(members)), 2))
    else:
        pairs = list(itertools.product(range(len(sets)), range(len(sets), len(members))))
    if not pairs:
        against = "" if other is None else f" and {list(other)}"
        raise InputError(
            f"There is no pair of sets to compare in {list(sets)}{against}; give at least two."
        )
    for name, neurons in members:
        require_same_origin(members[0][1], neurons)
        if not len(neurons):
            raise InputError(
                f"The set {name!r} is empty, so nothing can be said of what it shares; leave it "
                "out or select more neurons."
            )
    return members, pairs


def _compare(name_x: str, x: NeuronSet, name_y: str, y: NeuronSet) -> dict[str, str | int | float]:
    n_x, n_y, shared = len(x), len(y), len(x & y)
    counts, chances = _chance(x.per_layer, y.per_layer, x.mask.shape[1])
    mean = float(counts @ chances)
    deviation = float((counts - mean) ** 2 @ chances) ** 0.5
    return {
        "task_x": name_x, "task_y": name_y, "n_x": n_x, "n_y": n_y, "shared": shared,
        "iou": shared / (n_x + n_y - shared), "share_of_x": shared / n_x,
        "share_of_y": shared / n_y, "expected_shared": mean,
        "expected_iou": float((counts / (n_x + n_y - counts)) @ chances),
        "z": (shared - mean) / deviation if deviation else float("nan"),
        "p": min(float(chances[counts >= shared].sum()), 1.0),
    }  # fmt: skip


def _chance(
    per_layer_x: list[int], per_layer_y: list[int], d_mlp: int
) -> tuple[np.ndarray, np.ndarray]:
    """Distribution of the number of shared neurons: the counts that can occur, their chances."""
    n_x, n_y = np.array(per_layer_x)[:, None], np.array(per_layer_y)[:, None]
    counts = np.arange(np.minimum(n_x, n_y).max() + 1)
    # [layer, count]; scipy's pmf is about twenty times slower and no more exact than is needed.
    by_layer = np.exp(stats.hypergeom.logpmf(counts, d_mlp, n_x, n_y))
    start, chances = 0, np.ones(1)
    for in_layer in by_layer:
        first, possible = _without_ends(in_layer)
        skipped, chances = _without_ends(np.convolve(chances, possible))
        start += first + skipped
    return np.arange(start, start + len(chances)), chances / chances.sum()


def _without_ends(chances: np.ndarray) -> tuple[int, np.ndarray]:
    """Cut off what underflows, with the number cut off below: it would only cost time."""
    kept = (chances > _SMALLEST).nonzero()[0]
    return int(kept[0]), chances[kept[0] : kept[-1] + 1]


def _unions(
    sets: Mapping[str, NeuronSet], groups: Mapping[str, Sequence[str]]
) -> dict[str, NeuronSet]:
    if not isinstance(groups, Mapping):
        raise InputTypeError(
            f"groups is {groups!r} ({type(groups).__name__}); give a dict of groups to tasks."
        )
    unions = {}
    for group, tasks in groups.items():
        if not tasks:
            raise InputError(f"The group {group!r} has no tasks; name at least one.")
        for task in tasks:
            if task not in sets:
                hint = did_you_mean(task, list(sets))
                raise InputError(f"The group {group!r} names {task!r}, which has no set{hint}")
        unions[group] = functools.reduce(operator.or_, (sets[task] for task in tasks)).rename(group)
    return unions
