"""Hooks of this library on the neurons' activations."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformer_lens.hook_points import HookPoint

from tl_taskneurons.models.view import ModelView

Hook = Callable[..., Tensor]  # of an activation and, by name, the hook point


@contextmanager
def hooked(model_view: ModelView, hooks: Mapping[int, Hook]) -> Iterator[None]:
    """Add forward hooks on the neurons' activations; remove them, and no others, afterwards.

    It nests with ``model.hooks(...)`` and does the same, but that looks all names of a
    TransformerBridge up again for every hook, which takes as long as a short forward pass.

    Args:
        model_view: the model.
        hooks: layer to a function of the activation ``[batch, pos, d_mlp]`` and, as ``hook``, the
            hook point. It returns what takes the activation's place.
    """
    added: list[tuple[HookPoint, Any]] = []
    try:
        for layer, hook in hooks.items():
            point = model_view.layers[layer].point
            point.add_hook(hook)
            added.append((point, point.fwd_hooks[-1]))
        yield
    finally:
        for point, handle in added:
            handle.hook.remove()
            point.fwd_hooks = [other for other in point.fwd_hooks if other is not handle]
