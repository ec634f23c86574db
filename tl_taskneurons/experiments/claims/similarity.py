"""Tests of claims C7 and C8, on similarities of parameters. No torch."""

import math

import numpy as np
import pandas as pd
from scipy import stats

from tl_taskneurons.evaluation.statistics import (
    Estimate,
    diagonal_test,
    n_permutations,
    require_columns,
)
from tl_taskneurons.experiments.claims.verdicts import (
    LEVEL,
    NAN,
    Comparison,
    Verdict,
    compare,
    judge,
    named,
    not_tested,
    settle,
    wide_table,
    without,
)
from tl_taskneurons.runtime.errors import InputError

MIN_LAYERS = 4


def c7(similarity: pd.DataFrame | None) -> Verdict:
    """Test C7: similarity in the upper half against the lowest layer, and its rise with depth.

    The last layer is left out of both, as the paper sees a fall there. Part ``"upper half"``: the
    mean of its layers minus the lowest layer; ``"rise"``: the rank correlation of layer and
    similarity. Both are means over models and test tasks, and intervals cover both.

    Args:
        similarity: rows ``model, layer, task_x, task_y, similarity`` of one reading and one part;
            several rows of a model, pair and layer (seeds) are averaged. Test tasks with a NaN in
            any layer, where a set has no neurons, are left out.

    Raises:
        ValueError: for several readings or parts, or a pair or layer that a model lacks.
    """
    if similarity is None:
        return not_tested("C7", without(similarity=similarity))
    require_columns(similarity, ["model", "layer", "task_x", "task_y", "similarity"], "similarity")
    _one_kind(similarity)
    if similarity["layer"].nunique() < MIN_LAYERS:
        return not_tested(
            "C7", f"needs {MIN_LAYERS} layers; there are {similarity['layer'].nunique()}"
        )
    curves, n_left_out = _curves(similarity)
    if not curves.size:
        return not_tested("C7", "every test task lacks a similarity (NaN) in some layer")
    inner = curves[..., :-1]  # [model, pair, layer]
    values = {
        ("", "upper half"): inner[..., curves.shape[-1] // 2 :].mean(-1) - inner[..., 0],
        ("", "rise"): _rank_correlation_with_place(inner),
    }
    unit = "cosine; rank correlation with depth"
    contrasts = {key: {"pairs": each} for key, each in values.items()}
    comparisons, _ = compare("C7", contrasts, unit)
    # The two are in different units, so the claim's effect is the first alone.
    note = f"effect: upper half minus lowest layer; {len(curves)} models, {curves.shape[1]} pairs"
    if n_left_out:
        note += f", {n_left_out} left out (NaN in some layer)"
    first = comparisons[0]
    return judge("C7", comparisons, Estimate(first.effect, first.low, first.high, first.p), note)


def c8(similarity: pd.DataFrame | None, transfer: pd.DataFrame | None) -> Verdict:
    """Test C8: correlation over models of similarity and transfer, mean over test tasks.

    The p value permutes models, for all test tasks alike. The interval is Fisher's for the
    correlation on a single test task, so it is rather too wide for their mean.

    Args:
        similarity: the rows of ``similarity_over_models`` of one reading and one part; the rows of
            a model and test task (layers, seeds) are averaged.
        transfer: rows ``model, task, value``, one per model and test task. With a column ``type``
            (of the model's training task) models are permuted within a type only.

    Raises:
        ValueError: for several readings or parts, or a model and test task that lacks a similarity
            or a value.
    """
    if similarity is None or transfer is None:
        return not_tested("C8", without(similarity=similarity, transfer=transfer))
    require_columns(similarity, ["model", "task_y", "similarity"], "similarity")
    require_columns(transfer, ["model", "task", "value"], "transfer")
    _one_kind(similarity)
    means = similarity.groupby(["model", "task_y"])["similarity"].mean().reset_index()
    x = wide_table(means, ["model"], ["task_y"], "similarity")
    wanted = transfer[transfer["model"].isin(x.index) & transfer["task"].isin(x.columns)]
    y = wide_table(wanted, ["model"], ["task"], "value").reindex(index=x.index, columns=x.columns)
    if y.isna().any(axis=None):
        task = y.columns[y.isna().any()][0]
        raise InputError(f"Test task {task!r} has no value of transfer for one of the models.")
    kinds = None
    if "type" in transfer.columns:
        kinds = [str(wanted.loc[wanted["model"] == model, "type"].iloc[0]) for model in x.index]
    possible = n_permutations(kinds or [""] * len(x))
    if 1 / possible >= LEVEL:
        return not_tested("C8", f"needs more models: {len(x)} have {possible} permutations")
    usable = [task for task in x if np.ptp(x[task]) > 0 and np.ptp(y[task]) > 0]
    if not usable:
        return not_tested("C8", "similarity or transfer is the same for all models")
    # products[i, j]: what model i's similarities would add to the mean correlation with the
    # scores of model j; the diagonal's sum is the mean correlation.
    scores_x, scores_y = _standardised(x[usable]), _standardised(y[usable])
    products = scores_x @ scores_y.T / scores_x.size
    r = float(np.trace(products))
    reach = stats.norm.ppf(0.975) / math.sqrt(len(x) - 3) if len(x) > 3 else NAN
    low, high = np.tanh(np.arctanh(np.clip(r, -0.999999, 0.999999)) + np.array([-reach, reach]))
    positive = int(((scores_x * scores_y).sum(0) > 0).sum())
    found = Estimate(r, float(low), float(high), diagonal_test(products, kinds))
    comparison = Comparison("C8", "", "all test tasks", *found, NAN, False, "correlation")
    note = f"{len(x)} models; above 0 on {positive} of {len(usable)} test tasks"
    if len(usable) < x.shape[1]:
        note += f", {x.shape[1] - len(usable)} without any spread left out"
    return judge("C8", settle([comparison]), found, note)


def _standardised(table: pd.DataFrame) -> np.ndarray:
    values = table.to_numpy(dtype=float)
    return (values - values.mean(0)) / values.std(0)


def _one_kind(similarity: pd.DataFrame) -> None:
    for column in ("reading", "part"):
        if column in similarity.columns and similarity[column].nunique() > 1:
            raise InputError(
                f"similarity has several values of {column!r}: {named(similarity[column])}; "
                "keep the rows of one, or average over them and drop the column."
            )


def _curves(similarity: pd.DataFrame) -> tuple[np.ndarray, int]:
    """Return similarities ``[model, pair, layer]``, and the number of pairs left out for NaN."""
    # A model tuned on one task has one pair per test task, so test tasks line up over models.
    one_each = similarity.groupby("model")["task_x"].nunique().max() == 1
    pair = similarity["task_y"].astype(str)
    if not one_each:
        pair = similarity["task_x"].astype(str) + " > " + pair
    table = similarity.assign(pair=pair)
    holes = table.loc[table["similarity"].isna(), "pair"].unique()
    kept = table[~table["pair"].isin(holes)]
    if kept.empty:
        return np.empty((0, 0, 0)), len(holes)
    keys = ["model", "pair", "layer"]
    means = kept.groupby(keys)["similarity"].mean().reset_index()
    wide = wide_table(means, ["model"], ["pair", "layer"], "similarity").sort_index(axis=1)
    return wide.to_numpy().reshape(len(wide), means["pair"].nunique(), -1), len(holes)


def _rank_correlation_with_place(curves: np.ndarray) -> np.ndarray:
    """Spearman's correlation along the last axis with 0, 1, 2 ...; 0 for a constant curve."""
    ranks = stats.rankdata(curves, axis=-1)
    ranks -= ranks.mean(-1, keepdims=True)
    places = np.arange(curves.shape[-1]) - (curves.shape[-1] - 1) / 2
    spread = np.sqrt((ranks**2).sum(-1) * (places**2).sum())
    return np.divide(ranks @ places, spread, out=np.zeros(spread.shape), where=spread > 0)
