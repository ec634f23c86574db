"""Hooks of this library on the neurons' activations and on other modules."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from tl_taskneurons.models.view import ModelView
from tl_taskneurons.runtime.cleanup import Undo
from tl_taskneurons.runtime.errors import StateError

Hook = Callable[..., Tensor]  # of an activation and, by name, the hook point


@contextmanager
def hooked(model_view: ModelView, hooks: Mapping[int, Hook]) -> Iterator[None]:
    """Add forward hooks on the neurons' activations; remove them, and no others, afterwards.

    It nests with ``model.hooks(...)`` and does the same, but that looks all names of a
    TransformerBridge up again for every hook, which takes as long as a short forward pass.
    ``model.reset_hooks()`` inside leaves these hooks in place.

    Args:
        model_view: the model.
        hooks: layer to a function of the activation ``[batch, pos, d_mlp]`` and, as ``hook``, the
            hook point. It returns what takes the activation's place.

    Raises:
        RuntimeError: at the end, when something inside took the hooks away.
    """
    points = {layer: model_view.layers[layer].point for layer in hooks}
    with Undo() as undo:
        keys = [
            add_hook(undo, points[layer], partial(points[layer].add_hook, hook, is_permanent=True))
            for layer, hook in hooks.items()
        ]
        yield
        for (layer, point), added in zip(points.items(), keys, strict=True):
            if not added <= set(point._forward_hooks):
                raise StateError(
                    f"The hook on {model_view.layers[layer].hook} was taken away inside this block "
                    "(reset_hooks(including_permanent=True)?), so the intervention did not act in "
                    "the passes after that. Reset hooks before or after the block."
                )


_LIBRARIES = ("transformer_lens", "transformers.")


def is_hooked(model_view: ModelView) -> bool:
    """Whether anything acts on what the modules compute besides the model's own libraries.

    These leave hooks for good: Transformers once outputs were collected, TransformerLens on OPT.
    """
    for module in model_view.model.modules():
        hooks: list[Any] = [each.user_hook for each in getattr(module, "fwd_hooks", ())]
        hooks += (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if not all(str(getattr(hook, "__module__", "")).startswith(_LIBRARIES) for hook in hooks):
            return True
    return False


def add_hook(undo: Undo, module: nn.Module, add: Callable[[], Any]) -> set[int]:
    """Add a forward hook to a module; undoing removes it, also when adding it was broken off.

    Args:
        undo: runs at the end.
        module: the module, or hook point.
        add: adds the hook.

    Returns:
        What PyTorch calls it in the module's tables.
    """
    point: Any = module  # a HookPoint has a list of its own besides
    known = _hook_keys(module)
    added: set[int] | None = None

    def remove() -> None:
        mine = _hook_keys(module) - known if added is None else added
        for table in (module._forward_hooks, module._forward_pre_hooks):
            for key in mine & set(table):
                del table[key]
        if hasattr(point, "fwd_hooks"):
            point.fwd_hooks = [h for h in point.fwd_hooks if h.hook.id not in mine]

    undo.add(remove)
    add()
    added = _hook_keys(module) - known
    return added


def _hook_keys(module: nn.Module) -> set[int]:
    return {*module._forward_hooks, *module._forward_pre_hooks}
