"""What LoRA adapters changed."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from tl_taskneurons.models.view import ModelView
from tl_taskneurons.neurons.sets import header_of
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.options import plain
from tl_taskneurons.runtime.tensor_files import load_tensors, save_tensors
from tl_taskneurons.training.deltas.base import Delta, Weights
from tl_taskneurons.training.slices import SliceName


@dataclass(frozen=True, eq=False, repr=False)
class LoraDelta(Delta):
    """Trained low-rank changes of matrices: ``W + scaling * down @ up``.

    Attributes:
        fingerprint: the base model.
        factors: ``down`` and ``up`` by ``"{layer}/{part}"``, float32: for W_in and W_gate
            ``[d_model, rank]`` and ``[rank, d_mlp]``, for W_out ``[d_mlp, rank]`` and
            ``[rank, d_model]``; for a bridge's attention, ``attn.q`` and so on, likewise.
        scaling: the factor before the product (alpha / rank).
        name: for tables and messages.
        info: how it was made.
        history: one row per update (see ``training.loop.fit``); not saved.
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

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the delta to a safetensors file, atomically."""
        tensors = {f"down/{name}": down for name, (down, _) in self.factors.items()}
        tensors |= {f"up/{name}": up for name, (_, up) in self.factors.items()}
        header = {**header_of(self), "scaling": plain(self.scaling)}
        save_tensors(path, "LoraDelta", tensors, header)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "LoraDelta":
        """Read a delta that ``save`` wrote; see ``Delta.load``."""
        needs = ("fingerprint", "name", "info", "scaling")
        tensors, header = load_tensors(path, "LoraDelta", needs)
        names = sorted(name.partition("/")[2] for name in tensors if name.startswith("down/"))
        if {*tensors} != {f"{side}/{name}" for name in names for side in ("down", "up")}:
            raise InputError(f"{path} is damaged: its factors don't come in pairs; save it again.")
        factors = {name: (tensors[f"down/{name}"], tensors[f"up/{name}"]) for name in names}
        return LoraDelta(
            header["fingerprint"], factors, header["scaling"], header["name"], header["info"]
        )

    def _read(self, model_view: ModelView) -> Weights:
        parts = matrices(model_view)
        return {name: parts[name].clone() for name in self.factors}

    def _write(self, model_view: ModelView, values: Iterable[tuple[str, Tensor]]) -> None:
        parts = matrices(model_view)
        for name, value in values:
            parts[name].copy_(value)

    @torch.no_grad()
    def _trained(self, before: Weights) -> Iterator[tuple[str, Tensor]]:
        for name, (down, up) in self.factors.items():
            weight = before[name]
            change = self.scaling * (down.to(weight.device) @ up.to(weight.device))
            yield name, (weight + change).to(weight.dtype)  # summed in the wider of the two

    def _require_shape(self, model_view: ModelView) -> None:
        parts = matrices(model_view)
        for name, (down, up) in self.factors.items():
            wanted = (down.shape[0], up.shape[1])
            found = tuple(parts[name].shape) if name in parts else None
            if found != wanted or down.shape[1] != up.shape[0]:
                has = "no such matrix" if found is None else f"it as {found}"
                raise InputError(
                    f"{self!r} changes {name} by {tuple(down.shape)} times {tuple(up.shape)}, and "
                    f"{model_view.name} has {has}."
                )


def matrices(model_view: ModelView) -> dict[str, Tensor]:
    """Return views ``[d_in, d_out]`` of the matrices that adapters can change.

    They are those of the MLPs by ``"{layer}/{part}"``, and a bridge's ``attention_linears``.
    """
    found = {
        str(SliceName(layer.index, name)): part.oriented
        for layer in model_view.layers
        for name, part in layer.parameters.items()
        if name.startswith("W_")
    }
    for name, linear in attention_linears(model_view).items():
        weight: Any = linear.weight
        found[name] = weight.detach() if is_conv1d(linear) else weight.detach().mT
    return found


def attention_linears(model_view: ModelView) -> dict[str, nn.Module]:
    """Return the modules that hold a bridge's attention matrices, by ``"{layer}/attn.{role}"``.

    Fused queries, keys and values are split by TransformerLens; the parts are what runs. There are
    none in a HookedTransformer, whose matrices are no modules.
    """
    if not model_view.is_bridge:
        return {}
    found = {}
    for layer in model_view.layers:
        attention = getattr(model_view.model.blocks[layer.index], "attn", None)
        for role in ("q", "k", "v", "o"):
            linear = getattr(getattr(attention, role, None), "original_component", None)
            if linear is not None:
                found[f"{layer.index}/attn.{role}"] = linear
    return found


def is_conv1d(linear: nn.Module) -> bool:
    """Whether a module is of GPT-2's kind, whose weights are ``[d_in, d_out]``."""
    return type(linear).__name__ == "Conv1D"
