"""The exact effect of silencing single neurons: what the attribution methods approximate."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tl_taskneurons.models.view import require_same_model
from tl_taskneurons.neurons.capture import BatchPass
from tl_taskneurons.neurons.restarts import Shared, Whole, shares
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.progress import Progress
from tl_taskneurons.runtime.roles import Role
from tl_taskneurons.tasks.batches import token_budget_for
from tl_taskneurons.tasks.prompts import shared_prefix


@torch.no_grad()
def exact(
    runs: Sequence[BatchPass],
    neurons: NeuronSet,
    team: Role,
    progress: Progress,
    add: Callable[[int, int, int, Tensor], None],
) -> None:
    """Silence one neuron at a time: the sum over examples of |L(w=0) - L| (paper, section 2).

    Processes share the neurons, not the examples: in other batches losses round differently, and
    their differences show it.

    Args:
        runs: the batches, on the model's device.
        neurons: which neurons.
        team: the processes.
        progress: a progress bar.
        add: takes the batch's number, a layer, a neuron and the effects on the batch's examples.
    """
    require_same_model(repr(neurons), neurons.fingerprint, runs[0].model_view)
    with progress:
        layers = neurons.layers()
        kinds = [Shared if shares(run) else Whole for run in runs]
        works = [
            (number, layer, group)
            for number, (run, kind) in enumerate(zip(runs, kinds, strict=True))
            for layer, index in layers.items()
            for group in index.split(_at_once(run, kind))
        ]
        own = team.own([len(group) for _, _, group in works])
        starts: dict[int, Shared | Whole] = {}
        for number, layer, group in progress.track([works[i] for i in own]):
            if number not in starts:
                starts = {number: kinds[number](runs[number], list(layers))}
            effects = starts[number].effects(layer, group)
            for j, change in zip(group.tolist(), effects, strict=True):
                signed = runs[number].settings.signed
                add(number, layer, j, change if signed else change.abs())


def _at_once(run: BatchPass, kind: type[Shared | Whole]) -> int:
    """How many copies of a batch fit in the token budget."""
    budget = token_budget_for(run.model_view.device, run.settings.token_budget)
    n_tokens = run.batch.tokens.numel()
    if kind is Shared:
        n_tokens -= (len(run.batch.index) - 1) * len(shared_prefix(run.batch.items))
    return max(1, budget // n_tokens)
