"""Output rows of neurons that are scaled for a while, and put back in whatever order that ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from tl_taskneurons.models.forward import changed_weights
from tl_taskneurons.models.view import ModelView, pinned_fingerprint
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.cleanup import Undo


class _Rows:
    """The output rows of neurons, and what they were before they were scaled."""

    def __init__(self, model_view: ModelView, neurons: NeuronSet, factor: float) -> None:
        self._factor = factor
        # ``oriented`` is detached, so writing to it needs no no_grad and the caller's mode stays.
        self._places: list[tuple[Tensor, Tensor]] = []
        for layer, index in neurons.layers().items():
            rows = model_view.layers[layer].parameters["W_out"].oriented
            self._places.append((rows, index.to(rows.device)))
        self._save()

    def _save(self) -> None:
        self._before = [rows.index_select(0, index) for rows, index in self._places]

    def change(self) -> None:
        self._save()
        for (rows, index), before in zip(self._places, self._before, strict=True):
            zero = self._factor == 0.0
            rows.index_copy_(0, index, torch.zeros_like(before) if zero else before * self._factor)

    def put_back(self) -> None:
        for (rows, index), before in zip(self._places, self._before, strict=True):
            rows.index_copy_(0, index, before)


# What is scaled in each model, in the order in which it was.
_scaled: WeakKeyDictionary[Any, list[_Rows]] = WeakKeyDictionary()


@contextmanager
def scaled_rows(model_view: ModelView, neurons: NeuronSet, factor: float) -> Iterator[None]:
    """Scale the output rows of neurons and put the saved rows back afterwards.

    Args:
        model_view: the model.
        neurons: which neurons.
        factor: 0 silences also what is infinite.
    """
    with pinned_fingerprint(model_view), changed_weights():
        own = _Rows(model_view, neurons, factor)
        every = _scaled.setdefault(model_view.model, [])
        with Undo() as undo:
            undo.add(_end, every, own)
            every.append(own)
            own.change()
            yield


def _end(every: list[_Rows], own: _Rows) -> None:
    """Put rows back; what was scaled after them, and goes on, is scaled again without them."""
    if own not in every:
        return
    later = every[every.index(own) + 1 :]
    for each in reversed(later):
        each.put_back()
    own.put_back()
    for each in later:
        each.change()
    every.remove(own)
