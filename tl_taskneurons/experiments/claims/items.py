"""Tests of claims C1, C2, C4 and C6, on scores of items compared in pairs. No torch."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from tl_taskneurons.evaluation.statistics import Contrast, require_columns, slope
from tl_taskneurons.experiments.claims.verdicts import (
    SCORE,
    Verdict,
    compare,
    cube,
    judge,
    named,
    not_tested,
    same_items,
    seeds_note,
    without,
)
from tl_taskneurons.runtime.errors import InputError

MIN_CONTROLS = 5
# The paper's best shares where tasks are trained together: nothing is chosen on the data here.
PEAK_SHARES = {"CLS": 0.7, "GEN": 0.5}

_Contrasts = dict[tuple[str, str], Contrast]


def c1(items: pd.DataFrame | None) -> Verdict:
    """Test C1: for each task, score with random neurons silenced minus with its own silenced.

    Args:
        items: the rows of ``deactivation_items``; a test needs at least five random controls.

    Raises:
        ValueError: for a task that lacks scores, or is not on the same items everywhere.
    """
    if items is None:
        return not_tested("C1", without(deactivation=items))
    require_columns(items, ["silenced", "kind", "seed", "task", "item", "score"], "deactivation")
    own = items[items["silenced"] == items["task"]]
    contrasts: _Contrasts = {}
    for task in named(items.loc[items["kind"] == "task", "silenced"]):
        rows = own[own["task"] == task]
        chosen, control = (rows[rows["kind"] == kind] for kind in ("task", "random"))
        if control.empty:
            return not_tested("C1", f"task {task!r} has no random controls")
        same_items(task, chosen, control)
        silenced = cube(chosen, task, ["item"])
        contrasts["", task] = {task: cube(control, task, ["seed", "item"]) - silenced}
    if not contrasts:
        return not_tested("C1", "no task's neurons are silenced")
    comparisons, pooled = compare("C1", contrasts, SCORE)
    fewest, seeds = _seeds(contrasts)
    missing = f"needs {MIN_CONTROLS} random controls; there are {fewest}"
    return judge(
        "C1", comparisons, pooled, f"random minus task neurons silenced; {seeds}",
        missing=missing if fewest < MIN_CONTROLS else "",
    )  # fmt: skip


def c2(items: pd.DataFrame | None) -> Verdict:
    """Test C2: for each task, score after training its neurons minus after training random ones.

    Args:
        items: rows ``trained, neurons ("task" | "random"), seed, task, item, score``.

    Raises:
        ValueError: for a task that lacks scores, or is not on the same items everywhere.
    """
    if items is None:
        return not_tested("C2", without(trained=items))
    require_columns(items, ["trained", "neurons", "seed", "task", "item", "score"], "trained")
    own = items[items["trained"] == items["task"]]
    contrasts: _Contrasts = {}
    for task in named(items["trained"]):
        rows = own[own["task"] == task]
        random, chosen = (
            cube(rows[rows["neurons"] == kind], task, ["seed", "item"])
            for kind in ("random", "task")
        )
        cube(rows, task, ["neurons", "seed", "item"])  # the same seeds and items in both
        contrasts["", task] = {task: chosen - random}
    if not contrasts:
        return not_tested("C2", "no task's neurons are trained")
    comparisons, pooled = compare("C2", contrasts, SCORE)
    return judge("C2", comparisons, pooled, f"task minus random neurons; {_seeds(contrasts)[1]}")


def c4(together: pd.DataFrame | None, alone: pd.DataFrame | None) -> Verdict:
    """Test C4: the peak when tasks are trained together, and what rises with the share.

    Parts: ``"peak"``, a group's score on its own tasks at the paper's peak share (or the nearest
    one below 1 that was run) minus at 1; ``"transfer"``, a group's slope on the siblings of its own
    type; ``"alone"``, a task's slope when it is trained alone. Slopes are least-squares, per unit
    of share.

    Args:
        together: rows ``train_group, kind ("in-domain" | "out-of-domain"), test_group, fraction,
            seed, task, item, score``.
        alone: rows ``trained, task, fraction, seed, item, score``.

    Raises:
        ValueError: for a task that lacks scores, or is not on the same items everywhere.
    """
    missing = [without(together=together, alone=alone)]
    contrasts: _Contrasts = {}
    peaks: list[str] = []
    if together is not None:
        columns = ["train_group", "kind", "test_group", "fraction", "seed", "task", "item", "score"]
        require_columns(together, columns, "together")
        for group in named(together["train_group"]):
            rows = together[together["train_group"] == group]
            inside, outside = (
                rows[rows["kind"] == kind] for kind in ("in-domain", "out-of-domain")
            )
            shares = sorted(inside["fraction"].unique())
            if len(shares) < 2 or shares[-1] != 1:
                missing.append(f"{group}: needs the share 1.0 and one below it")
                continue
            below = np.abs(np.array(shares[:-1]) - PEAK_SHARES[group])
            place = int(below.argmin())
            peaks.append(f"{group} {shares[place]:g}")
            contrasts["peak", group] = _over_tasks(
                inside, "fraction", "together/", lambda _, scores, at=place: scores[at] - scores[-1]
            )
            siblings = outside[outside["test_group"] == group]
            contrasts["transfer", group] = _over_tasks(siblings, "fraction", "together/", slope)
    if alone is not None:
        require_columns(alone, ["trained", "task", "fraction", "seed", "item", "score"], "alone")
        own = alone[alone["trained"] == alone["task"]]
        shares = sorted(own["fraction"].unique())
        if len(shares) < 2:
            missing.append("alone: needs two shares or more")
        else:
            for task in named(alone["trained"]):
                rows = own[own["task"] == task]
                contrasts["alone", task] = _over_tasks(rows, "fraction", "alone/", slope, shares)
    said = "; ".join(each for each in missing if each)
    if not contrasts:
        return not_tested("C4", said or "the tables are empty")
    unit = f"{SCORE}; slopes per unit of share"
    comparisons, pooled = compare("C4", contrasts, unit)
    note = f"peak shares: {', '.join(peaks)}; {_seeds(contrasts)[1]}"
    return judge("C4", comparisons, pooled, note, missing=said)


def c6(items: pd.DataFrame | None) -> Verdict:
    """Test C6: at each share of neurons, the slope of a group's score over overlap.

    Args:
        items: rows ``group, fraction, overlap, seed, task, item, score``.

    Raises:
        ValueError: for a task that lacks scores, or is not on the same items everywhere.
    """
    if items is None:
        return not_tested("C6", without(controlled=items))
    columns = ["group", "fraction", "overlap", "seed", "task", "item", "score"]
    require_columns(items, columns, "controlled")
    contrasts: _Contrasts = {}
    for group in named(items["group"]):
        for share, rows in items[items["group"] == group].groupby("fraction"):
            if rows["overlap"].nunique() < 2:
                return not_tested("C6", f"{group} at {share:.0%}: needs two overlaps or more")
            contrasts["", f"{group} at {share:.0%}"] = _over_tasks(rows, "overlap", "", slope)
    if not contrasts:
        return not_tested("C6", "the table is empty")
    unit = f"{SCORE} per unit of overlap"
    comparisons, pooled = compare("C6", contrasts, unit)
    return judge("C6", comparisons, pooled, f"slopes over overlap; {_seeds(contrasts)[1]}")


def _over_tasks(
    rows: pd.DataFrame,
    level: str,
    prefix: str,
    effect: Callable[[list[float], np.ndarray], np.ndarray],
    levels: list[float] | None = None,
) -> Contrast:
    """The mean over tasks of an effect of ``scores [level, seed, item]``, all at the same levels.

    These are all that the rows have, if they are not given.
    """
    tasks = named(rows["task"])
    if not tasks:
        raise InputError(f"There are no rows to compare over {level!r} in one of the groups.")
    if levels is None:
        levels = sorted(rows[level].unique())
    return {
        prefix + task: effect(
            levels, _all_levels(rows[rows["task"] == task], task, level, len(levels))
        ) / len(tasks)
        for task in tasks
    }  # fmt: skip


def _all_levels(rows: pd.DataFrame, task: str, level: str, n_levels: int) -> np.ndarray:
    scores = cube(rows, task, [level, "seed", "item"])
    if len(scores) != n_levels:
        raise InputError(f"Task {task!r} has no rows at some of the values of {level!r}.")
    return scores


def _seeds(contrasts: Mapping[tuple[str, str], Contrast]) -> tuple[int, str]:
    """The smallest number of seeds of a comparison, and what is said of it."""
    n_seeds = min(len(values) for contrast in contrasts.values() for values in contrast.values())
    return n_seeds, seeds_note(n_seeds)
