"""Sets of neurons: set algebra, random controls, files; and what scores and sets have in common."""

import hashlib
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from tl_taskneurons.models.identity import same_model
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import ModelView, view
from tl_taskneurons.runtime.errors import InputError, InputTypeError
from tl_taskneurons.runtime.options import plain, require_number, require_seed
from tl_taskneurons.runtime.tensor_files import load_tensor, save_tensor

HEADER = ("fingerprint", "name", "info")


@runtime_checkable
class OfModel(Protocol):
    """What belongs to one model: scores and sets."""

    @property
    def fingerprint(self) -> str:
        """The model it belongs to."""
        ...

    @property
    def name(self) -> str:
        """For tables and messages."""
        ...

    @property
    def info(self) -> Mapping[str, Any]:
        """How it was made; plain JSON values."""
        ...


@dataclass(frozen=True, eq=False)
class NeuronSet:
    """A set of neurons of one model.

    Supports ``|``, ``&``, ``-``, ``^`` and ``~``, ``len``, ``==``, ``(layer, j) in neurons``, and
    ``for layer, j in neurons``.

    Attributes:
        mask: True at the neurons of the set.
        fingerprint: the model they belong to (``ModelView.fingerprint``).
        name: for tables and messages.
        info: how the set was made (task, method, fraction, ...); plain JSON values.
    """

    mask: Bool[Tensor, "layer d_mlp"]
    fingerprint: str
    name: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        mask = self.mask
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.ndim != 2:
            found = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else repr(mask)
            raise InputTypeError(
                f"The mask of {self.name!r} is {found}; give a bool tensor [layer, d_mlp], or make "
                "the set with NeuronSet.from_pairs(model, [(layer, neuron), ...])."
            )

    @staticmethod
    def from_pairs(
        model: LanguageModel, pairs: Iterable[tuple[int, int]], name: str = ""
    ) -> "NeuronSet":
        """Make a set of ``(layer, j)`` pairs.

        Raises:
            ValueError: for a pair outside the model; the message names it.
            TypeError: for what is no pair of whole numbers.
        """
        model_view = view(model)
        mask = torch.zeros(model_view.shape, dtype=torch.bool, device="cpu")
        for layer, j in _pairs(pairs):
            if not (0 <= layer < model_view.n_layers and 0 <= j < model_view.d_mlp):
                raise InputError(
                    f"No neuron ({layer}, {j}) in {model_view.name}, which has "
                    f"{model_view.n_layers} layers of {model_view.d_mlp} neurons; count from 0."
                )
            mask[layer, j] = True
        return NeuronSet(mask, model_view.fingerprint, name)

    @property
    def per_layer(self) -> list[int]:
        """Number of neurons in each layer."""
        return self.mask.sum(1).tolist()

    @property
    def fraction(self) -> float:
        """Share of all neurons of the model, between 0 and 1."""
        return len(self) / self.mask.numel()

    def __len__(self) -> int:
        return int(self.mask.sum())

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(layer, j) for layer, j in self.mask.nonzero().tolist()])

    def __contains__(self, neuron: tuple[int, int]) -> bool:
        layer, j = neuron
        n_layers, d_mlp = self.mask.shape
        return 0 <= layer < n_layers and 0 <= j < d_mlp and bool(self.mask[layer, j])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NeuronSet):
            return NotImplemented
        return self.fingerprint == other.fingerprint and torch.equal(self.mask, other.mask)

    def __hash__(self) -> int:
        packed = self.mask.to(torch.uint8).numpy().tobytes()
        return hash((self.fingerprint, hashlib.sha256(packed).digest()))

    def __repr__(self) -> str:
        return (
            f"NeuronSet({self.name!r}, {len(self)} of {self.mask.numel()} neurons "
            f"({self.fraction:.2%}), model {self.fingerprint})"
        )

    def __or__(self, other: "NeuronSet") -> "NeuronSet":
        return self._combine(other, torch.logical_or, "|")

    def __and__(self, other: "NeuronSet") -> "NeuronSet":
        return self._combine(other, torch.logical_and, "&")

    def __sub__(self, other: "NeuronSet") -> "NeuronSet":
        # For truth values, greater means in this set and not in the other.
        return self._combine(other, torch.gt, "-")

    def __xor__(self, other: "NeuronSet") -> "NeuronSet":
        return self._combine(other, torch.logical_xor, "^")

    def __invert__(self) -> "NeuronSet":
        return NeuronSet(~self.mask, self.fingerprint, f"~{self.name}")

    def isdisjoint(self, other: "NeuronSet") -> bool:
        """Whether no neuron is in both sets."""
        return len(self & other) == 0

    def issubset(self, other: "NeuronSet") -> bool:
        """Whether every neuron is in the other set as well."""
        return len(self - other) == 0

    def rename(self, name: str) -> "NeuronSet":
        """Return the same set under another name."""
        return replace(self, name=name)

    def rebind(self, model: LanguageModel) -> "NeuronSet":
        """Return the same neurons for another model of the same shape, e.g. a fine-tuned one.

        Raises:
            ValueError: when the shapes differ.
        """
        return replace(self, fingerprint=rebound(self.mask, self.fingerprint, view(model)))

    def layers(self) -> dict[int, Tensor]:
        """Indices of the set's neurons in each layer that has any."""
        return {
            int(layer): self.mask[layer].nonzero().flatten()
            for layer in self.mask.any(1).nonzero().flatten()
        }

    def random_like(
        self,
        seed: int,
        *,
        match: Literal["layer", "total"] = "layer",
        exclude: "NeuronSet | None" = None,
    ) -> "NeuronSet":
        """Draw a random control of the same size.

        Args:
            seed: the draw; the same seed gives the same set.
            match: ``"layer"`` draws as many neurons in each layer as this set has there;
                ``"total"`` (the paper's control) draws as many over all layers together.
            exclude: neurons never drawn; by default none, so that chance may hit this set.

        Raises:
            ValueError: when too few neurons are left to draw from, or for an unknown ``match``.
        """
        seed = require_seed(seed)
        free = torch.ones_like(self.mask)
        if exclude is not None:
            _require_sets([exclude])
            require_same_origin(self, exclude)
            free = ~exclude.mask
        generator = torch.Generator().manual_seed(seed)
        # A random order of all neurons, drawn once: the first free ones of it are the control.
        order = torch.rand(self.mask.shape, generator=generator, dtype=torch.float64, device="cpu")
        order[~free] = 2.0
        mask = torch.zeros_like(self.mask)
        if match == "layer":
            for layer, count in enumerate(self.per_layer):
                _require_room(count, int(free[layer].sum()), f"layer {layer}")
                mask[layer, order[layer].argsort(stable=True)[:count]] = True
        elif match == "total":
            _require_room(len(self), int(free.sum()), "the model")
            mask.view(-1)[order.flatten().argsort(stable=True)[: len(self)]] = True
        else:
            raise InputError(f"match is {match!r}; use 'layer' or 'total'.")
        info = {"random_like": self.name, "seed": seed, "match": match}
        return NeuronSet(mask, self.fingerprint, f"random like {self.name} #{seed}", info)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per neuron: ``layer``, ``neuron``."""
        pairs = self.mask.nonzero()
        return pd.DataFrame({"layer": pairs[:, 0].tolist(), "neuron": pairs[:, 1].tolist()})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the set to a safetensors file, atomically."""
        save_tensor(path, "NeuronSet", self.mask.to(torch.uint8), header_of(self))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "NeuronSet":
        """Read a set that ``save`` wrote.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: for a damaged file, or one that holds something else.
        """
        mask, header = load_tensor(path, "NeuronSet", HEADER)
        if mask.ndim != 2 or mask.dtype != torch.uint8 or bool((mask > 1).any()):
            raise InputError(
                f"{path} is damaged: its mask is {mask.dtype} of shape {tuple(mask.shape)}, not "
                "zeros and ones (uint8) by layer and neuron; delete it and write it again."
            )
        return NeuronSet(mask.bool(), header["fingerprint"], header["name"], header["info"])

    def _combine(
        self, other: "NeuronSet", operation: Callable[[Tensor, Tensor], Tensor], sign: str
    ) -> "NeuronSet":
        if not isinstance(other, NeuronSet):
            raise InputTypeError(
                f"Expected a NeuronSet, got {type(other).__name__}; make one of (layer, neuron) "
                "pairs with NeuronSet.from_pairs(model, pairs)."
            )
        require_same_origin(self, other)
        mask = operation(self.mask, other.mask)
        return NeuronSet(mask, self.fingerprint, f"({self.name} {sign} {other.name})")


def exclusive(sets: Mapping[str, NeuronSet]) -> dict[str, NeuronSet]:
    """Take out of each set every neuron that any other set has too.

    Raises:
        ValueError: for fewer than two sets, or sets of different models.
    """
    _require_sets(sets.values() if isinstance(sets, Mapping) else [sets])
    if len(sets) < 2:
        raise InputError(f"exclusive needs at least two sets; got {list(sets)}.")
    result = {}
    for name, own in sets.items():
        for other_name, other in sets.items():
            if other_name != name:
                own = own - other
        result[name] = own.rename(sets[name].name)
    return result


def common(
    sets: Mapping[str, NeuronSet] | Sequence[NeuronSet], *, at_least: int | None = None
) -> NeuronSet:
    """Return the neurons that all sets share, or at least ``at_least`` of them.

    Raises:
        ValueError: without sets, sets of different models, or ``at_least`` out of range.
    """
    listed = isinstance(sets, Sequence) and not isinstance(sets, str)
    given: Any = sets.values() if isinstance(sets, Mapping) else sets if listed else [sets]
    members: list[NeuronSet] = list(given)
    _require_sets(members)
    require_number("at_least", at_least, whole=True)
    if not members:
        raise InputError("common needs at least one set.")
    need = len(members) if at_least is None else at_least
    if not 1 <= need <= len(members):
        raise InputError(f"at_least is {need}; there are {len(members)} sets.")
    for member in members[1:]:
        require_same_origin(members[0], member)
    mask = torch.stack([member.mask for member in members]).sum(0) >= need
    return NeuronSet(mask, members[0].fingerprint, f"common to {need} of {len(members)}")


def require_same_origin(first: OfModel, second: OfModel) -> None:
    """Raise ValueError when two scores or sets belong to different models."""
    if not same_model(first.fingerprint, second.fingerprint):
        raise InputError(
            f"{first!r} and {second!r} belong to different models, so their neurons don't "
            "correspond. Use one model, or .rebind(model) if only its weights changed."
        )


def header_of(item: OfModel) -> dict[str, Any]:
    """Return what a file keeps beside the tensor."""
    return {"fingerprint": item.fingerprint, "name": item.name, "info": plain(dict(item.info))}


def rebound(tensor: Tensor, fingerprint: str, model_view: ModelView) -> str:
    """Return the fingerprint for another model; raise ValueError where the shape differs."""
    if tuple(tensor.shape) != model_view.shape:
        raise InputError(
            f"Neurons of model {fingerprint} don't fit {model_view.name} "
            f"({model_view.fingerprint}): its shape is {model_view.shape}."
        )
    return model_view.fingerprint


def _require_sets(members: Iterable[Any]) -> None:
    for one in members:
        if not isinstance(one, NeuronSet):
            raise InputTypeError(
                f"Expected NeuronSets, got {str(one)[:60]!r} ({type(one).__name__}); give a dict "
                "of names to sets, e.g. from select(scores)."
            )


def _pairs(pairs: Any) -> Iterator[tuple[int, int]]:
    """Yield pairs of whole numbers; raise TypeError naming what is none."""
    if isinstance(pairs, str | bytes) or not isinstance(pairs, Iterable):
        raise InputTypeError(
            f"Expected a NeuronSet or (layer, neuron) pairs, got {str(pairs)[:60]!r} "
            f"({type(pairs).__name__}); give e.g. [(3, 10)] or scores.top(100)."
        )
    for pair in pairs:
        try:
            layer, j = map(operator.index, pair)
        except (TypeError, ValueError) as error:
            raise InputTypeError(
                f"{str(pair)[:60]!r} is no (layer, neuron) pair of whole numbers; give pairs, e.g. "
                "[(3, 10)]."
            ) from error
        yield layer, j


def _require_room(count: int, room: int, where: str) -> None:
    if count > room:
        raise InputError(
            f"Can't draw {count} random neurons in {where}: only {room} are not excluded."
        )
