"""What takes the place of a silenced neuron's activation."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from random import Random

import torch
from einops import repeat
from jaxtyping import Int
from torch import Tensor

from tl_taskneurons.models.forward import NOTHING, Added, adding, answer_logits
from tl_taskneurons.models.hooks import Hook, hooked
from tl_taskneurons.models.inputs import changing_items
from tl_taskneurons.models.view import ModelView
from tl_taskneurons.neurons.methods import ABLATIONS, Ablation
from tl_taskneurons.runtime.errors import InputError, InputTypeError, StateError
from tl_taskneurons.tasks.batches import Batch, make_batches
from tl_taskneurons.tasks.prompts import Item

# Of a layer and its activation ``[batch, pos, d_mlp]``: what takes its place, of a shape that fits.
Replacement = Callable[[int, Tensor], Tensor]


# How the interventions that are open choose examples' counterfactual prompts: all alike.
_CHOICES: ContextVar[Added[str]] = ContextVar("choices", default=NOTHING)


class CounterfactualLengthWarning(UserWarning):
    """Prompts and counterfactual prompts differ in length, so they are aligned at their ends."""


def check_ablation(ablation: str | Tensor) -> None:
    """Raise ValueError or TypeError for what can't be an ablation."""
    if isinstance(ablation, str):
        ABLATIONS.find(ablation)
    elif not isinstance(ablation, Tensor):
        raise InputTypeError(
            f"ablation is {ablation!r}; use one of {list(ABLATIONS)} or a tensor of constants."
        )


def constants(model_view: ModelView, values: Tensor) -> Replacement:
    """Put constants ``[layer, d_mlp]`` in the activations' place.

    Raises:
        TypeError: for what is no tensor.
        ValueError: for another shape, or values that are not finite.
    """
    if not isinstance(values, Tensor):
        raise InputTypeError(
            f"The constants to ablate with are {values!r} ({type(values).__name__}); give a tensor "
            "[layer, d_mlp], as activation_mean(model, task) returns."
        )
    if tuple(values.shape) != model_view.shape:
        raise InputError(
            f"The constants to ablate with have shape {tuple(values.shape)}; {model_view.name} "
            f"needs {model_view.shape}."
        )
    if not bool(values.isfinite().all()):
        raise InputError(
            "The constants to ablate with hold a NaN or infinite value; check the activations "
            "that they come from."
        )
    return lambda layer, activation: values[layer].to(activation.device, activation.dtype)


def by_zero(
    _view: ModelView, _batches: Sequence[Batch], _layers: Sequence[int]
) -> Callable[[Batch], Replacement | None]:
    """Put zeros in the activations' place; that is what None stands for."""
    return lambda _batch: None


def by_counterfactual(
    model_view: ModelView, _batches: Sequence[Batch], layers: Sequence[int]
) -> Callable[[Batch], Replacement | None]:
    """Put the activations of the counterfactual prompts in place; see ``counterfactuals``."""
    return lambda batch: counterfactuals(model_view, batch, layers)


def counterfactuals(model_view: ModelView, batch: Batch, layers: Sequence[int]) -> Replacement:
    """Run the counterfactual prompts of a batch; put their activations in the clean ones' place.

    Prompts are aligned at their ends, so that the answers, which are the same, stand below each
    other; where both are of one length that is token by token. A position without a counterpart
    keeps its activation.
    """
    other, shifts = counterfactual_batch(batch)
    found: dict[int, Tensor] = {}

    def hook(layer: int) -> Hook:
        def keep(activation: Tensor, hook: object) -> Tensor:  # noqa: ARG001 (TransformerLens)
            found[layer] = activation.detach()
            return activation

        return keep

    with torch.no_grad(), hooked(model_view, {layer: hook(layer) for layer in layers}):
        answer_logits(model_view, other)
    return lambda layer, activation: aligned(found[layer], activation, shifts)


def counterfactual_batch(batch: Batch) -> tuple[Batch, Int[Tensor, " batch"]]:
    """Return the batch with counterfactual prompts, and how much longer the clean prompts are.

    Raises:
        ValueError: for an example without counterfactual prompt, such as an ``Item`` made by hand.
    """
    items, shifts = [], []
    for row, item in enumerate(batch.items):
        if not item.counterfactual:
            raise InputError(
                f"Example {item.index} has no counterfactual prompt, whose activations are to be "
                "put in place; give it (Item(counterfactual=ids)), or run a task's examples."
            )
        answer = batch.tokens[row][batch.answer_mask[row]].tolist()
        items.append(replace(item, prompt=item.counterfactual, answer=tuple(answer)))
        shifts.append(len(item.prompt) - len(item.counterfactual))
    widest = max(map(len, items))
    (other,) = make_batches(items, token_budget=len(items) * widest)
    order = sorted(range(len(items)), key=lambda row: other.index[row])
    # Their own counterpart is themselves: what an open intervention puts in place of activations
    # of this run comes from these prompts too.
    own = tuple(replace(item, prompt=item.counterfactual) for item in batch.items)
    other = Batch(
        other.tokens[order], other.attention_mask[order], other.answer_mask[order], batch.index,
        own,
    )  # fmt: skip
    return other.to(batch.tokens.device), torch.tensor(shifts, device=batch.tokens.device)


def aligned(other: Tensor, activation: Tensor, shifts: Int[Tensor, " batch"]) -> Tensor:
    """Move activations of counterfactual prompts so that they end where the clean prompts end."""
    if other.shape == activation.shape and not bool(shifts.any()):
        return other
    places = torch.arange(activation.shape[1], device=other.device) - shifts[:, None].to(
        other.device
    )
    known = (places >= 0) & (places < other.shape[1])
    nearest = places.clamp(0, other.shape[1] - 1)
    index = repeat(nearest, "batch pos -> batch pos d_mlp", d_mlp=other.shape[-1])
    return torch.where(known.unsqueeze(-1), other.gather(1, index), activation)


@contextmanager
def choosing_prompts(ablation: Ablation, seed: int) -> Iterator[None]:
    """Give examples that are read the counterfactual prompts that an ablation needs.

    Raises:
        RuntimeError: where an open intervention chooses others.
    """
    if not ablation.items:
        yield
        return
    choice = _choice(ablation.name, seed)
    _require_same_choice(choice)
    with (
        adding(_CHOICES, choice),
        changing_items(lambda items: ablation.prepared(items, seed)),
    ):
        yield


def _choice(name: str, seed: int) -> str:
    return f"ablation={name!r}" + ("" if name == "counterfactual" else f" with seed={seed}")


def _require_same_choice(choice: str) -> None:
    others = [other for other in _CHOICES.get().values() if other != choice]
    if others:
        raise StateError(
            f"An open intervention has {others[0]}, and this asks for {choice}; an example has one "
            "counterfactual prompt at a time. Ask for the same (also the same seed), or leave the "
            "other first."
        )


def require_counterfactuals(
    items: Sequence[Item],
    seed: int = 0,
) -> tuple[Item, ...]:
    """Return the items; an item without counterfactual raises ValueError, and lengths are told.

    Raises:
        RuntimeError: where an open intervention has chosen other prompts.
    """
    _require_same_choice(_choice("counterfactual", seed))
    for item in items:
        if not item.counterfactual:
            raise InputError(
                f"Example {item.index} has no counterfactual input, which "
                'ablation="counterfactual" needs; give it, e.g. {"input": ..., "target": ..., '
                '"counterfactual": ...}, or use "resample".'
            )
    odd = [item for item in items if len(item.counterfactual) != len(item.prompt)]
    if odd:
        warnings.warn(
            f"The prompts and counterfactual prompts of {len(odd)} of {len(items)} examples "
            f"differ in length (example {odd[0].index}: {len(odd[0].prompt)} and "
            f"{len(odd[0].counterfactual)} tokens), so they are aligned at their ends; a token "
            "without a counterpart keeps its activation.",
            CounterfactualLengthWarning,
            stacklevel=3,
        )
    return tuple(items)


def resampled(items: Sequence[Item], seed: int) -> tuple[Item, ...]:
    """Return the items with another item's prompt as counterfactual, drawn by the seed.

    Raises:
        ValueError: for fewer than two items.
        RuntimeError: where an open intervention has chosen other prompts.
    """
    _require_same_choice(_choice("resample", seed))
    if len(items) < 2:
        raise InputError('ablation="resample" needs at least two examples.')
    order = list(range(len(items)))
    Random(f"resample/{seed}").shuffle(order)
    donors = dict(zip(order, [*order[1:], order[0]], strict=True))
    return tuple(
        replace(item, counterfactual=items[donors[i]].prompt) for i, item in enumerate(items)
    )
