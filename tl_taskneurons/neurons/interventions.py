"""Changing neurons for a while: silence, scale, mean-ablate or patch them.

Every intervention is a context manager. They nest, and on leaving, also by an exception, the
model is as it was, bit by bit.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import ActivationCache

from tl_taskneurons.models.hooks import Hook, hooked
from tl_taskneurons.models.view import ModelView, pinned_fingerprint, require_same_model, view
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.cleanup import Undo
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.roles import current_role

How = Literal["hooks", "weights"]
Change = Callable[[int, Tensor, Tensor], Tensor]


class HookNeverFiredWarning(UserWarning):
    """An intervention was entered and left without the model running inside it."""


def deactivate(
    model: Any, neurons: NeuronSet, *, how: How = "hooks"
) -> AbstractContextManager[None]:
    """Silence neurons: their activation is zero at every position (paper, section 2).

    Args:
        model: a HookedTransformer or TransformerBridge.
        neurons: which neurons.
        how: ``"hooks"`` zeroes the activations; ``"weights"`` zeroes the rows of the output
            matrices and puts them back afterwards. Both give exactly the same outputs; weights
            also work where hooks are bypassed, such as ``model.original_model(...)``.

    Raises:
        ValueError: for neurons of another model or an unknown ``how``.
    """
    return scale(model, neurons, 0.0, how=how)


@contextmanager
def scale(model: Any, neurons: NeuronSet, factor: float, *, how: How = "hooks") -> Iterator[None]:
    """Multiply neurons' activations by a factor at every position.

    Args:
        model: a HookedTransformer or TransformerBridge.
        neurons: which neurons.
        factor: 0 silences, 1 changes nothing, 2 doubles.
        how: by ``"hooks"`` on the activations or by ``"weights"``, the output rows.

    Raises:
        ValueError: for neurons of another model, an unknown ``how`` or a factor that is not
            finite.
    """
    if not torch.tensor(factor).isfinite():
        raise InputError(f"factor is {factor}; it must be a finite number.")
    model_view = _checked(model, neurons)
    if how == "hooks":

        def change(_layer: int, activation: Tensor, index: Tensor) -> Tensor:
            if factor == 0.0:
                # Chosen, not multiplied: an infinite activation is silenced as well.
                chosen = index.new_zeros(activation.shape[-1], dtype=torch.bool)
                return torch.where(chosen.index_fill(0, index, value=True), 0.0, activation)
            return activation.index_copy(-1, index, activation.index_select(-1, index) * factor)

        with _hooked(model_view, neurons, change):
            yield
    elif how == "weights":
        with _scaled_weights(model_view, neurons, factor):
            yield
    else:
        raise InputError(f"how is {how!r}; use 'hooks' or 'weights'.")


@contextmanager
def mean_ablate(
    model: Any, neurons: NeuronSet, means: Float[Tensor, "layer d_mlp"]
) -> Iterator[None]:
    """Set neurons to a constant, such as their mean activation over some reference text.

    Zero is far from what many neurons usually do, so zeroing them also removes what every input
    needs; the mean removes only what differs between inputs.

    Args:
        model: a HookedTransformer or TransformerBridge.
        neurons: which neurons.
        means: the constants, e.g. from ``activation_mean``.

    Raises:
        ValueError: for neurons of another model, or means of another shape or not finite.
    """
    model_view = _checked(model, neurons)
    if tuple(means.shape) != model_view.shape:
        raise InputError(
            f"means has shape {tuple(means.shape)}; {model_view.name} needs {model_view.shape}."
        )
    if not bool(means.isfinite().all()):
        raise InputError("means holds a NaN or infinite value; check the model's activations.")

    def change(layer: int, activation: Tensor, index: Tensor) -> Tensor:
        constant = means[layer].to(activation.device, activation.dtype)[index]
        return activation.index_copy(-1, index, constant.expand(*activation.shape[:-1], len(index)))

    with _hooked(model_view, neurons, change):
        yield


@contextmanager
def patch(
    model: Any, neurons: NeuronSet, source: ActivationCache | Mapping[str, Tensor]
) -> Iterator[None]:
    """Give neurons the activations they had in another run.

    Args:
        model: a HookedTransformer or TransformerBridge.
        neurons: which neurons.
        source: activations ``[batch, pos, d_mlp]`` by hook name, such as the cache of
            ``model.run_with_cache(tokens)``; batch and positions must be those of the run that
            is patched.

    Raises:
        ValueError: for neurons of another model, a layer missing in ``source``, or (when the
            model runs) activations of another shape.
    """
    model_view = _checked(model, neurons)
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


def _checked(model: Any, neurons: NeuronSet) -> ModelView:
    model_view = view(model)
    require_same_model(repr(neurons), neurons.fingerprint, model_view)
    return model_view


@contextmanager
def _hooked(model_view: ModelView, neurons: NeuronSet, change: Change) -> Iterator[None]:
    """Apply ``change`` at the hook points of the layers that have neurons in the set."""
    fired: set[int] = set()

    def hook(layer: int, index: Tensor) -> Hook:
        placed: dict[torch.device, Tensor] = {}

        def apply(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001 (TransformerLens)
            fired.add(layer)
            if activation.device not in placed:
                placed[activation.device] = index.to(activation.device)
            return change(layer, activation, placed[activation.device])

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


@contextmanager
def _scaled_weights(model_view: ModelView, neurons: NeuronSet, factor: float) -> Iterator[None]:
    """Scale the output rows of neurons and put the saved rows back afterwards."""
    # ``oriented`` is detached, so writing to it needs no no_grad and the caller's mode stays.
    saved: list[tuple[Tensor, Tensor, Tensor]] = []
    with pinned_fingerprint(model_view):
        for layer, index in neurons.layers().items():
            rows = model_view.layers[layer].parameters["W_out"].oriented
            index = index.to(rows.device)
            saved.append((rows, index, rows.index_select(0, index)))
        with Undo() as undo:
            for rows, index, before in saved:
                undo.add(rows.index_copy_, 0, index, before)
                changed = torch.zeros_like(before) if factor == 0.0 else before * factor
                rows.index_copy_(0, index, changed)
            yield
