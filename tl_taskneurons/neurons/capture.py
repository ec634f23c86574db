"""Hooks that capture the neurons' activations and gradients, and what they say of each example."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_taskneurons.models.checkpointing import recomputes
from tl_taskneurons.models.forward import answer_losses, in_runs_asked_for
from tl_taskneurons.models.hooks import Hook, hooked
from tl_taskneurons.models.positions import chosen, places_of
from tl_taskneurons.models.view import ModelView
from tl_taskneurons.neurons.ablation import Replacement
from tl_taskneurons.neurons.measures import example_of, measured, require_gradient
from tl_taskneurons.neurons.settings import ScoreSettings
from tl_taskneurons.runtime.errors import InputError, StateError
from tl_taskneurons.tasks.batches import Batch

# A layer, and what its activations are changed by.
Path = tuple[int, Callable[[Tensor], Tensor]]


@dataclass(frozen=True, eq=False)
class BatchPass:
    """A batch of examples on its way through a model, as attribution methods see it.

    Attributes:
        model_view: the model, frozen.
        batch: tokens on the model's device.
        layers: the layers to score.
        settings: the options.
        other: what takes a silenced activation's place; None for zero.
        reference: logits of the undisturbed model, where the metric compares with it.
        add: takes a layer and its scores of each example, ``[batch, d_mlp]``, once a layer.
    """

    model_view: ModelView
    batch: Batch
    layers: Sequence[int]
    settings: ScoreSettings
    add: Callable[[int, Float[Tensor, "batch d_mlp"]], None]
    other: Replacement | None = None
    reference: Tensor | None = None

    @cached_property
    def mask(self) -> Bool[Tensor, "batch pos 1"] | None:
        """True at the positions that are asked for; None where that is everywhere."""
        mask = chosen(self.settings.positions, places_of(self.batch))
        if mask is not None and not bool(mask.any(1).all()):
            row = int((~mask.any(1)).nonzero()[0])
            raise InputError(
                f"positions={self.settings.positions!r} choose no token of example "
                f"{example_of(self.batch, row)}, which has "
                f"{int(self.batch.attention_mask[row].sum())}; choose others."
            )
        return None if mask is None else mask.unsqueeze(-1)

    @property
    def real(self) -> Bool[Tensor, "batch pos 1"]:
        """True at the tokens that are asked for, False at padding; multiplies activations."""
        return self.batch.attention_mask.unsqueeze(-1) if self.mask is None else self.mask

    def removed(self, layer: int, activation: Tensor) -> Float[Tensor, "batch pos d_mlp"]:
        """What silencing takes away: the activation less what takes its place, in float32."""
        away = activation.float()
        if self.other is not None:
            away = away - self.other(layer, activation).float()
        return away if self.mask is None else away * self.mask.to(away.device)

    def objective(self) -> Float[Tensor, " batch"]:
        """Run forward and return each example's metric, with its gradient."""
        metric = self.settings.measure
        values = measured(metric, self.model_view, self.batch, self.reference)
        if metric.by_item and torch.is_grad_enabled():
            require_gradient(metric, values, self.batch)
        return values

    def watch(self, see: Callable[[int, Tensor], None]) -> None:
        """Run forward; hand each layer's activation ``[batch, pos, d_mlp]`` to ``see``."""
        watch(self.model_view, self.batch, self.layers, see)

    def backward(
        self, reduce: Callable[[int, Tensor, Tensor], None], path: Path | None = None
    ) -> None:
        """Run forward and backward; hand each layer's gradient and activation to ``reduce``."""

        def scored(layer: int, gradient: Tensor, activation: Tensor) -> None:
            if layer in self.layers:
                reduce(layer, gradient, activation)

        lowest = min(self.layers) if path is None else path[0]
        backward(self.model_view, self.batch, scored, path, lowest, self.objective)

    def give(self, layer: int, sums: Float[Tensor, "batch d_mlp"]) -> None:
        """Add first-order effects: minus the sums over positions of gradient * what is removed."""
        self.add(layer, -sums if self.settings.signed else sums.abs())


def first_order(run: BatchPass) -> None:
    """Hand over the size of ``gradient * activation`` summed over positions.

    Each layer is reduced when its gradient arrives.
    """
    run.backward(lambda layer, g, a: run.give(layer, (g.float() * run.removed(layer, a)).sum(1)))


def first_order_sizes(run: BatchPass) -> None:
    """Hand over sizes of ``gradient * activation``, summed over positions."""
    run.backward(
        lambda layer, g, a: run.add(layer, (g.float() * run.removed(layer, a)).abs().sum(1))
    )


def first_order_sums(run: BatchPass) -> None:
    """Hand over ``gradient * activation`` summed over positions, with its sign."""
    sign = -1 if run.settings.signed else 1
    run.backward(
        lambda layer, g, a: run.add(layer, sign * (g.float() * run.removed(layer, a)).sum(1))
    )


def integrated(run: BatchPass) -> None:
    """Integrate gradients along ``alpha * w``, alpha from 0 to 1, scaling one layer as a whole.

    The midpoint rule; the size of ``activation * mean gradient`` summed over positions. Another
    ablation than zero starts the path at what takes the activations' place.
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
                sums += (gradient.float() * run.removed(at, activation)).sum(1).to(sums.device)

        for step in range(steps):
            run.backward(reduce, (layer, _towards(run, layer, (step + 0.5) / steps)))
        run.give(layer, sums / steps)


def _towards(run: BatchPass, layer: int, alpha: float) -> Callable[[Tensor], Tensor]:
    """Return a function that moves activations from what replaces them to what they are."""

    def move(activation: Tensor) -> Tensor:
        if run.other is None and run.mask is None:
            return activation * alpha
        return activation - (1 - alpha) * run.removed(layer, activation).to(activation.dtype)

    return move


def sizes(run: BatchPass) -> None:
    """Hand over sums over an example's tokens of |activation|."""
    run.watch(lambda layer, a: run.add(layer, _sum(run, a.float().abs())))


def frequency(run: BatchPass) -> None:
    """Hand over how many of an example's tokens have an activation above 0."""
    run.watch(lambda layer, a: run.add(layer, _sum(run, (a.float() > 0).float())))


def wanda(run: BatchPass) -> None:
    """Hand over sums over tokens of the squared size of what a neuron writes.

    Sun et al. 2024 (Wanda, arXiv 2306.11695) rank a weight by its size times the norm of its
    input over tokens; a neuron's output weights together have the size of their norm, and all its
    inputs are its activation.
    """
    outs = [
        layer.parameters["W_out"].oriented.float().square().sum(1)
        for layer in run.model_view.layers
    ]
    run.watch(lambda layer, a: run.add(layer, _sum(run, a.float().square()) * outs[layer]))


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
    generator = torch.Generator("cpu").manual_seed(settings.seed)
    return torch.rand(model_view.shape, generator=generator, device="cpu", dtype=torch.float32)


def backward(
    model_view: ModelView,
    batch: Batch,
    reduce: Callable[[int, Tensor, Tensor], None],
    path: Path | None = None,
    lowest: int = 0,
    objective: Callable[[], Tensor] | None = None,
) -> None:
    """Run forward and backward; hand each layer's gradient and activation to ``reduce``.

    Args:
        model_view: the model, frozen.
        batch: tokens on the model's device.
        reduce: called with layer, gradient and (unchanged) activation ``[batch, pos, d_mlp]``.
        path: a layer, and what its activations are changed by first.
        lowest: layers below it take no part in the backward pass.
        objective: runs the model and returns what to differentiate, one number an example; the
            loss by default.
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
            if path is not None and path[0] == layer:
                activation = path[1](activation.detach())
            if not activation.requires_grad:
                activation = activation.detach().requires_grad_()
            if first:
                activation.register_hook(on_gradient)
            return activation

        def on_gradient(gradient: Tensor) -> None:
            reduce(layer, gradient, values.pop(layer))

        return in_runs_asked_for(capture)

    hooks = {layer.index: hook(layer.index) for layer in model_view.layers[lowest:]}
    with torch.enable_grad(), hooked(model_view, hooks):
        numbers = objective() if objective else answer_losses(model_view, batch)
        require_fired(model_view, fired, range(lowest, model_view.n_layers))
        numbers.sum().backward()


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

        return in_runs_asked_for(capture)

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
