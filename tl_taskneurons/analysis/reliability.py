"""How much of a selected set would return with other examples: its split-half reliability."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from tl_taskneurons.neurons.given import Scores, named_scores
from tl_taskneurons.neurons.methods import SELECTIONS
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.selection import select
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.options import require_number

N_CUTS = 5
Halves = Float[Tensor, "cut half layer d_mlp"]


def selection_reliability(
    scores: Scores,
    selection: str = "plain",
    fraction: float = 0.01,
    *,
    n_cuts: int = N_CUTS,
    seed: int = 0,
) -> dict[str, float]:
    """Say how much of each task's set would return with other examples.

    Each task's examples are cut at random into halves, and the sets are selected by either half
    alone, all tasks anew. What two sets share is twice their common neurons over the sum of their
    sizes; the mean over cuts is returned. Sets by all examples rest on twice as many, and are
    somewhat more reliable.

    Args:
        scores: by task, scored with ``per_example=True``.
        selection: one of ``SELECTIONS``.
        fraction: size of the sets, as a share of all neurons.
        n_cuts: how many cuts.
        seed: of the cuts.

    Returns:
        Task name to a share of 1; NaN where both halves gave no neuron.

    Raises:
        ValueError: for scores without those of at least two examples, fewer than one cut, or what
            ``select`` refuses.
    """
    named = named_scores(scores)
    select(named, selection, fraction)  # refuses what can't be selected
    halves = {name: halves_of(own, n_cuts=n_cuts, seed=seed) for name, own in named.items()}
    return reliability_of(halves, named, selection, fraction)


def halves_of(scores: NeuronScores, *, n_cuts: int = N_CUTS, seed: int = 0) -> Halves:
    """Return a task's scores on either half of its examples, for several random cuts.

    Raises:
        ValueError: without the scores of at least two examples, or for fewer than one cut.
    """
    require_number("n_cuts", n_cuts, whole=True, least=1, optional=False)
    examples = scores.examples
    if examples is None or len(examples) < 2:
        raise InputError(
            f"The scores of {scores.name!r} are kept of {0 if examples is None else len(examples)} "
            "examples; score at least two with per_example=True."
        )
    generator = torch.Generator().manual_seed(seed)
    cuts = []
    for _ in range(n_cuts):
        order = torch.randperm(len(examples), generator=generator, device="cpu")
        cuts.append(torch.stack([examples[rows].mean(0) for rows in order.tensor_split(2)]))
    halves = torch.stack(cuts)
    return halves.abs() if scores.sized and not scores.info.get("signed") else halves


def reliability_of(
    halves: Mapping[str, Halves],
    scores: Mapping[str, NeuronScores],
    selection: str,
    fraction: float,
) -> dict[str, float]:
    """Select sets by either half of every cut, and compare them; see ``selection_reliability``."""
    choose = SELECTIONS.find(selection).function  # not select, which refuses empty sets
    n_cuts = min(map(len, halves.values()))
    shares: dict[str, list[float]] = {name: [] for name in halves}
    for cut in range(n_cuts):
        one, two = (
            choose(
                {
                    name: replace(scores[name], values=own[cut, half], examples=None)
                    for name, own in halves.items()
                },
                fraction,
            )
            for half in range(2)
        )
        for name in shares:
            sizes = len(one[name]) + len(two[name])
            shares[name].append(2 * len(one[name] & two[name]) / sizes if sizes else float("nan"))
    return {name: sum(found) / len(found) for name, found in shares.items()}
