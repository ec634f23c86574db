"""Gradient checkpointing: keep each block's input only, and compute the rest again backwards.

Long inputs then fit into memory, for one more forward pass of time (Chen et al. 2016, "Training
deep nets with sublinear memory cost").
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import ModelView, view
from tl_taskneurons.runtime.cleanup import Undo
from tl_taskneurons.runtime.errors import StateError


@contextmanager
def gradient_checkpointing(model: LanguageModel) -> Iterator[None]:
    """Save memory in every backward pass while open, for about a third more time.

    Scores and trained weights stay the same. It pays where activations fill the memory: with many
    layers and long inputs. In an evaluation it changes nothing.

    Args:
        model: a HookedTransformer or TransformerBridge.

    Raises:
        RuntimeError: when it is open for this model already.
    """
    model_view = view(model)
    if recomputes(model_view):
        raise StateError(
            f"gradient_checkpointing is open for {model_view.name} already; open it once."
        )
    # Some models have a forward of their own in a block already, which is put back.
    before = [(block, vars(block).get("forward")) for block in _blocks(model_view)]

    def put_back() -> None:
        for block, forward in before:
            if forward is None:
                vars(block).pop("forward", None)
            else:
                block.forward = forward

    with Undo() as undo:
        undo.add(put_back)
        for block, _ in before:
            block.forward = partial(_run, block.forward)
        yield


def recomputes(model_view: ModelView) -> bool:
    """Whether gradient checkpointing is open for a model."""
    return any(
        getattr(vars(block).get("forward"), "func", None) is _run for block in _blocks(model_view)
    )


def _blocks(model_view: ModelView) -> list[nn.Module]:
    """The modules that compute the blocks; a bridge's own blocks hand their attributes on."""
    return [getattr(block, "original_component", block) for block in model_view.model.blocks]


def _run(forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    # Hooks ask what runs, which is over when backward() computes the block again.
    forward = partial(copy_context().run, forward)
    # The model runs in evaluation mode, so there is no random state to bring back.
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
