"""Single neurons silenced one by one, without running again what they don't change.

Blocks below a neuron's layer give what they gave before, and several neurons of a layer run at
once, each in a copy of the examples. Where prompts begin alike and silencing looks at no place or
example, that beginning runs once for each neuron, not once for each example too.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_taskneurons.models.forward import before, in_runs_asked_for, is_prepared
from tl_taskneurons.models.hooks import hooked, is_hooked
from tl_taskneurons.models.kvcache import KVCache
from tl_taskneurons.models.resuming import Output, keeping, resumed
from tl_taskneurons.neurons.capture import BatchPass
from tl_taskneurons.neurons.measures import from_logits
from tl_taskneurons.tasks.batches import Batch
from tl_taskneurons.tasks.prompts import shared_prefix

# Of each neuron and example: what silencing the one does to the metric of the other.
Effects = Float[Tensor, "neuron batch"]


class Whole:
    """A batch of whole examples.

    Args:
        run: the batch.
        layers: the layers of the neurons that are to be silenced.
    """

    def __init__(self, run: BatchPass, layers: Sequence[int]) -> None:
        self.run = run
        self.outputs: dict[int, Output] = {}
        with keeping(run.model_view, _below(layers), self.outputs):
            self.values = run.objective()

    def effects(self, layer: int, group: Int[Tensor, " neuron"]) -> Effects:
        """Silence neurons of a layer, each in a copy of the examples."""
        run, copies = self.run, len(group)
        many = replace(
            run, batch=_repeated(run.batch, copies), reference=_reference(run, copies)
        )  # fmt: skip
        # An intervention that looks at the batch first runs the model on other prompts.
        below = None if is_prepared() else self.outputs.get(layer - 1)
        with _from(run, layer, below, copies), _silenced(run, layer, group):
            return many.objective().reshape(copies, -1) - self.values


class Shared:
    """A batch of examples whose prompts begin with the same tokens; see ``shares``.

    Args:
        run: the batch.
        layers: the layers of the neurons that are to be silenced.
    """

    def __init__(self, run: BatchPass, layers: Sequence[int]) -> None:
        self.run, model_view = run, run.model_view
        n, batch = len(shared_prefix(run.batch.items)), run.batch
        self.prefix = batch.tokens[:1, :n]
        self.rest = Batch(
            batch.tokens[:, n:], batch.attention_mask[:, n:], batch.answer_mask[:, n:],
            batch.index, batch.items,
        )  # fmt: skip
        self.opening: dict[int, Output] = {}
        self.outputs: dict[int, Output] = {}
        self.cache = KVCache(model_view, 1)
        with keeping(model_view, _below(layers), self.opening):
            _open(self.cache, self.prefix)
        with keeping(model_view, _below(layers), self.outputs):
            self.values = self._finish(self.cache.repeat(len(batch.index)), 1)

    def effects(self, layer: int, group: Int[Tensor, " neuron"]) -> Effects:
        """Silence neurons of a layer, each in a copy of the beginning and of the examples."""
        run, copies, rows = self.run, len(group), len(self.rest.index)
        cache = KVCache(run.model_view, copies)
        with (
            _from(run, layer, self.opening.get(layer - 1), copies),
            _silenced(run, layer, group),
        ):
            _open(cache, self.prefix.repeat(copies, 1))
        cache = cache.repeat(rows)
        cache.borrow(self.cache, layer)
        with (
            _from(run, layer, self.outputs.get(layer - 1), copies),
            _silenced(run, layer, group),
        ):
            return self._finish(cache, copies).reshape(copies, -1) - self.values

    def _finish(self, cache: KVCache, copies: int) -> Float[Tensor, " row"]:
        rest = _repeated(self.rest, copies)
        logits = cache.extend(
            rest.tokens, rest.attention_mask, before(rest.answer_mask), stage="rest"
        ).float()
        run, reference = self.run, _reference(self.run, copies)
        return from_logits(run.settings.measure, run.model_view, logits, rest, reference)


def shares(run: BatchPass) -> bool:
    """Whether a batch's prompts begin alike, and nothing acts on them by place or example."""
    plain = run.other is None or (
        isinstance(run.settings.ablation, Tensor) or run.settings.ablation == "mean"
    )
    return (
        plain
        and run.settings.positions == "all"
        and bool(shared_prefix(run.batch.items))
        and not is_prepared()
        and not is_hooked(run.model_view)
        and KVCache(run.model_view, 1).reuses
    )


def _below(layers: Sequence[int]) -> list[int]:
    return [layer - 1 for layer in layers if layer]


def _from(
    run: BatchPass, layer: int, below: Output | None, copies: int
) -> AbstractContextManager[None]:
    if below is None:
        return nullcontext()
    return resumed(run.model_view, layer, below, copies)


def _open(cache: KVCache, tokens: Int[Tensor, "batch pos"]) -> None:
    """Run the tokens that prompts begin with."""
    everywhere = torch.ones_like(tokens, dtype=torch.bool)
    cache.extend(tokens, everywhere, torch.zeros_like(everywhere), stage="prefix")


def _reference(run: BatchPass, copies: int) -> Tensor | None:
    return None if run.reference is None else run.reference.repeat(copies, 1)


def _repeated(batch: Batch, copies: int) -> Batch:
    return Batch(
        batch.tokens.repeat(copies, 1), batch.attention_mask.repeat(copies, 1),
        batch.answer_mask.repeat(copies, 1), batch.index * copies, batch.items * copies,
    )  # fmt: skip


@contextmanager
def _silenced(run: BatchPass, layer: int, group: Int[Tensor, " neuron"]) -> Iterator[None]:
    """Silence one neuron in each copy of what runs."""

    def silence(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001 (TransformerLens)
        copies = len(group)
        rows = len(activation) // copies
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

    with hooked(run.model_view, {layer: in_runs_asked_for(silence)}):
        yield
