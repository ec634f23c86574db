"""For the tests of interventions: neurons, what a model computes, and every intervention."""

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from tl_taskneurons import NeuronSet, deactivate, mean_ablate, patch, scale
from tl_taskneurons.models.view import view

How = Literal["hooks", "weights"]
WAYS = ["hooks", "weights"]
TOKENS = torch.tensor([[7, 31, 2, 250, 90], [5, 5, 61, 0, 128]])
OTHERS = torch.tensor([[1, 77, 3, 201, 9], [8, 15, 6, 10, 12]])


def logits(model: Any, tokens: Tensor = TOKENS) -> Tensor:
    with torch.no_grad():
        return model(tokens, attention_mask=torch.ones_like(tokens))


@contextmanager
def failing_forward(model: Any, error: type[BaseException]):
    """Make a model raise in its unembedding."""

    def fail(*_: Any) -> None:
        raise error

    handle = model.unembed.register_forward_hook(fail)
    try:
        yield
    finally:
        handle.remove()


def some(model: Any, seed: int = 0) -> NeuronSet:
    """A fifth of the neurons, drawn at random."""
    chosen = torch.rand(view(model).shape, generator=torch.Generator().manual_seed(seed)) < 0.2
    return NeuronSet(chosen, view(model).fingerprint, f"some {seed}")


def activations(model: Any, tokens: Tensor = TOKENS) -> dict[str, Tensor]:
    """What enters the output matrices, copied by hooks of our own."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[Tensor, Any], Tensor]:
        def hook(activation: Tensor, hook: Any) -> Tensor:
            found[name] = activation.detach().clone()
            return activation

        return hook

    with model.hooks(fwd_hooks=[(layer.hook, keep(layer.hook)) for layer in view(model).layers]):
        logits(model, tokens)
    return found


INTERVENTIONS: dict[str, Callable[[Any, NeuronSet], AbstractContextManager[None]]] = {
    "deactivate by hooks": lambda m, n: deactivate(m, n),
    "deactivate by weights": lambda m, n: deactivate(m, n, how="weights"),
    "scale by hooks": lambda m, n: scale(m, n, 0.3),
    "scale by weights": lambda m, n: scale(m, n, 0.3, how="weights"),
    "mean_ablate": lambda m, n: mean_ablate(m, n, torch.ones(view(m).shape)),
    "patch": lambda m, n: patch(m, n, activations(m, OTHERS)),
}
