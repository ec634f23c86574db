"""What training chosen neurons changed."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import ModelView, view
from tl_taskneurons.neurons.sets import NeuronSet, header_of
from tl_taskneurons.runtime.errors import InputError, InputTypeError
from tl_taskneurons.runtime.options import plain, require_kind, require_number
from tl_taskneurons.runtime.tensor_files import load_tensors, save_tensors
from tl_taskneurons.training.deltas.base import Delta, Weights
from tl_taskneurons.training.deltas.exchange import sides_of, write_peft
from tl_taskneurons.training.slices import SliceName, Slices, read_slices, write_slices

_HEADER = ("fingerprint", "name", "info", "set")


@dataclass(frozen=True, eq=False, repr=False)
class NeuronDelta(Delta):
    """The trained weights of some neurons, beside those they started from.

    A small file in place of a model: its size is in proportion to the neurons. With both sides at
    hand, applying gives exactly the trained weights and undoing exactly the old bytes.

    Attributes:
        neurons: which neurons, and the fingerprint of the base model.
        base: their weights before, in the base model's dtype; see ``Slices``.
        trained: their weights after, by the same names, in float32.
        name: for tables and messages.
        info: how it was made; plain JSON values.
        history: one row per update (see ``training.loop.fit``); not saved.
        fingerprint: the fingerprint of the base model.
    """

    neurons: NeuronSet
    base: Slices
    trained: Slices
    name: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fingerprint", self.neurons.fingerprint)
        for side in ("base", "trained"):  # plain mappings will do
            object.__setattr__(self, side, Slices(self.neurons, dict(getattr(self, side))))

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the base model's weights."""
        return next(iter(self.base.values())).dtype

    @property
    def n_parameters(self) -> int:
        """Number of trained weights."""
        return sum(value.numel() for value in self.trained.values())

    @property
    def norm(self) -> float:
        """Euclidean norm of the change of all weights together."""
        squares = [change.square().sum() for change in self.change().values()]
        return float(torch.stack(squares).sum().sqrt())

    def change(self) -> Slices:
        """Return trained minus base, in float32."""
        return Slices(
            self.neurons,
            {name: self.trained[name] - base.float() for name, base in self.base.items()},
        )

    def scaled(self, factor: float) -> "NeuronDelta":
        """Return the delta with its change multiplied: 0 is the base, 1 this delta, -1 its reverse.

        Raises:
            TypeError: for what is no number.
            ValueError: for a factor that is not finite.
        """
        require_number("factor", factor, optional=False)
        if not math.isfinite(factor):
            raise InputError(f"factor is {factor}; it must be a finite number.")
        trained = self.base.map(lambda value: value.float().clone())
        trained.add_(self.change(), factor)
        info = {**self.info, "scaled": factor}
        return replace(self, trained=trained, name=f"{factor:g} * {self.name}", info=info)

    def __mul__(self, factor: float) -> "NeuronDelta":
        return self.scaled(factor)

    __rmul__ = __mul__

    def __add__(self, other: "NeuronDelta") -> "NeuronDelta":
        """Add two changes of one base model; on shared neurons they add up.

        Raises:
            TypeError: for anything but a NeuronDelta.
            ValueError: for deltas of different models, or of one model in two precisions.
        """
        if not isinstance(other, NeuronDelta):
            raise InputTypeError(
                f"A NeuronDelta can't be added to {other!r} ({type(other).__name__}); give another "
                "NeuronDelta, or delta.scaled(factor) for a multiple."
            )
        if self.dtype != other.dtype:
            raise InputError(
                f"{self!r} was trained in {self.dtype}, {other!r} in {other.dtype}; add deltas "
                "that were trained in one precision."
            )
        base = Slices.union(self.base, other.base)
        trained = base.map(lambda value: value.float().clone())
        for delta in (self, other):
            trained.add_(delta.change())
        info = {"sum": [dict(self.info), dict(other.info)]}
        return NeuronDelta(base.neurons, base, trained, f"{self.name} + {other.name}", info)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the delta to a safetensors file, atomically."""
        tensors = {"mask": self.neurons.mask.to(torch.uint8)}
        tensors |= {f"base/{name}": value for name, value in self.base.items()}
        tensors |= {f"trained/{name}": value for name, value in self.trained.items()}
        of = {"name": self.neurons.name, "info": plain(dict(self.neurons.info))}
        header = {**header_of(self), "set": of}
        save_tensors(path, "NeuronDelta", tensors, header)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "NeuronDelta":
        """Read a delta that ``save`` wrote.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: for a damaged file, one that holds something else, or one whose slices
                don't fit its neurons.
        """
        tensors, header = load_tensors(path, "NeuronDelta", _HEADER)
        sides: dict[str, dict[str, Tensor]] = {"base": {}, "trained": {}}
        mask = tensors.pop("mask", torch.zeros(0, 0, dtype=torch.float32, device="cpu"))
        for name, value in tensors.items():
            side, _, rest = name.partition("/")
            if side not in sides:
                raise InputError(f"{path} is damaged: it has a tensor {name!r}; save it again.")
            sides[side][rest] = value
        if mask.ndim != 2 or not mask.any():
            raise InputError(f"{path} is damaged: it has no mask of neurons; save it again.")
        of = header["set"]
        neurons = NeuronSet(mask.bool(), header["fingerprint"], of["name"], of["info"])
        base, trained = (Slices(neurons, values) for values in sides.values())
        delta = NeuronDelta(neurons, base, trained, header["name"], header["info"])
        delta._require_fit(str(path))
        return delta

    @staticmethod
    def between(base: Any, tuned: Any, *, partial: bool = False) -> "NeuronDelta":
        """Return what two checkpoints of one model differ in, as a delta of the neurons that do.

        Args:
            base: the model before, as HookedTransformer or TransformerBridge.
            tuned: the model after.
            partial: take the neurons' part where other weights differ too.

        Raises:
            ValueError: for models of other shapes, without a neuron that differs, or that differ
                in more than their neurons.
        """
        before, after = view(base), view(tuned)
        old, new = sides_of(before, after, partial=partial)
        info = {"between": [before.name, after.name], "partial": partial}
        return NeuronDelta(old.neurons, old, new, after.name, info)

    def to_peft(self, folder: str | os.PathLike[str], model: LanguageModel) -> Path:
        """Write the delta as a LoRA adapter, which ``peft.PeftModel.from_pretrained`` loads.

        A change of neurons is exactly a LoRA whose rank is their number in the layer, with a
        one-hot factor; changed biases become those of the adapter (``lora_bias``).

        Args:
            folder: a new folder; it must not exist, or be empty.
            model: the base model as TransformerBridge, which knows Hugging Face's names.

        Returns:
            The folder. It appears only when it is complete.

        Raises:
            FileExistsError: when ``folder`` holds something.
            ImportError: without ``peft``.
            TypeError: for a HookedTransformer.
            ValueError: for another model, or one whose gate and up matrices are fused.
        """
        require_kind("folder", folder, str | os.PathLike, "give a new folder for the adapter")
        model_view = view(model)
        self._require_base(model_view)
        return write_peft(self.change(), model_view, folder)

    def _what(self) -> str:
        return f"{len(self.neurons)} neurons, "

    def _read(self, model_view: ModelView) -> Weights:
        return read_slices(model_view, self.neurons)

    def _write(self, model_view: ModelView, values: Iterable[tuple[str, Tensor]]) -> None:
        write_slices(model_view, self.neurons, dict(values))

    def _trained(self, before: Weights) -> Iterator[tuple[str, Tensor]]:  # noqa: ARG002 (protocol)
        yield from self.trained.items()

    def _keep_base(self, model_view: ModelView, before: Weights) -> None:
        for name, value in before.items():
            if not torch.equal(value, self.base[name].to(value)):
                raise InputError(
                    f"{self!r} was trained in {self.dtype}, and {model_view.name} in "
                    f"{model_view.dtype} differs from that in the last digits, so undo could not "
                    f"bring back the same bytes. Load the model in {self.dtype}, or use "
                    "applied(model)."
                )

    def _base(self, model_view: ModelView) -> Weights:  # noqa: ARG002 (protocol)
        return self.base

    def _spell(self, name: str) -> str:
        layer, part = SliceName.parse(name)
        return f"{part} of layer {layer}"

    def _require_shape(self, model_view: ModelView) -> None:
        """Refuse another shape of model, and slices that are not those of the neurons."""
        if model_view.shape != tuple(self.neurons.mask.shape):
            raise InputError(
                f"{self!r} is for {tuple(self.neurons.mask.shape)} layers and neurons, "
                f"{model_view.name} has {model_view.shape}."
            )
        self._require_fit(repr(self))
        wanted = {
            str(SliceName(layer, part)): model_view.layers[layer].d_model
            for layer in self.neurons.layers()
            for part in model_view.layers[layer].parameters
        }
        _require_names(repr(self), self.base, wanted)
        for name, d_model in wanted.items():
            shape = self.base[name].shape
            if len(shape) == 2 and shape[1 - SliceName.parse(name).axis] != d_model:
                raise InputError(
                    f"{self!r} has {self._spell(name)} as {tuple(shape)}, but {model_view.name} "
                    f"is {d_model} wide."
                )

    def _require_fit(self, what: str) -> None:
        """Refuse slices that are not those of the neurons."""
        _require_names(what, self.trained, self.base)
        layers = {layer: len(index) for layer, index in self.neurons.layers().items()}
        for name, base in self.base.items():
            key, trained = SliceName.parse(name), self.trained[name]
            n = base.shape[key.axis] if base.ndim > key.axis else None
            if base.shape != trained.shape or n is None or layers.get(key.layer) != n:
                raise InputError(
                    f"{what} doesn't fit together: {self._spell(name)} is {tuple(base.shape)} "
                    f"before and {tuple(trained.shape)} after training, for "
                    f"{layers.get(key.layer, 0)} neurons. It is damaged or put together by hand."
                )
            if base.dtype != self.dtype or trained.dtype != torch.float32:
                raise InputError(
                    f"{what} doesn't fit together: {self._spell(name)} is {base.dtype} before and "
                    f"{trained.dtype} after training, not {self.dtype} and float32."
                )
        for layer in layers:
            missing = {f"{layer}/W_in", f"{layer}/W_out"} - {*self.base}
            if missing:
                raise InputError(f"{what} is damaged: it has no {', '.join(sorted(missing))}.")


def _require_names(what: str, found: Iterable[str], wanted: Iterable[str]) -> None:
    found, wanted = {*found}, {*wanted}
    if found != wanted:
        raise InputError(
            f"{what} doesn't fit: missing {', '.join(sorted(wanted - found)) or 'nothing'}, "
            f"without use {', '.join(sorted(found - wanted)) or 'nothing'}."
        )
