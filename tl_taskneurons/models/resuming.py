"""Running only the upper blocks of a model, on what the lower ones gave before.

TransformerLens' ``start_at_layer`` is missing in some versions and, on Bloom, silently wrong. Here
the whole model runs, embeddings, masks and position biases included, but lower blocks return what
is stored.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from tl_taskneurons.models.hooks import add_hook
from tl_taskneurons.models.view import ModelView
from tl_taskneurons.runtime.cleanup import Undo
from tl_taskneurons.runtime.errors import StateError

# What a block returns: the residual stream ``[batch, pos, d_model]``, alone or first of several.
Output = Any
# Of a block that gives what was kept: its hooks too, whose doing is part of what was kept.
_REPLACED = ("forward", "_forward_hooks", "_forward_pre_hooks")


@contextmanager
def keeping(
    model_view: ModelView, layers: Sequence[int], kept: dict[int, Output]
) -> Iterator[None]:
    """Keep what blocks return while the context is open.

    Args:
        model_view: the model.
        layers: which blocks.
        kept: is given their outputs, by layer.
    """

    def keep(layer: int, _block: nn.Module, _args: object, output: Output) -> None:
        kept[layer] = _streams(output, Tensor.detach)

    with Undo() as undo:
        for layer in layers:
            block = model_view.model.blocks[layer]
            hook = partial(keep, layer)
            add_hook(undo, block, partial(block.register_forward_hook, hook))
        yield


@contextmanager
def resumed(model_view: ModelView, layer: int, below: Output, copies: int) -> Iterator[None]:
    """Start at a block: those below return, and compute, nothing but what is given.

    Args:
        model_view: the model.
        layer: the first block that computes.
        below: what the block under it returned.
        copies: how often its rows stand below each other in the batch that runs.

    Raises:
        RuntimeError: when the model did not run its blocks one by one.
    """
    output = _streams(below, lambda stream: stream.repeat(copies, 1, 1))
    runs: list[int] = []

    def given(*_args: Any, **_kwargs: Any) -> Output:
        runs.append(1)
        return output

    with Undo() as undo:
        for block in model_view.model.blocks[:layer]:
            # A bridge hands attributes that are set on it to the module that it wraps.
            own = block.__dict__
            undo.add(_put_back, own, {name: own.get(name) for name in _REPLACED})
            own.update(forward=given, _forward_hooks={}, _forward_pre_hooks={})
        yield
    if len(runs) != layer:
        raise StateError(
            f"{model_view.name} ran {len(runs)} of the {layer} blocks below layer {layer}; this "
            "architecture can't be started there."
        )


def _put_back(own: dict[str, Any], before: Mapping[str, Any]) -> None:
    for name, value in before.items():
        if value is None:
            own.pop(name, None)
        else:
            own[name] = value


def _streams(output: Output, change: Callable[[Tensor], Tensor]) -> Output:
    if isinstance(output, Tensor):
        return change(output)
    first, *rest = output
    return type(output)([change(first), *rest])
