"""Tests of claims C5, C9 and C10, on a few units whose signs are flipped. No torch."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from tl_taskneurons.evaluation.statistics import Estimate, paired_effect, require_columns, sign_flip
from tl_taskneurons.experiments.claims.verdicts import (
    LEVEL,
    NAN,
    SCORE,
    Comparison,
    Verdict,
    judge,
    not_tested,
    settle,
    wide_table,
    without,
)

MIN_DETECTIONS = 5  # the smallest p of fewer sign flips is above 5%
TYPES = ("CLS", "GEN")
C9 = (("seq-ft", "seq-lora"), ("seq-lora", "ncft"), ("ncft", "w-ncft"))
C9_BOUND = ("w-ncft", "per-task")
C10 = (("seq-ft", "ncft"), ("seq-lora", "ncft"))


def c5(overlap: pd.DataFrame | None) -> Verdict:
    """Test C5: overlap within a type minus across types, at each share below 100%.

    The claim is one for all shares and types, so there is one test: of the smallest difference of
    each sample, by sign flips. ``low`` and ``high`` of a comparison are the range over samples, and
    it holds when the test does and its own range is above 0.

    Args:
        overlap: rows ``detection_seed, fraction, train_group, test_group, iou``; one detection
            seed per sample of examples that neurons were found on.

    Raises:
        ValueError: for an overlap that is missing or NaN.
    """
    if overlap is None:
        return not_tested("C5", without(overlap=overlap))
    columns = ["detection_seed", "fraction", "train_group", "test_group", "iou"]
    require_columns(overlap, columns, "overlap")
    below = overlap[overlap["fraction"] < 1]
    for column in ("train_group", "test_group"):
        if not set(TYPES) <= set(below[column]):
            return not_tested("C5", f"needs groups of both types, {' and '.join(TYPES)}")
    wide = wide_table(below, ["detection_seed"], ["fraction", "train_group", "test_group"], "iou")
    values: dict[tuple[str, str], np.ndarray] = {}
    for share in sorted(below["fraction"].unique()):
        for own, other in (TYPES, TYPES[::-1]):
            difference = wide[share, own, own] - wide[share, own, other]
            values[own, f"{share:.0%}"] = difference.to_numpy()
    p = sign_flip(np.min(list(values.values()), axis=0))
    comparisons = [
        Comparison(
            "C5", own, what, float(each.mean()), float(each.min()), float(each.max()), p, p,
            bool(p < LEVEL and each.min() > 0), "IoU",
        )
        for (own, what), each in values.items()
    ]  # fmt: skip
    pooled = paired_effect(np.mean(list(values.values()), axis=0)[:, None])
    missing = ""
    if len(wide) < MIN_DETECTIONS:
        missing = f"needs {MIN_DETECTIONS} detection seeds; there are {len(wide)}"
    note = f"the smallest difference of each of {len(wide)} detection seeds: p = {p:.3g}"
    return judge("C5", comparisons, pooled, note, missing=missing)


def c9(rows: pd.DataFrame | None) -> Verdict:
    """Test C9: the order of the methods, by the mean score after the last stage.

    Rows of the same order and seed are compared by sign flips. The last pair, part ``"at most"``,
    holds unless w-ncft is significantly above per-task; it is no part of Holm's correction.

    Args:
        rows: ``method, order, seed, cl``.

    Raises:
        ValueError: for a method that lacks an order or seed that others have.
    """
    if rows is None:
        return not_tested("C9", without(rows=rows))
    require_columns(rows, ["method", "order", "seed", "cl"], "rows")
    methods = dict.fromkeys(method for pair in (*C9, C9_BOUND) for method in pair)
    absent = [method for method in methods if method not in set(rows["method"])]
    if absent:
        return not_tested("C9", f"methods not run: {', '.join(absent)}")
    wide = wide_table(rows[rows["method"].isin(methods)], ["order", "seed"], ["method"], "cl")
    values = {("", f"{b} - {a}"): (wide[b] - wide[a]).to_numpy() for a, b in C9}
    comparisons, pooled = _flipped("C9", values, SCORE)
    lower, upper = C9_BOUND
    bound = (wide[upper] - wide[lower]).to_numpy()
    estimate = paired_effect(bound[:, None])
    last = Comparison(
        "C9", "at most", f"{upper} - {lower}", *estimate[:3], sign_flip(bound), NAN,
        sign_flip(-bound) >= LEVEL, SCORE,
    )  # fmt: skip
    note = f"sign flips of {len(wide)} rows of order and seed; effect without the last pair"
    missing = _too_few(len(wide), len(comparisons))
    return judge("C9", (*comparisons, last), pooled, note, missing=missing)


def c10(stages: pd.DataFrame | None) -> Verdict:
    """Test C10: what ncft retains minus what seq-ft and seq-lora do, at each stage from the second.

    Rows of the same order and seed are compared by sign flips.

    Args:
        stages: ``method, order, seed, stage, fg``; stages count from 1.

    Raises:
        ValueError: for a method that lacks an order, seed or stage that others have.
    """
    if stages is None:
        return not_tested("C10", without(stages=stages))
    require_columns(stages, ["method", "order", "seed", "stage", "fg"], "stages")
    methods = dict.fromkeys(method for pair in C10 for method in pair)
    absent = [method for method in methods if method not in set(stages["method"])]
    if absent:
        return not_tested("C10", f"methods not run: {', '.join(absent)}")
    later = stages[stages["method"].isin(methods) & (stages["stage"] > 1)]
    undefined = later[later["fg"].isna()]
    if len(undefined):
        where = undefined.iloc[0]
        return not_tested(
            "C10", f"fg is undefined for {where['method']} on {where['order']}, seed "
            f"{where['seed']}, stage {where['stage']} (a task trained alone scores 0)",
        )  # fmt: skip
    if later.empty:
        return not_tested("C10", "needs two stages or more")
    wide = wide_table(later, ["order", "seed"], ["stage", "method"], "fg")
    values = {
        (f"stage {stage}", f"{b} - {a}"): (wide[stage, b] - wide[stage, a]).to_numpy()
        for stage in sorted(later["stage"].unique())
        for a, b in C10
    }
    comparisons, pooled = _flipped("C10", values, "share retained")
    note = f"sign flips of {len(wide)} rows of order and seed"
    missing = _too_few(len(wide), len(comparisons))
    return judge("C10", comparisons, pooled, note, missing=missing)


def _flipped(
    claim: str, values: Mapping[tuple[str, str], np.ndarray], unit: str
) -> tuple[tuple[Comparison, ...], Estimate]:
    """Settled comparisons of units by sign flips, and the mean effect with its interval."""
    comparisons = [
        Comparison(claim, part, what, *paired_effect(each[:, None])[:3], sign_flip(each), NAN,
                   False, unit)
        for (part, what), each in values.items()
    ]  # fmt: skip
    return settle(comparisons), paired_effect(np.mean(list(values.values()), axis=0)[:, None])


def _too_few(n_rows: int, n_comparisons: int) -> str:
    """Say how many rows are needed for all comparisons to hold when every row agrees."""
    needed = math.floor(math.log2(n_comparisons / LEVEL)) + 1
    if n_rows >= needed:
        return ""
    return f"needs {needed} rows of order and seed; there are {n_rows}"
