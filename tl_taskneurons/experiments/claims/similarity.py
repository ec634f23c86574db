"""Tests of claims C7 and C8, on similarities of parameters. No torch."""

import math

import numpy as np
import pandas as pd
from scipy import stats

from tl_taskneurons.evaluation.statistics import (
    LEVEL,
    NAN,
    Estimate,
    diagonal_test,
    n_permutations,
    paired_effect,
    slope,
)
from tl_taskneurons.experiments.claims.decide import MIN_FLIPPED, Pooled, judge, over_tasks
from tl_taskneurons.experiments.claims.evidence import Evidence, NotTestable, wide_table
from tl_taskneurons.experiments.claims.verdicts import Question, Verdict
from tl_taskneurons.runtime.errors import InputError

MIN_LAYERS = 4
MIN_SHARE = 0.75  # of the layers, in which siblings must have neurons
PAPER_CORRELATION = 0.79  # the lowest of Table 4


def c7(evidence: Evidence) -> list[Verdict]:
    """Test C7: how the similarity of siblings less that of other pairs rises with depth.

    Sets that fill more of a layer are more alike there by chance (.24 where they fill a quarter),
    so curves of similarity say little; the difference of pairs has no chance in it, and what
    random sets give is taken away besides. The effect is the least-squares rise from the lowest
    to the last layer but one, as the paper sees a fall in the last. Models are the sample; small
    sets may have no neurons in some layer, and the line goes through the others.
    """
    table = evidence.need("similarity")
    layers = sorted(table["layer"].unique())
    if len(layers) < MIN_LAYERS:
        raise NotTestable(f"needs {MIN_LAYERS} layers; there are {len(layers)}")
    gaps_of_models = gaps_by_layer(table)
    estimates = {}
    for model, rows in gaps_of_models.groupby("model", sort=False):
        gaps = rows["difference"].unstack("layer").reindex(columns=layers)[layers[:-1]]
        lacking = gaps.isna()
        if not lacking.any().equals(lacking.all()):
            raise InputError(f"Model {model!r} lacks a layer in one of its seeds.")
        there = gaps.dropna(axis=1)
        if there.shape[1] < MIN_SHARE * gaps.shape[1]:
            continue
        rises = slope(there.columns.tolist(), there.to_numpy().T) * (layers[-2] - layers[0])
        found = paired_effect(rises[:, None])
        estimates[str(model)] = found if len(rises) > 1 else found._replace(p=NAN)
    if len(estimates) < MIN_FLIPPED:
        raise NotTestable(
            f"needs {MIN_FLIPPED} models with siblings and other pairs; there are {len(estimates)}"
        )
    question = Question("C7", "", "cosine, from the lowest layer up", 0.05)
    effects = [each.effect for each in estimates.values()]
    return [
        judge(question, estimates, over_tasks(effects, question.sought), f"{len(effects)} models")
    ]


def gaps_by_layer(table: pd.DataFrame) -> pd.DataFrame:
    """Return how alike siblings' neurons and other pairs' are above chance, by layer.

    Args:
        table: ``model, seed, layer, task_x, task_y, siblings, similarity, chance``.

    Returns:
        ``siblings``, ``other pairs`` and their ``difference``, means over pairs, by model, seed and
        layer. Layers in which a model's siblings lack neurons are left out, and of the other pairs
        those that lack a layer that is left; what a model has no pairs of is NaN.
    """
    above = table.assign(above=table["similarity"] - table["chance"])
    lacking = above[above["siblings"] & above["above"].isna()]
    left_out = set(zip(lacking["model"], lacking["layer"], strict=True))
    places = zip(above["model"], above["layer"], strict=True)
    above = above[[place not in left_out for place in places]]
    complete = above.groupby(["model", "task_x", "task_y"])["above"].transform(
        lambda values: values.notna().all()
    )
    kinds = above["siblings"].map({True: "siblings", False: "other pairs"})
    kept = above.assign(pairs=kinds)[complete.astype(bool)]
    means = kept.groupby(["model", "seed", "layer", "pairs"], sort=False)["above"].mean().unstack()
    means = means.reindex(columns=["siblings", "other pairs"])
    return means.assign(difference=means["siblings"] - means["other pairs"])


def c8(evidence: Evidence) -> list[Verdict]:
    """Test C8: correlation over models of similarity and transfer, mean over test tasks.

    The p value permutes models, for all test tasks alike. The interval is Fisher's for the
    correlation on a single test task, so it is rather too wide for their mean.
    """
    name = "similarity_overall" if evidence.has("similarity_overall") else "similarity"
    similarity, transfer = evidence.need(name), evidence.need("transfer")
    able = evidence.able("transfer", "loss")
    means = similarity.groupby(["model", "task_y"])["similarity"].mean().reset_index()
    means = means[means["task_y"].isin(able)]
    x = wide_table(means, ["model"], ["task_y"], "similarity")
    wanted = transfer[transfer["model"].isin(x.index) & transfer["task"].isin(x.columns)]
    y = wide_table(wanted, ["model"], ["task"], "value").reindex(index=x.index, columns=x.columns)
    if y.isna().any(axis=None):
        task = y.columns[y.isna().any()][0]
        raise InputError(f"Test task {task!r} has no value of transfer for one of the models.")
    kinds = [str(wanted.loc[wanted["model"] == model, "type"].iloc[0]) for model in x.index]
    possible = n_permutations(kinds)
    if 1 / possible >= LEVEL:
        raise NotTestable(f"needs more models: {len(x)} have {possible} permutations")
    usable = [task for task in x if np.ptp(x[task]) > 0 and np.ptp(y[task]) > 0]
    if not usable:
        raise NotTestable("similarity or transfer is the same for all models")
    # products[i, j]: what model i's similarities would add to the mean correlation with the
    # values of model j; the diagonal's sum is the mean correlation.
    own, other = _standardised(x[usable]), _standardised(y[usable])
    products = own @ other.T / own.size
    r = float(np.trace(products))
    error = 1 / math.sqrt(len(x) - 3) if len(x) > 3 else NAN
    low, high = np.tanh(_fisher(r) + stats.norm.ppf([0.025, 0.975]) * error)
    found = Estimate(r, float(low), float(high), diagonal_test(products, kinds))
    power = float(stats.norm.sf(stats.norm.ppf(1 - LEVEL) - _fisher(PAPER_CORRELATION) / error))
    positive = int(((own * other).sum(0) > 0).sum())
    note = f"{len(x)} models; above 0 on {positive} of {len(usable)} test tasks"
    question = Question("C8", "", "correlation", 0.3, PAPER_CORRELATION)
    return [judge(question, {"all test tasks": found}, Pooled(found, power), note)]


def _fisher(r: float) -> float:
    return math.atanh(min(max(r, -0.999999), 0.999999))


def _standardised(table: pd.DataFrame) -> np.ndarray:
    values = table.to_numpy(dtype=float)
    return (values - values.mean(0)) / values.std(0)
