"""The exact effect of silencing single neurons: what the attribution methods approximate."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tl_taskneurons.models.forward import is_prepared
from tl_taskneurons.models.hooks import hooked
from tl_taskneurons.models.resuming import Output, keeping, resumed
from tl_taskneurons.models.view import require_same_model
from tl_taskneurons.neurons.capture import BatchPass
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.progress import Progress
from tl_taskneurons.runtime.roles import Role
from tl_taskneurons.tasks.batches import Batch, token_budget_for


@torch.no_grad()
def exact(
    runs: Sequence[BatchPass],
    neurons: NeuronSet,
    team: Role,
    progress: Progress,
    add: Callable[[int, int, int, Tensor], None],
) -> None:
    """Silence one neuron at a time: the sum over examples of |L(w=0) - L| (paper, section 2).

    The blocks below a neuron's layer aren't run again, and several neurons of a layer run in one
    batch, each in a copy of the examples. Processes share the neurons, not the examples: in other
    batches losses round differently, and their differences show it.

    Args:
        runs: the batches, on the model's device.
        neurons: which neurons.
        team: the processes.
        progress: a progress bar.
        add: takes the batch's number, a layer, a neuron and the effects on the batch's examples.
    """
    require_same_model(repr(neurons), neurons.fingerprint, runs[0].model_view)
    with progress:
        works = [
            (number, layer, group)
            for number, run in enumerate(runs)
            for layer, index in neurons.layers().items()
            for group in index.split(_at_once(run))
        ]
        own = team.own([len(group) for _, _, group in works])
        starts: dict[int, _Start] = {}
        for number, layer, group in progress.track([works[i] for i in own]):
            if number not in starts:
                starts = {number: _start(runs[number], list(neurons.layers()))}
            effects = _effects(runs[number], starts[number], layer, group)
            for j, change in zip(group.tolist(), effects, strict=True):
                signed = runs[number].settings.signed
                add(number, layer, j, change if signed else change.abs())


@dataclass(frozen=True)
class _Start:
    """What is known of a batch before anything is silenced: metric, and what blocks returned."""

    values: Tensor
    outputs: dict[int, Output]


def _start(run: BatchPass, layers: Sequence[int]) -> _Start:
    outputs: dict[int, Output] = {}
    with keeping(run.model_view, [layer - 1 for layer in layers if layer], outputs):
        return _Start(run.objective(), outputs)


def _at_once(run: BatchPass) -> int:
    """How many copies of a batch fit in the token budget."""
    budget = token_budget_for(run.model_view.device, run.settings.token_budget)
    return max(1, budget // run.batch.tokens.numel())


def _effects(run: BatchPass, start: _Start, layer: int, group: Tensor) -> Tensor:
    """The changes of the metric ``[neuron, batch]`` when each of a layer's neurons is silenced."""
    copies = len(group)
    many = replace(
        run, batch=_repeated(run.batch, copies),
        reference=None if run.reference is None else run.reference.repeat(copies, 1),
    )  # fmt: skip
    # An intervention that looks at the batch first runs the model on other prompts.
    below = None if is_prepared() else start.outputs.get(layer - 1)
    lower = nullcontext()
    if below is not None:
        lower = resumed(run.model_view, layer, below, copies)
    with lower, _silenced(run, layer, group):
        return many.objective().reshape(copies, -1) - start.values


def _repeated(batch: Batch, copies: int) -> Batch:
    return Batch(
        batch.tokens.repeat(copies, 1), batch.attention_mask.repeat(copies, 1),
        batch.answer_mask.repeat(copies, 1), batch.index * copies, batch.items * copies,
    )  # fmt: skip


@contextmanager
def _silenced(run: BatchPass, layer: int, group: Tensor) -> Iterator[None]:
    """Silence one neuron in each copy of the examples."""

    def silence(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001 (TransformerLens)
        copies, rows = len(group), len(run.batch.index)
        index = group.to(activation.device)
        one = activation[:rows]  # up to here all copies are alike
        own = one.index_select(-1, index)
        other = torch.zeros_like(own)
        if run.other is not None:
            other = run.other(layer, one).expand_as(one).index_select(-1, index)
        if run.mask is not None:
            other = torch.where(run.mask.to(activation.device), other, own)
        changed = activation.clone().reshape(copies, rows, *activation.shape[1:])
        changed[torch.arange(copies, device=index.device), :, :, index] = other.movedim(-1, 0)
        return changed.reshape(activation.shape)

    with hooked(run.model_view, {layer: silence}):
        yield
