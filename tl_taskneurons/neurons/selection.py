"""From the scores of several tasks to one neuron set per task, and where these lie."""

from collections.abc import Mapping
from functools import partial

import pandas as pd
import torch

from tl_taskneurons.neurons.given import Scores, Sets, named_scores, named_sets
from tl_taskneurons.neurons.methods import SELECTIONS
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.sets import NeuronSet, exclusive
from tl_taskneurons.runtime.errors import InputError, did_you_mean
from tl_taskneurons.runtime.options import require_number


def select(
    scores: Scores, selection: str = "plain", fraction: float = 0.10
) -> dict[str, NeuronSet]:
    """Choose each task's neurons.

    Args:
        scores: the tasks' scores by name, or in a list.
        selection: one of ``SELECTIONS``; all but ``"plain"`` are contrastive and need two tasks.
        fraction: share of all neurons, in (0, 1].

    Raises:
        ValueError: for an unknown selection, a fraction outside (0, 1], a contrast with one task
            only, scores of another method than the selection reads, or a task that is left without
            neurons.
    """
    chosen_by, scores = SELECTIONS.find(selection), named_scores(scores)
    if not scores:
        raise InputError("There are no scores to select by; give those of a task at least.")
    require_number("fraction", fraction)
    if selection != "plain" and len(scores) < 2:
        raise InputError(
            f"Selection {selection!r} contrasts tasks with each other, but there is only "
            f"{list(scores)}; add a task or use 'plain'."
        )
    for name, own in scores.items():
        if chosen_by.reads not in ("", own.method):
            raise InputError(
                f"Selection {selection!r} reads scores of method {chosen_by.reads!r}, but those of "
                f"{name!r} are of method {own.method!r}; score with method {chosen_by.reads!r}."
            )
    sets = chosen_by.function(scores, fraction)
    for name, chosen in sets.items():
        if not len(chosen):
            raise InputError(
                f"Selection {selection!r} at fraction {fraction} leaves no neurons for task "
                f"{name!r}; use a larger fraction, less similar tasks, or 'plain'."
            )
    return sets


def plain(scores: Mapping[str, NeuronScores], fraction: float) -> dict[str, NeuronSet]:
    """Take the top of each task's own scores."""
    return {name: own.top(fraction=fraction) for name, own in scores.items()}


def plain_less_others(scores: Mapping[str, NeuronScores], fraction: float) -> dict[str, NeuronSet]:
    """Take the plain sets, less what is in more than one of them."""
    return exclusive(plain(scores, fraction))


def _by_contrast(
    scores: Mapping[str, NeuronScores], fraction: float, how: str
) -> dict[str, NeuronSet]:
    return {name: _contrasted(name, scores, how, fraction) for name in scores}


by_exclude = partial(_by_contrast, how="exclude")
by_difference = partial(_by_contrast, how="difference")
by_rank = partial(_by_contrast, how="rank")


# Of all neurons, those considered fire at least as often in some task as this share of them.
_FIRING = 0.95


def by_entropy(scores: Mapping[str, NeuronScores], fraction: float) -> dict[str, NeuronSet]:
    """Take the neurons that fire in few tasks, as LAPE does for languages.

    Tang et al. 2024 (arXiv 2402.16438): how often a neuron fires in each task, as shares that sum
    to one, has an entropy. Neurons that fire seldom in every task are left out: their largest
    frequency must be among the top 5% of all frequencies. Of the rest the ``fraction`` of least
    entropy is kept, and a task has those that fire in it as often as these top 5% do.

    """
    often = torch.stack([own.values for own in scores.values()]).double()
    line = often.flatten().sort().values[int(_FIRING * (often.numel() - 1))]
    shares = often / often.sum(0).clamp_min(1e-300)
    entropy = -torch.special.xlogy(shares, shares).sum(0)
    most = often.amax(0)
    entropy = entropy.masked_fill((most < line) | (most == 0), float("inf"))
    n_kept = min(max(1, round(fraction * entropy.numel())), int(entropy.isfinite().sum()))
    kept = torch.zeros_like(entropy, dtype=torch.bool)
    kept.view(-1)[entropy.flatten().argsort(stable=True)[:n_kept]] = True
    sets = {}
    for name, own in scores.items():
        info = {
            "method": own.method, "fraction": fraction, "n": None, "threshold": None,
            "per_layer": False, **own.info,
        }  # fmt: skip
        mask = kept & (own.values >= line) & (own.values > 0)
        sets[name] = NeuronSet(mask, own.fingerprint, own.name, info)
    return sets


def layer_table(scores: Scores, sets: Sets) -> pd.DataFrame:
    """Count the neurons of each task's set in each layer; ``plots`` draws the table.

    Args:
        scores: the tasks' scores by name.
        sets: the tasks' neurons by name, e.g. from ``select``.

    Returns:
        One row per task and layer: ``task, layer, n_neurons, share`` (of the set's neurons) and
        ``score_share`` (of the sum of the sizes of the task's scores over all neurons).
    """
    scores, sets = named_scores(scores), named_sets(sets)
    if not sets:
        raise InputError("There are no sets to count; give those of a task at least.")
    tables = []
    for name, neurons in sets.items():
        if name not in scores:
            raise InputError(f"The set {name!r} has no scores{did_you_mean(name, list(scores))}")
        counts = pd.Series(neurons.per_layer)
        sums = scores[name].values.double().abs().sum(1)
        tables.append(
            pd.DataFrame(
                {"task": name, "layer": range(len(counts)), "n_neurons": counts,
                 "share": counts / len(neurons),
                 "score_share": (sums / sums.sum().clamp_min(1e-300)).tolist()}
            )
        )  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def _contrasted(
    name: str, scores: Mapping[str, NeuronScores], how: str, fraction: float
) -> NeuronSet:
    others = [other for rival, other in scores.items() if rival != name]
    contrast = scores[name].contrast(others, how=how, fraction=fraction)
    # A contrast gives 0 to what another task needs more: by a sign, such neurons are left out.
    return contrast.top(fraction=fraction, sign="both")
