"""Hooks that capture the neurons' activations and gradients, and what they say of each example."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_taskneurons.models.checkpointing import recomputes
from tl_taskneurons.models.forward import answer_losses
from tl_taskneurons.models.hooks import Hook, hooked
from tl_taskneurons.models.view import ModelView
from tl_taskneurons.neurons.settings import ScoreSettings
from tl_taskneurons.runtime.errors import StateError
from tl_taskneurons.tasks.batches import Batch


@dataclass(frozen=True, eq=False)
class BatchPass:
    """A batch of examples on its way through a model, as attribution methods see it.

    Attributes:
        model_view: the model, frozen.
        batch: tokens on the model's device.
        layers: the layers to score.
        settings: the options.
        add: takes a layer and its scores of each example, ``[batch, d_mlp]``, once a layer.
    """

    model_view: ModelView
    batch: Batch
    layers: Sequence[int]
    settings: ScoreSettings
    add: Callable[[int, Float[Tensor, "batch d_mlp"]], None]

    @property
    def real(self) -> Bool[Tensor, "batch pos 1"]:
        """True at tokens, False at padding; multiplies activations."""
        return self.batch.attention_mask.unsqueeze(-1)

    def watch(self, see: Callable[[int, Tensor], None]) -> None:
        """Run forward; hand each layer's activation ``[batch, pos, d_mlp]`` to ``see``."""
        watch(self.model_view, self.batch, self.layers, see)

    def backward(
        self, reduce: Callable[[int, Tensor, Tensor], None], scale: tuple[int, float] | None = None
    ) -> None:
        """Run forward and backward; hand each layer's gradient and activation to ``reduce``."""

        def chosen(layer: int, gradient: Tensor, activation: Tensor) -> None:
            if layer in self.layers:
                reduce(layer, gradient, activation)

        lowest = min(self.layers) if scale is None else scale[0]
        backward(self.model_view, self.batch, chosen, scale, lowest)


def first_order(run: BatchPass) -> None:
    """Hand over the size of ``gradient * activation`` summed over positions.

    Each layer is reduced when its gradient arrives.
    """
    run.backward(lambda layer, g, a: run.add(layer, (g.float() * a.float()).sum(1).abs()))


def first_order_sizes(run: BatchPass) -> None:
    """Hand over sizes of ``gradient * activation``, summed over positions."""
    run.backward(lambda layer, g, a: run.add(layer, (g.float() * a.float()).abs().sum(1)))


def first_order_sums(run: BatchPass) -> None:
    """Hand over ``gradient * activation`` summed over positions, with its sign."""
    run.backward(lambda layer, g, a: run.add(layer, (g.float() * a.float()).sum(1)))


def integrated(run: BatchPass) -> None:
    """Integrate gradients along ``alpha * w``, alpha from 0 to 1, scaling one layer as a whole.

    The midpoint rule; the size of ``activation * mean gradient`` summed over positions.
    """
    n_rows, steps = len(run.batch.index), run.settings.steps
    for layer in run.layers:
        sums = torch.zeros(
            n_rows, run.model_view.d_mlp, device=run.model_view.device, dtype=torch.float32
        )

        def reduce(
            at: int, gradient: Tensor, activation: Tensor, layer: int = layer, sums: Tensor = sums
        ) -> None:
            if at == layer:
                sums += (gradient.float() * activation.float()).sum(1).to(sums.device)

        for step in range(steps):
            run.backward(reduce, (layer, (step + 0.5) / steps))
        run.add(layer, (sums / steps).abs())


def sizes(run: BatchPass) -> None:
    """Hand over sums over an example's tokens of |activation|."""
    run.watch(lambda layer, a: run.add(layer, _sum(run, a.float().abs())))


def frequency(run: BatchPass) -> None:
    """Hand over how many of an example's tokens have an activation above 0."""
    run.watch(lambda layer, a: run.add(layer, _sum(run, (a.float() > 0).float())))


def plain_activations(run: BatchPass) -> None:
    """Hand over sums over an example's tokens of the activation."""
    run.watch(lambda layer, a: run.add(layer, _sum(run, a.float())))


def _sum(run: BatchPass, values: Tensor) -> Tensor:
    return (values * run.real.to(values.device)).sum(1)


def weight_norms(
    model_view: ModelView,
    settings: ScoreSettings,  # noqa: ARG001 (every method without data takes it)
) -> Float[Tensor, "layer d_mlp"]:
    """Return the norm of each neuron's input weights times that of its output weights."""
    rows = []
    for layer in model_view.layers:
        parts = layer.parameters
        incoming = sum(
            parts[name].oriented.float().square().sum(0)
            for name in ("W_in", "W_gate")
            if name in parts
        )
        outgoing = parts["W_out"].oriented.float().square().sum(1)
        rows.append((incoming * outgoing).sqrt().cpu())
    return torch.stack(rows)


def lottery(model_view: ModelView, settings: ScoreSettings) -> Float[Tensor, "layer d_mlp"]:
    """Return uniform random numbers."""
    return torch.rand(model_view.shape, generator=torch.Generator().manual_seed(settings.seed))


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


def watch(
    model_view: ModelView, batch: Batch, layers: Sequence[int], see: Callable[[int, Tensor], None]
) -> None:
    """Run forward; hand the activations ``[batch, pos, d_mlp]`` of some layers to ``see``."""
    fired: set[int] = set()

    def hook(layer: int) -> Hook:
        def capture(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001 (TransformerLens)
            fired.add(layer)
            see(layer, activation)
            return activation

        return capture

    with torch.no_grad(), hooked(model_view, {layer: hook(layer) for layer in layers}):
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
