"""What training changed, as an object: apply it, undo it, scale, add, save and merge it."""

import copy
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from tl_taskneurons.loading.huggingface import find_source, read_source
from tl_taskneurons.loading.models import load_model
from tl_taskneurons.models.identity import same_model
from tl_taskneurons.models.layers import NeuronParameter
from tl_taskneurons.models.view import ModelView, require_same_model, view
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.tensor_files import load_tensors, save_tensors
from tl_taskneurons.training.slices import read_slices, write_slices

_HEADER = ("fingerprint", "name", "info")


@dataclass(frozen=True, eq=False)
class NeuronDelta:
    """The trained weights of some neurons, beside those they started from.

    A small file in place of a model: its size is in proportion to the neurons. With both sides at
    hand, applying gives exactly the trained weights and undoing exactly the old bytes.

    Attributes:
        neurons: which neurons, and the fingerprint of the base model.
        base: their weights before, in the base model's dtype: ``"{layer}/W_in"`` and
            ``"{layer}/W_gate"`` ``[d_model, n]``, ``"{layer}/W_out"`` ``[n, d_model]``, biases
            ``[n]``.
        trained: their weights after, by the same names, in float32.
        name: for tables and messages.
        info: how it was made; plain JSON values.
        history: one row per update (see ``training_loop.fit``); not saved.
    """

    neurons: NeuronSet
    base: Mapping[str, Tensor]
    trained: Mapping[str, Tensor]
    name: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    history: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the base model."""
        return self.neurons.fingerprint

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

    def __repr__(self) -> str:
        return (
            f"NeuronDelta({self.name!r}, {len(self.neurons)} neurons, {self.n_parameters} weights, "
            f"model {self.fingerprint})"
        )

    def change(self) -> dict[str, Tensor]:
        """Return trained minus base, in float32."""
        return {name: self.trained[name] - base.float() for name, base in self.base.items()}

    @contextmanager
    def applied(self, model: Any) -> Iterator[None]:
        """Give a model the trained weights for a while; the old bytes are put back at the end.

        Args:
            model: the base model, as HookedTransformer or TransformerBridge.

        Raises:
            ValueError: for another model; both fingerprints are named.
        """
        model_view = view(model)
        self._require_base(model_view)
        before = read_slices(model_view, self.neurons)
        write_slices(model_view, self.neurons, self.trained)
        try:
            yield
        finally:
            write_slices(model_view, self.neurons, before)

    def apply(self, model: Any) -> None:
        """Give a model the trained weights for good (until ``undo``).

        Raises:
            ValueError: for another model (both fingerprints are named), or for the base model in
                another precision, where ``undo`` could not bring back the same bytes.
        """
        model_view = view(model)
        self._require_base(model_view)
        for name, value in read_slices(model_view, self.neurons).items():
            if not torch.equal(value, self.base[name].to(value)):
                raise InputError(
                    f"{self!r} was trained in {self.dtype}, and {model_view.name} in "
                    f"{model_view.dtype} differs from that in the last digits, so undo could not "
                    f"bring back the same bytes. Load the model in {self.dtype}, or use "
                    "applied(model)."
                )
        write_slices(model_view, self.neurons, self.trained)

    def undo(self, model: Any) -> None:
        """Put back the weights that ``apply`` replaced, bit by bit.

        Raises:
            ValueError: when the model doesn't hold this delta's trained weights.
        """
        model_view = view(model)
        if model_view.shape != tuple(self.neurons.mask.shape):
            raise InputError(
                f"{self!r} is for {tuple(self.neurons.mask.shape)} layers and neurons, "
                f"{model_view.name} has {model_view.shape}."
            )
        found = read_slices(model_view, self.neurons)
        for name, value in found.items():
            if not torch.equal(value, self.trained[name].to(value)):
                layer, part = name.split("/")
                raise InputError(
                    f"{model_view.name} doesn't hold the trained weights of {self!r}: {part} of "
                    f"layer {layer} differs. Undo what was applied last first."
                )
        write_slices(model_view, self.neurons, self.base)

    def scaled(self, factor: float) -> "NeuronDelta":
        """Return the delta with its change multiplied: 0 is the base, 1 this delta, -1 its reverse.

        Raises:
            ValueError: for a factor that is not finite.
        """
        if not torch.tensor(factor).isfinite():
            raise InputError(f"factor is {factor}; it must be a finite number.")
        trained = {
            name: self.base[name].float() + factor * change
            for name, change in self.change().items()
        }
        info = {**self.info, "scaled": factor}
        return replace(self, trained=trained, name=f"{factor:g} * {self.name}", info=info)

    def __mul__(self, factor: float) -> "NeuronDelta":
        return self.scaled(factor)

    __rmul__ = __mul__

    def __add__(self, other: "NeuronDelta") -> "NeuronDelta":
        """Add two changes of one base model; on shared neurons they add up.

        Raises:
            ValueError: for deltas of different models, or of one model in two precisions.
        """
        if not isinstance(other, NeuronDelta):
            return NotImplemented
        if self.dtype != other.dtype:
            raise InputError(
                f"{self!r} was trained in {self.dtype}, {other!r} in {other.dtype}; add deltas "
                "that were trained in one precision."
            )
        neurons = self.neurons | other.neurons
        base: dict[str, Tensor] = {}
        for name in sorted({*self.base, *other.base}):
            base[name] = _spread(name, neurons, (self, self.base), (other, other.base))
        trained = {name: value.float() for name, value in base.items()}
        for delta in (self, other):
            for name, change in delta.change().items():
                axis, at = places(name, delta.neurons, neurons)
                trained[name] = trained[name].index_add(axis, at, change)
        return NeuronDelta(
            neurons, base, trained, f"{self.name} + {other.name}",
            {"sum": [dict(self.info), dict(other.info)]},
        )  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the delta to a safetensors file, atomically."""
        tensors = {"mask": self.neurons.mask.to(torch.uint8)}
        tensors |= {f"base/{name}": value for name, value in self.base.items()}
        tensors |= {f"trained/{name}": value for name, value in self.trained.items()}
        header = {
            "fingerprint": self.fingerprint, "name": self.name, "info": dict(self.info),
            "set": {"name": self.neurons.name, "info": dict(self.neurons.info)},
        }  # fmt: skip
        save_tensors(path, "NeuronDelta", tensors, header)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "NeuronDelta":
        """Read a delta that ``save`` wrote.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: for a damaged file, or one that holds something else.
        """
        tensors, header = load_tensors(path, "NeuronDelta", (*_HEADER, "set"))
        neurons = NeuronSet(
            tensors["mask"].bool(), header["fingerprint"], header["set"]["name"],
            header["set"]["info"],
        )  # fmt: skip
        base, trained = (
            {
                name.removeprefix(prefix): value
                for name, value in tensors.items()
                if name.startswith(prefix)
            }
            for prefix in ("base/", "trained/")
        )
        return NeuronDelta(neurons, base, trained, header["name"], header["info"])

    def merge(self, source: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
        """Write the trained model as a Hugging Face folder, which ``transformers`` loads.

        Args:
            source: the base model, as ``load_model`` takes it (a name, a folder, a hub id).
            out: the new folder; it must not exist, or be empty.

        Returns:
            The folder. It appears only when it is complete.

        Raises:
            FileExistsError: when ``out`` holds something.
            ValueError: for another base model; both fingerprints are named.
        """
        out = Path(out)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise FileExistsError(f"{out} exists; give a new folder for the merged model.")
        _, hf, tokenizer = read_source(find_source(source), self.dtype, with_tokenizer=True)
        plain = copy.deepcopy(hf)  # the bridge takes the other one apart
        state = hf.state_dict()  # the same storage, so what is written to the bridge shows here
        self.apply(load_model(hf, tokenizer=tokenizer, dtype=self.dtype, device="cpu"))
        plain.load_state_dict(state)
        plain.config.dtype = self.dtype
        part = out.with_name(f".{out.name}.part")
        shutil.rmtree(part, ignore_errors=True)  # of a merge that was killed
        try:
            plain.save_pretrained(part)
            if tokenizer is not None:
                tokenizer.save_pretrained(part)
            if out.exists():
                out.rmdir()
            part.replace(out)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return out

    def _require_base(self, model_view: ModelView) -> None:
        if not same_model(self.fingerprint, model_view.fingerprint):
            raise InputError(
                f"{self!r} was trained on the base model {self.fingerprint}, but "
                f"{model_view.name} is {model_view.fingerprint}. Apply it to its own base model; "
                "if another delta is applied, undo that first, or add the two."
            )


def places(name: str, own: NeuronSet, union: NeuronSet) -> tuple[int, Tensor]:
    """Return the axis of neurons in a slice, and where a set's neurons lie among a union's."""
    layer, part = name.split("/")
    members = union.mask[int(layer)].nonzero().flatten()
    mine = own.mask[int(layer)].nonzero().flatten()
    return (1 if part in ("W_in", "W_gate") else 0), torch.searchsorted(members, mine)


def _spread(
    name: str, union: NeuronSet, *sides: tuple[NeuronDelta, Mapping[str, Tensor]]
) -> Tensor:
    """Put the slices of two sets together as the slice of their union."""
    layer = int(name.split("/")[0])
    result: Tensor | None = None
    for delta, slices in sides:
        if name not in slices:
            continue
        value = slices[name]
        axis, at = places(name, delta.neurons, union)
        if result is None:
            shape = list(value.shape)
            shape[axis] = int(union.mask[layer].sum())
            result = torch.zeros(shape, dtype=value.dtype, device=value.device)
        result = result.index_copy(axis, at.to(value.device), value.to(result.device))
    assert result is not None
    return result


@dataclass(frozen=True, eq=False)
class WeightDelta:
    """A whole model's trained weights.

    Attributes:
        fingerprint: the base model.
        trained: weights after training by parameter name, in float32; those that training didn't
            reach are left out.
        name: for tables and messages.
        info: how it was made.
        history: one row per update (see ``training_loop.fit``).
    """

    fingerprint: str
    trained: Mapping[str, Tensor]
    name: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    history: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def n_parameters(self) -> int:
        """Number of trained weights."""
        return sum(value.numel() for value in self.trained.values())

    @contextmanager
    def applied(self, model: Any) -> Iterator[None]:
        """Give a model the trained weights for a while; the old bytes are put back at the end.

        Raises:
            ValueError: for another model; both fingerprints are named.
        """
        model_view = view(model)
        require_same_model(f"WeightDelta {self.name!r}", self.fingerprint, model_view)
        named = dict(model_view.model.named_parameters())
        with _restored([named[name] for name in self.trained]), torch.no_grad():
            for name, value in self.trained.items():
                named[name].copy_(value)
            yield


@dataclass(frozen=True, eq=False)
class LoraDelta:
    """Trained low-rank changes of the MLPs' matrices: ``W + scaling * down @ up``.

    Attributes:
        fingerprint: the base model.
        factors: ``down`` and ``up`` by ``"{layer}/{part}"``, float32: for W_in and W_gate
            ``[d_model, rank]`` and ``[rank, d_mlp]``, for W_out ``[d_mlp, rank]`` and
            ``[rank, d_model]``.
        scaling: the factor before the product (alpha / rank).
        name: for tables and messages.
        info: how it was made.
        history: one row per update (see ``training_loop.fit``).
    """

    fingerprint: str
    factors: Mapping[str, tuple[Tensor, Tensor]]
    scaling: float
    name: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    history: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def n_parameters(self) -> int:
        """Number of trained weights."""
        return sum(down.numel() + up.numel() for down, up in self.factors.values())

    @contextmanager
    def applied(self, model: Any) -> Iterator[None]:
        """Add the changes to a model's weights for a while; the old bytes come back at the end.

        Raises:
            ValueError: for another model; both fingerprints are named.
        """
        model_view = view(model)
        require_same_model(f"LoraDelta {self.name!r}", self.fingerprint, model_view)
        parts = _matrices(model_view)
        with _restored([parts[name].parameter for name in self.factors]), torch.no_grad():
            self.add_to(model_view)
            yield

    @torch.no_grad()
    def add_to(self, model_view: ModelView) -> None:
        """Add the changes to a model's weights for good, whatever its weights are now."""
        parts = _matrices(model_view)
        for name, (down, up) in self.factors.items():
            weight = parts[name].oriented
            change = self.scaling * (down.to(weight.device) @ up.to(weight.device))
            weight.add_(change.to(weight.dtype))


def _matrices(model_view: ModelView) -> dict[str, NeuronParameter]:
    """The MLPs' matrices by ``"{layer}/{part}"``."""
    return {
        f"{layer.index}/{name}": part
        for layer in model_view.layers
        for name, part in layer.parameters.items()
        if name.startswith("W_")
    }


@contextmanager
def _restored(weights: list[nn.Parameter]) -> Iterator[list[Tensor]]:
    """Put weights back at the end, bit by bit; gives copies of them."""
    before = [weight.detach().clone() for weight in weights]
    try:
        yield before
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, before, strict=True):
                weight.copy_(value)
