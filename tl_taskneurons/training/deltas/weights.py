"""What full fine-tuning changed."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from tl_taskneurons.models.view import ModelView
from tl_taskneurons.neurons.sets import header_of
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.tensor_files import load_tensors, save_tensors
from tl_taskneurons.training.deltas.base import Delta, Weights


@dataclass(frozen=True, eq=False, repr=False)
class WeightDelta(Delta):
    """A whole model's trained weights.

    Attributes:
        fingerprint: the base model.
        trained: weights after training by parameter name, in float32; those that training didn't
            reach are left out. The names are those of the class of the model that was trained.
        name: for tables and messages.
        info: how it was made.
        history: one row per update (see ``training.loop.fit``); not saved.
    """

    fingerprint: str
    trained: Mapping[str, Tensor]
    name: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    history: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def n_parameters(self) -> int:
        """Number of trained weights; an unembedding that copies the embedding counts once."""
        count = sum(value.numel() for value in self.trained.values())
        embed, unembed = self.trained.get("embed.W_E"), self.trained.get("unembed.W_U")
        if embed is not None and unembed is not None and torch.equal(embed, unembed.mT):
            count -= unembed.numel()
        return count

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the delta to a safetensors file, atomically."""
        save_tensors(path, "WeightDelta", self.trained, header_of(self))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "WeightDelta":
        """Read a delta that ``save`` wrote; see ``Delta.load``."""
        tensors, header = load_tensors(path, "WeightDelta", ("fingerprint", "name", "info"))
        return WeightDelta(header["fingerprint"], tensors, header["name"], header["info"])

    def _read(self, model_view: ModelView) -> Weights:
        named = dict(model_view.model.named_parameters())
        return {name: named[name].detach().clone() for name in self.trained}

    @torch.no_grad()
    def _write(self, model_view: ModelView, values: Iterable[tuple[str, Tensor]]) -> None:
        named = dict(model_view.model.named_parameters())
        for name, value in values:
            named[name].copy_(value)

    def _trained(self, before: Weights) -> Iterator[tuple[str, Tensor]]:  # noqa: ARG002 (protocol)
        yield from self.trained.items()

    def _require_shape(self, model_view: ModelView) -> None:
        named = dict(model_view.model.named_parameters())
        for name, value in self.trained.items():
            found = tuple(named[name].shape) if name in named else None
            if found != tuple(value.shape):
                kind = "TransformerBridge" if model_view.is_bridge else "HookedTransformer"
                has = "no such weight" if found is None else f"it as {found}"
                raise InputError(
                    f"{self!r} has {name} {tuple(value.shape)}, and {model_view.name} as a {kind} "
                    f"has {has}. Use the class of model that it was trained in."
                )
