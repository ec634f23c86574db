"""Hooks that capture the neurons' activations and gradients, and what they say of each example."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tl_taskneurons.models.checkpointing import recomputes
from tl_taskneurons.models.forward import answer_losses
from tl_taskneurons.models.hooks import Hook, hooked
from tl_taskneurons.models.view import ModelView
from tl_taskneurons.runtime.errors import StateError
from tl_taskneurons.tasks.batches import Batch

# Called with a layer and a number for each example and neuron, ``[batch, d_mlp]``.
Add = Callable[[int, Tensor], None]


def first_order(
    model_view: ModelView, batch: Batch, method: str, layers: Sequence[int], add: Add
) -> None:
    """Hand over ``gradient * activation`` summed over positions; "grad_act" takes its size.

    Each layer is reduced when its gradient arrives.
    """

    def reduce(layer: int, gradient: Tensor, activation: Tensor) -> None:
        if layer not in layers:
            return
        product = gradient.float() * activation.float()
        summed = (product.abs() if method == "grad_act_abs" else product).sum(1)
        add(layer, summed.abs() if method == "grad_act" else summed)

    backward(model_view, batch, reduce, lowest=min(layers))


def backward(
    model_view: ModelView,
    batch: Batch,
    reduce: Callable[[int, Tensor, Tensor], None],
    scale: tuple[int, float] | None = None,
    lowest: int = 0,
) -> None:
    """Run forward and backward; hand each layer's gradient and activation to ``reduce``.

    Args:
        model_view: the model, frozen.
        batch: tokens on the model's device.
        reduce: called with layer, gradient and (unscaled) activation ``[batch, pos, d_mlp]``.
        scale: a layer whose activations are multiplied by a factor first.
        lowest: layers below it take no part in the backward pass.
    """
    fired: set[int] = set()
    again = recomputes(model_view)
    # The activations that gradients wait for; with gradient checkpointing those of one block.
    values: dict[int, Tensor] = {}

    def hook(layer: int) -> Hook:
        def capture(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001 (TransformerLens)
            first = layer not in fired
            fired.add(layer)
            if not (first and again):
                values[layer] = activation.detach()
            if scale is not None and scale[0] == layer:
                activation = activation.detach() * scale[1]
            if not activation.requires_grad:
                activation = activation.detach().requires_grad_()
            if first:
                activation.register_hook(on_gradient)
            return activation

        def on_gradient(gradient: Tensor) -> None:
            reduce(layer, gradient, values.pop(layer))

        return capture

    hooks = {layer.index: hook(layer.index) for layer in model_view.layers[lowest:]}
    with torch.enable_grad(), hooked(model_view, hooks):
        losses = answer_losses(model_view, batch)
        require_fired(model_view, fired, range(lowest, model_view.n_layers))
        losses.sum().backward()


def integrated(
    model_view: ModelView, batch: Batch, steps: int, layers: Sequence[int], add: Add
) -> None:
    """Integrate gradients along ``alpha * w``, alpha from 0 to 1, scaling one layer as a whole.

    The midpoint rule; the size of ``activation * mean gradient`` summed over positions.
    """
    for layer in layers:
        sums = torch.zeros(len(batch.index), model_view.d_mlp, device=model_view.device)

        def reduce(
            at: int, gradient: Tensor, activation: Tensor, layer: int = layer, sums: Tensor = sums
        ) -> None:
            if at == layer:
                sums += (gradient.float() * activation.float()).sum(1).to(sums.device)

        for step in range(steps):
            backward(model_view, batch, reduce, (layer, (step + 0.5) / steps), lowest=layer)
        add(layer, (sums / steps).abs())


def activations(
    model_view: ModelView, batch: Batch, method: str, layers: Sequence[int], add: Add
) -> None:
    """Hand over sums over an example's tokens: of activations, their sizes, or those above 0."""
    fired: set[int] = set()
    real = batch.attention_mask.unsqueeze(-1)

    def hook(layer: int) -> Hook:
        def capture(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001 (TransformerLens)
            fired.add(layer)
            value = activation.float()
            if method == "activation":
                value = value.abs()
            elif method == "frequency":
                value = (value > 0).float()
            add(layer, (value * real.to(value.device)).sum(1))
            return activation

        return capture

    hooks = {layer: hook(layer) for layer in layers}
    with torch.no_grad(), hooked(model_view, hooks):
        answer_losses(model_view, batch)
    require_fired(model_view, fired, layers)


def require_fired(model_view: ModelView, fired: set[int], layers: Sequence[int]) -> None:
    """Raise RuntimeError when a layer's hook did not fire in a forward pass."""
    silent = set(layers) - fired
    if silent:
        raise StateError(
            f"The hook {model_view.layers[min(silent)].hook} of {model_view.name} never fired, so "
            "its neurons were not seen; this version of TransformerLens names it otherwise."
        )
