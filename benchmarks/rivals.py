"""Other ways to get a neuron's gradient times activation, each as its users would write it.

Every function takes the work and its batches and returns ``[layer, d_mlp]``: the mean over
examples of ``|sum over positions of gradient * activation|``, the library's ``"grad_act"``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from tl_taskneurons.models.forward import answer_losses, frozen
from tl_taskneurons.models.view import ModelView
from tl_taskneurons.tasks.batches import Batch


@dataclass(frozen=True, eq=False)
class Work:
    """What every contender gets.

    Attributes:
        view: the TransformerLens model.
        hf: the same weights as a plain Hugging Face model, where a contender wants one.
    """

    view: ModelView
    hf: Any = None


Score = Callable[[Work, Sequence[Batch]], Tensor | None]


def losses_of(logits: Tensor, batch: Batch) -> Tensor:
    """Return each example's mean answer loss from the logits at all positions."""
    targets = batch.tokens[:, 1:, None]
    chosen = logits[:, :-1].log_softmax(-1).gather(2, targets)[..., 0]
    mask = batch.answer_mask[:, 1:]
    return -(chosen * mask).sum(1) / mask.sum(1)


def run_model(work: Work, batch: Batch) -> Tensor:
    """Return the logits of the TransformerLens model at all positions."""
    return work.view.model(batch.tokens, attention_mask=batch.attention_mask.long())


def notebook(work: Work, batches: Sequence[Batch]) -> Tensor:
    """Hooks that keep all activations and gradients of an example, then a loop over layers."""
    names = [layer.hook for layer in work.view.layers]
    totals = torch.zeros(work.view.shape)
    for batch in batches:
        cache: dict[str, Tensor] = {}
        gradients: dict[str, Tensor] = {}

        def keep(value: Tensor, hook: Any, kept: dict[str, Tensor] = cache) -> None:
            kept[hook.name] = value.detach().clone()

        def keep_gradient(value: Tensor, hook: Any, kept: dict[str, Tensor] = gradients) -> None:
            kept[hook.name] = value.detach().clone()

        with work.view.model.hooks(
            fwd_hooks=[(name, keep) for name in names],
            bwd_hooks=[(name, keep_gradient) for name in names],
        ):
            losses_of(run_model(work, batch), batch).sum().backward()
        work.view.model.zero_grad(set_to_none=True)
        # A bridge gives hooks the canonical name, not the alias; both dicts have one order.
        pairs = zip(cache.values(), reversed(gradients.values()), strict=True)
        products = [(activation * gradient).sum(1).abs().sum(0) for activation, gradient in pairs]
        totals += torch.stack(products)
    return totals / n_examples(batches)


def captum(work: Work, batches: Sequence[Batch]) -> Tensor:
    """Captum's LayerGradientXActivation over all layers in one call, logits at all positions."""
    return _captum(work, batches, lambda batch: losses_of(run_model(work, batch), batch))


def captum_answers(work: Work, batches: Sequence[Batch]) -> Tensor:
    """The same with this library's forward pass: logits at answer positions only."""
    return _captum(work, batches, lambda batch: answer_losses(work.view, batch))


def _captum(work: Work, batches: Sequence[Batch], losses: Callable[[Batch], Tensor]) -> Tensor:
    from captum.attr import LayerGradientXActivation

    layers = [work.view.model.hook_dict[layer.hook] for layer in work.view.layers]
    totals = torch.zeros(work.view.shape)
    for batch in batches:
        method = LayerGradientXActivation(lambda _tokens, batch=batch: losses(batch), layers)
        products = method.attribute(batch.tokens)
        totals += torch.stack([product.detach().sum(1).abs().sum(0) for product in products])
    return totals / n_examples(batches)


@lru_cache
def _wrapped(hf: Any) -> Any:
    from nnsight import NNsight

    return NNsight(hf)


def nnsight(work: Work, batches: Sequence[Batch]) -> Tensor:
    """Trace with nnsight: the down projections' inputs and their gradients, all logits."""
    totals = torch.zeros(work.view.shape)
    for batch in batches:
        totals += _traced(_wrapped(work.hf), batch, leaf=False)
        work.hf.zero_grad(set_to_none=True)
    return totals / n_examples(batches)


def nnsight_frozen(work: Work, batches: Sequence[Batch]) -> Tensor:
    """The same with frozen parameters; the graph begins at the first layer's neurons."""
    totals = torch.zeros(work.view.shape)
    with frozen(work.hf):
        for batch in batches:
            totals += _traced(_wrapped(work.hf), batch, leaf=True)
    return totals / n_examples(batches)


def _traced(model: Any, batch: Batch, *, leaf: bool) -> Tensor:
    mask = batch.attention_mask.long()
    with model.trace(batch.tokens, attention_mask=mask, use_cache=False):
        activations = []
        for k, layer in enumerate(model.model.layers):
            activation = layer.mlp.down_proj.input
            if leaf and k == 0:
                activation.requires_grad_()
            activations.append(activation)
        loss = losses_of(model.output.logits, batch).sum()
        with loss.backward():
            gradients = list().save()  # noqa: C408 (nnsight's own way: a container that is saved)
            for activation in reversed(activations):
                gradients.append(activation.grad)
        activations = activations.save()  # pyright: ignore[reportAttributeAccessIssue]
    pairs = zip(activations, reversed(gradients), strict=True)
    return torch.stack([(a.detach() * g).sum(1).abs().sum(0) for a, g in pairs])


def tl4_cache(work: Work, batches: Sequence[Batch]) -> Tensor:
    """TransformerLens 4.3's cache_activation_and_gradient at the neurons' hook points.

    It passes no attention mask; padding stands on the right, where a causal model ignores it.
    """
    from transformer_lens.tools.analysis import (  # pyright: ignore[reportMissingImports]
        attribution_patching,
    )

    names = [layer.hook for layer in work.view.layers]
    totals = torch.zeros(work.view.shape)
    for batch in batches:
        cache = attribution_patching.cache_activation_and_gradient(
            work.view.model,
            batch.tokens,
            lambda logits, batch=batch: losses_of(logits, batch).sum(),
            names_filter=names,
        )
        pairs = [(cache.activations[name], cache.gradients[name]) for name in names]
        totals += torch.stack([(a * g).sum(1).abs().sum(0) for a, g in pairs])
    return totals / n_examples(batches)


def tl4_patch(work: Work, batches: Sequence[Batch]) -> None:
    """TransformerLens 4.3's attribution_patch, nodes: whole layers and heads at each position.

    It cannot be restricted to MLPs and has no neurons. Every example is its own pair: the corrupt
    prompt is the clean one in reverse, the metric its answer loss.
    """
    from transformer_lens.tools.analysis import (  # pyright: ignore[reportMissingImports]
        attribution_patching,
    )

    for batch in batches:
        reverse = batch.tokens.clone()
        n_prompt = int(batch.answer_mask[0].long().argmax())
        reverse[:, 1:n_prompt] = reverse[:, 1:n_prompt].flip(1)
        attribution_patching.attribution_patch(
            work.view.model,
            batch.tokens,
            reverse,
            lambda logits, batch=batch: losses_of(logits, batch).sum(),
        )


def n_examples(batches: Sequence[Batch]) -> int:
    """Return how many examples batches hold."""
    return sum(len(batch.index) for batch in batches)
