"""Changing neurons for a while: silence, scale, mean-ablate or patch them.

Every intervention is a context manager. They nest, and on leaving, also by an exception, the
model is as it was, bit by bit.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import ActivationCache

from tl_taskneurons.models.forward import is_undisturbed, preparing
from tl_taskneurons.models.hooks import Hook, hooked
from tl_taskneurons.models.positions import Positions, check_positions, chosen, current_places
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import ModelView, view
from tl_taskneurons.neurons.ablation import (
    Replacement,
    check_ablation,
    choosing_prompts,
    constants,
)
from tl_taskneurons.neurons.given import Neurons, neuron_set
from tl_taskneurons.neurons.methods import ABLATIONS, Ablation
from tl_taskneurons.neurons.opening import intervention
from tl_taskneurons.neurons.scaled_rows import scaled_rows
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.errors import InputError, InputTypeError, StateError
from tl_taskneurons.runtime.options import require_number
from tl_taskneurons.runtime.roles import current_role
from tl_taskneurons.tasks.batches import Batch

How = Literal["hooks", "weights"]
Change = Callable[[int, Tensor, Tensor], Tensor]


class HookNeverFiredWarning(UserWarning):
    """An intervention was entered and left without the model running inside it."""


def deactivate(
    model: LanguageModel,
    neurons: Neurons,
    *,
    how: How = "hooks",
    ablation: str | Tensor = "zero",
    positions: Positions = "all",
    seed: int = 0,
) -> AbstractContextManager[None]:
    """Silence neurons: by default their activation is zero at every position (paper, section 2).

    Args:
        model: a HookedTransformer or TransformerBridge.
        neurons: which neurons, a set or ``(layer, neuron)`` pairs.
        how: ``"hooks"`` zeroes the activations; ``"weights"`` zeroes the rows of the output
            matrices and puts them back afterwards. Both give exactly the same outputs; weights
            also work where hooks are bypassed, such as ``model.original_model(...)``.
        ablation: what the activation becomes: ``"zero"``, constants ``[layer, d_mlp]`` (e.g. from
            ``activation_mean``), or inside ``evaluate`` and ``score_neurons`` also
            ``"counterfactual"`` or ``"resample"``: the activation in the example's counterfactual
            prompt, or in that of another example.
        positions: where: ``"all"``, a slice of each text's tokens, a function of ``Places``, or
            inside ``evaluate`` and ``score_neurons`` also ``"answer"`` or ``"last_prompt"``.
        seed: which examples ``"resample"`` draws.

    Raises:
        ValueError: for neurons of another model, an unknown ``how``, ablation or positions,
            weights with another ablation than zero or at some positions only, or (when the model
            runs) an example without counterfactual.
        RuntimeError: when entered a second time, or where an open intervention takes other
            counterfactual prompts (another of the two ablations, or another seed).
    """
    check_positions(positions)
    check_ablation(ablation)
    if isinstance(neurons, Sized) and not len(neurons):
        warnings.warn("The set to silence is empty, so the model stays as it is.", stacklevel=2)
    _check_how(how, positions)
    if how == "weights" and not (isinstance(ablation, str) and ablation == "zero"):
        raise InputError("how='weights' silences to zero; use how='hooks' for another ablation.")
    if isinstance(ablation, Tensor):
        return mean_ablate(model, neurons, ablation, positions=positions)
    if ablation == "mean":
        raise InputError(
            "ablation='mean' needs the means: deactivate(model, neurons, "
            "ablation=activation_mean(model, task))."
        )
    if ablation == "zero":
        return scale(model, neurons, 0.0, how=how, positions=positions)
    return _replaced(model, neurons, ABLATIONS.find(ablation), positions, seed)


@intervention
def _replaced(
    model: LanguageModel, neurons: Neurons, ablation: Ablation, positions: Positions, seed: int
) -> Iterator[None]:
    """Give neurons what an ablation makes of each batch, such as counterfactual activations."""
    model_view = view(model)
    neurons = neuron_set(model_view, neurons)
    known: list[tuple[Tensor, Replacement | None]] = []

    def look(batch: Batch) -> None:
        replaced = ablation.function(model_view, [batch], list(neurons.layers()))
        known[:] = [(batch.tokens, replaced(batch))]

    def change(layer: int, activation: Tensor, index: Tensor) -> Tensor:
        tokens = current_places("answer", activation[..., 0].long()).tokens
        if not known or known[0][0] is not tokens:
            raise StateError(
                f"ablation={ablation.name!r} is known for examples with their answers only; "
                "evaluate without share_prefix and generation."
            )
        replacement = known[0][1]
        other = activation.new_zeros(()) if replacement is None else replacement(layer, activation)
        other = other.expand_as(activation).index_select(-1, index)
        return activation.index_copy(-1, index, other)

    with (
        preparing(look),
        choosing_prompts(ablation, seed),
        _hooked(model_view, neurons, change, positions),
    ):
        yield


@intervention
def scale(
    model: LanguageModel,
    neurons: Neurons,
    factor: float,
    *,
    how: How = "hooks",
    positions: Positions = "all",
) -> Iterator[None]:
    """Multiply neurons' activations by a factor at every position.

    Args:
        model: a HookedTransformer or TransformerBridge.
        neurons: which neurons, a set or ``(layer, neuron)`` pairs.
        factor: 0 silences, 1 changes nothing, 2 doubles.
        how: by ``"hooks"`` on the activations or by ``"weights"``, the output rows.
        positions: where, by hooks; see ``deactivate``.

    Raises:
        ValueError: for neurons of another model, an unknown ``how``, weights at some positions
            only, or a factor that is not finite.
    """
    check_positions(positions)
    _check_how(how, positions)
    require_number("factor", factor)
    if factor is None or not math.isfinite(factor):
        raise InputError(f"factor is {factor}; it must be a finite number.")
    model_view = view(model)
    neurons = neuron_set(model_view, neurons)
    if how == "hooks":

        def change(_layer: int, activation: Tensor, index: Tensor) -> Tensor:
            if factor == 0.0:
                # Chosen, not multiplied: an infinite activation is silenced as well.
                chosen = index.new_zeros(activation.shape[-1], dtype=torch.bool)
                return torch.where(chosen.index_fill(0, index, value=True), 0.0, activation)
            return activation.index_copy(-1, index, activation.index_select(-1, index) * factor)

        with _hooked(model_view, neurons, change, positions):
            yield
    else:
        with scaled_rows(model_view, neurons, factor):
            yield


def _check_how(how: str, positions: Positions) -> None:
    """Raise ValueError for an unknown ``how``, or weights at some positions only."""
    if how not in ("hooks", "weights"):
        raise InputError(f"how is {how!r}; use 'hooks' or 'weights'.")
    if how == "weights" and positions != "all":
        raise InputError(
            f"how='weights' changes all positions, but positions is {positions!r}; use "
            "how='hooks' for some of them."
        )


@intervention
def mean_ablate(
    model: LanguageModel,
    neurons: Neurons,
    means: Float[Tensor, "layer d_mlp"],
    *,
    positions: Positions = "all",
) -> Iterator[None]:
    """Set neurons to a constant, such as their mean activation over some reference text.

    Zero is far from what many neurons usually do, so zeroing them also removes what every input
    needs; the mean removes only what differs between inputs.

    Args:
        model: a HookedTransformer or TransformerBridge.
        neurons: which neurons, a set or ``(layer, neuron)`` pairs.
        means: the constants, e.g. from ``activation_mean``.
        positions: where; see ``deactivate``.

    Raises:
        ValueError: for neurons of another model, or means of another shape or not finite.
    """
    model_view = view(model)
    neurons = neuron_set(model_view, neurons)
    constant = constants(model_view, means)

    def change(layer: int, activation: Tensor, index: Tensor) -> Tensor:
        fixed = constant(layer, activation)[index]
        return activation.index_copy(-1, index, fixed.expand(*activation.shape[:-1], len(index)))

    with _hooked(model_view, neurons, change, positions):
        yield


@intervention
def patch(
    model: LanguageModel, neurons: Neurons, source: ActivationCache | Mapping[str, Tensor]
) -> Iterator[None]:
    """Give neurons the activations they had in another run.

    Args:
        model: a HookedTransformer or TransformerBridge.
        neurons: which neurons, a set or ``(layer, neuron)`` pairs.
        source: activations ``[batch, pos, d_mlp]`` by hook name, such as the cache of
            ``model.run_with_cache(tokens)``; batch and positions must be those of the run that
            is patched.

    Raises:
        ValueError: for neurons of another model, a layer missing in ``source``, or (when the
            model runs) activations of another shape.
    """
    model_view = view(model)
    neurons = neuron_set(model_view, neurons)
    if not hasattr(source, "__getitem__"):
        raise InputTypeError(
            f"source is {source!r}; give the cache of model.run_with_cache(tokens), or a dict of "
            "activations by hook name."
        )
    for layer in neurons.layers():
        if model_view.layers[layer].hook not in source:
            raise InputError(
                f"source has no {model_view.layers[layer].hook}, where {neurons!r} has neurons; "
                "cache it with model.run_with_cache(tokens)."
            )

    def change(layer: int, activation: Tensor, index: Tensor) -> Tensor:
        hook = model_view.layers[layer].hook
        other = source[hook]
        if other.shape != activation.shape:
            raise InputError(
                f"source[{hook!r}] has shape {tuple(other.shape)}, this run has "
                f"{tuple(activation.shape)}; patch between runs of equal batch and length."
            )
        other = other.to(activation.device, activation.dtype)
        return activation.index_copy(-1, index, other.index_select(-1, index))

    with _hooked(model_view, neurons, change):
        yield


@contextmanager
def _hooked(
    model_view: ModelView, neurons: NeuronSet, change: Change, positions: Positions = "all"
) -> Iterator[None]:
    """Apply ``change`` at the hook points of the layers that have neurons in the set."""
    check_positions(positions)
    fired: set[int] = set()

    def hook(layer: int, index: Tensor) -> Hook:
        placed: dict[torch.device, Tensor] = {}

        def apply(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001 (TransformerLens)
            fired.add(layer)
            if is_undisturbed():
                return activation
            if activation.device not in placed:
                placed[activation.device] = index.to(activation.device)
            changed = change(layer, activation, placed[activation.device])
            if positions == "all":
                return changed
            mask = chosen(positions, current_places(positions, activation[..., 0].long()))
            assert mask is not None
            return torch.where(mask.unsqueeze(-1).to(activation.device), changed, activation)

        return apply

    layers = neurons.layers()
    with hooked(model_view, {layer: hook(layer, index) for layer, index in layers.items()}):
        yield
    silent = sorted(set(layers) - fired)
    if silent and current_role().leads:  # another process may have no share of the examples
        warnings.warn(
            f"The hook {model_view.layers[silent[0]].hook} never fired in this block: "
            f"{model_view.name} did not run through it, so the intervention had no effect.",
            HookNeverFiredWarning,
            stacklevel=5,
        )
