"""The exact effect of silencing single neurons: what the attribution methods approximate."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tl_taskneurons.models.hooks import hooked
from tl_taskneurons.models.view import require_same_model
from tl_taskneurons.neurons.capture import BatchPass
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.progress import Progress
from tl_taskneurons.runtime.roles import Role


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
        plain = [run.objective() for run in runs]
        pairs = neurons.mask.nonzero().tolist()
        own = [pairs[i] for i in team.own([1] * len(pairs))]
        for layer, j in progress.track(own):
            for number, (run, before) in enumerate(zip(runs, plain, strict=True)):
                with _silenced(run, layer, j):
                    change = run.objective() - before
                add(number, layer, j, change if run.settings.signed else change.abs())


@contextmanager
def _silenced(run: BatchPass, layer: int, j: int) -> Iterator[None]:
    def silence(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001 (TransformerLens)
        changed = activation.clone()
        other = None if run.other is None else run.other(layer, activation)[..., j]
        changed[..., j] = 0.0 if other is None else other
        if run.mask is None:
            return changed
        return torch.where(run.mask.to(activation.device), changed, activation)

    with hooked(run.model_view, {layer: silence}):
        yield
