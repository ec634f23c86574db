"""The weights of a set of neurons, cut out of a model's MLPs."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from tl_taskneurons.models.layers import neuron_axis
from tl_taskneurons.models.view import ModelView
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.errors import InputError


class SliceName(NamedTuple):
    """Which part of which layer's neurons; written ``"3/W_in"``.

    Attributes:
        layer: the layer's number.
        part: ``W_in``, ``W_gate``, ``W_out``, ``b_in`` or ``b_gate``.
    """

    layer: int
    part: str

    def __str__(self) -> str:
        """The name as files and mappings have it."""
        return f"{self.layer}/{self.part}"

    @staticmethod
    def parse(text: str) -> "SliceName":
        """Take a name apart.

        Raises:
            ValueError: for a text that is no such name.
        """
        layer, slash, part = text.partition("/")
        if not (slash and layer.isdecimal() and part):
            raise InputError(f"{text!r} names no part of a layer's neurons; '3/W_in' does.")
        return SliceName(int(layer), part)

    @property
    def axis(self) -> int:
        """The axis that runs over the neurons."""
        return neuron_axis(self.part)


@dataclass(frozen=True, eq=False)
class Slices(Mapping[str, Tensor]):
    """The weights of a set of neurons, by ``"{layer}/{part}"``.

    ``W_in`` and ``W_gate`` are ``[d_model, n]``, ``W_out`` is ``[n, d_model]``, biases ``[n]``,
    where n is the set's size in the layer; only the parts that the model has.

    Attributes:
        neurons: whose weights they are.
        tensors: the same by name.
    """

    neurons: NeuronSet
    tensors: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Slices":
        """Return slices of the same neurons with a function of every tensor."""
        return Slices(self.neurons, {name: function(value) for name, value in self.items()})

    def places(self, name: str, subset: NeuronSet) -> tuple[int, Int[Tensor, " n"]]:
        """Return a slice's axis of neurons, and where a subset's neurons lie along it."""
        layer = SliceName.parse(name).layer
        members = self.neurons.mask[layer].nonzero().flatten()
        chosen = subset.mask[layer].nonzero().flatten()
        at = torch.searchsorted(members, chosen)
        return SliceName.parse(name).axis, at.to(self[name].device)

    def of(self, subset: NeuronSet, names: Iterable[str]) -> "Slices":
        """Return the weights of a subset of the neurons."""
        return Slices(
            subset, {name: self[name].index_select(*self.places(name, subset)) for name in names}
        )

    def add_(self, other: "Slices", factor: float = 1.0) -> None:
        """Add a factor times the weights of a subset of these neurons, in place."""
        for name, value in other.items():
            mine = self[name]
            mine.index_add_(*self.places(name, other.neurons), (factor * value).to(mine.device))

    @staticmethod
    def union(first: "Slices", second: "Slices") -> "Slices":
        """Put the weights of two sets together; where both have a neuron, the second's count."""
        both = first.neurons | second.neurons
        values: dict[str, Tensor] = {}
        for name in sorted({*first, *second}):
            key = SliceName.parse(name)
            like = first[name] if name in first else second[name]
            shape = list(like.shape)
            shape[key.axis] = int(both.mask[key.layer].sum())
            values[name] = like.new_zeros(shape)
        result = Slices(both, values)
        for part in (first, second):
            for name, value in part.items():
                target = values[name]
                target.index_copy_(*result.places(name, part.neurons), value.to(target.device))
        return result


def read_slices(model_view: ModelView, neurons: NeuronSet) -> Slices:
    """Copy the weights of a set of neurons, in the model's dtype."""
    return Slices(
        neurons,
        {
            str(SliceName(layer, part)): value
            for layer, index in neurons.layers().items()
            for part, value in model_view.read(layer, index).items()
        },
    )


def write_slices(model_view: ModelView, neurons: NeuronSet, values: Mapping[str, Tensor]) -> None:
    """Overwrite the weights of a set of neurons with what ``read_slices`` returns."""
    chosen = neurons.layers()
    for name, value in values.items():
        layer, part = SliceName.parse(name)
        model_view.write(layer, chosen[layer], {part: value})
