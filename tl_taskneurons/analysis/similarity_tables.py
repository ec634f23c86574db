"""From similarities to the curves of Figure 3 and the correlations of Table 4. No torch."""

import numpy as np
import pandas as pd
from scipy import stats

from tl_taskneurons.evaluation.statistics import mean_interval, require_columns
from tl_taskneurons.runtime.errors import InputError

_N_PERMUTATIONS = 9999  # all of them, where there are fewer


def similarity_by_layer(similarities: pd.DataFrame, *, per_task: bool = True) -> pd.DataFrame:
    """Average similarities over models: the curves of the paper's Figure 3.

    Args:
        similarities: from ``similarity_over_models``.
        per_task: one curve per test task; otherwise each model's test tasks are averaged first.

    Returns:
        One row per reading, part, test task and layer: ``reading, part, task_x`` (always
        ``"trained task"``), ``task_y`` (the test task, or ``"test tasks"``), ``layer,
        similarity``, its 95% interval over models ``low, high``, and ``n_models``.
        Models with NaN there are left out; fewer than three have no interval.

    Raises:
        ValueError: for a table that lacks a column.
    """
    keys = ["reading", "part", "task_x", "task_y", "layer"]
    require_columns(similarities, [*keys, "model", "similarity"], "similarities")
    curves = similarities.assign(task_x="trained task")
    if not per_task:
        curves = curves.assign(task_y="test tasks")
    rows = []
    for key, group in _per_model(curves, keys).groupby(keys, sort=False):
        values = group["similarity"].dropna().to_numpy()
        low, high = mean_interval(values)
        rows.append(
            {**dict(zip(keys, key, strict=True)), "similarity": group["similarity"].mean(),
             "low": low, "high": high, "n_models": len(values)}
        )  # fmt: skip
    return pd.DataFrame(rows)


def similarity_transfer(
    similarities: pd.DataFrame, scores: pd.DataFrame, *, seed: int = 0
) -> pd.DataFrame:
    """Correlate similarity with transfer over the models, for each test task (paper, Table 4).

    With as few models as the paper's six, read the interval: it is wide.

    Args:
        similarities: from ``similarity_over_models``. The rows of one model and test task (its
            layers) are averaged; with ``per_layer=False`` there is one already.
        scores: the models' results on the test tasks: ``model, task, value``, one row each, e.g.
            ``evaluate(model, tasks).assign(model=name)`` of all models.
        seed: of the permutations, where there are too many to try all.

    Returns:
        Two rows per reading, part and test task (``task``): ``method`` (``"pearson"`` or
        ``"spearman"``), ``n`` models, the correlation ``r``, its 95% interval ``low, high`` and
        ``p``. The interval is Fisher's, for Spearman with the variance ``(1 + r^2 / 2) / (n - 3)``
        of Bonett & Wright (2000); it is NaN below 4 models or where abs(r) is 1. ``p`` is
        two-sided, from permutations: all of them up to 7 models, above that 9,999 random ones.
        Models with NaN on either side are left out; with fewer than 3 left, or one side constant,
        ``r``, ``low``, ``high`` and ``p`` are NaN.

    Raises:
        ValueError: for a table that lacks a column, or a model and test task without a score or
            with several.
    """
    groups = ["reading", "part", "task_y"]
    require_columns(similarities, [*groups, "model", "similarity"], "similarities")
    require_columns(scores, ["model", "task", "value"], "scores")
    twice = scores[scores.duplicated(["model", "task"])]
    if len(twice):
        model, task = twice["model"].iloc[0], twice["task"].iloc[0]
        raise InputError(
            f"scores has several rows for model {model!r} and task {task!r}; keep or average "
            "them, so that there is one."
        )
    points = _per_model(similarities, groups).merge(
        scores[["model", "task", "value"]], how="left", left_on=["model", "task_y"],
        right_on=["model", "task"], indicator="found",
    )  # fmt: skip
    missing = points[points["found"] == "left_only"]
    if len(missing):
        model, task = missing["model"].iloc[0], missing["task_y"].iloc[0]
        raise InputError(
            f"scores has no row for model {model!r} and task {task!r}; evaluate that model on "
            "that task, or leave it out of similarities."
        )
    rows = []
    for (reading, part, task), group in points.groupby(groups, sort=False):
        x, y = group[["similarity", "value"]].dropna().to_numpy(dtype=float).T
        for method in ("pearson", "spearman"):
            rows.append(
                {"reading": reading, "part": part, "task": task, "method": method, "n": len(x),
                 **_correlate(x, y, method, seed)}
            )  # fmt: skip
    return pd.DataFrame(rows)


def _per_model(similarities: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """One row per model within each key: the mean of its similarities there."""
    means = similarities.groupby([*keys, "model"], sort=False)["similarity"].mean()
    return means.reset_index()


def _correlate(x: np.ndarray, y: np.ndarray, method: str, seed: int) -> dict[str, float]:
    n = len(x)
    nan = float("nan")
    if n < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return {"r": nan, "low": nan, "high": nan, "p": nan}
    if method == "spearman":  # which is Pearson's correlation of the ranks
        x, y = stats.rankdata(x), stats.rankdata(y)
    permutations = stats.PermutationMethod(
        n_resamples=_N_PERMUTATIONS, rng=np.random.default_rng(seed)
    )
    r, p = map(float, stats.pearsonr(x, y, method=permutations))
    low = high = nan
    if n > 3 and abs(r) < 1:
        variance = 1 + r**2 / 2 if method == "spearman" else 1.0
        reach = stats.norm.ppf(0.975) * np.sqrt(variance / (n - 3))
        low, high = np.tanh(np.arctanh(r) + np.array([-reach, reach]))
    return {"r": r, "low": float(low), "high": float(high), "p": p}
