"""Every weight of a model, as full fine-tuning trains it."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from tl_taskneurons.models.view import ModelView
from tl_taskneurons.runtime.cleanup import Undo
from tl_taskneurons.training.deltas import WeightDelta

_BIAS = re.compile(r"\._?b_")  # _b_K and _b_V where queries share keys
_EMBED, _UNEMBED = "embed.W_E", "unembed.W_U"


class AllWeights:
    """Every weight of a model, for ``training.runner.train``: float32 masters where it is smaller.

    What the Hugging Face model has is trained, and no more. TransformerLens adds biases of zeros
    where an architecture has none, and an unembedding of its own where the embedding is used twice;
    the former stay zero, the latter stays the embedding's transpose.

    Attributes:
        names: the parameters' names.
        parameters: the tensors that the optimiser updates: float32 parameters themselves, and
            float32 copies of others.
    """

    def __init__(self, model_view: ModelView) -> None:
        self._view = model_view
        named = dict(_of_architecture(model_view))
        self._embedding, self._mirror = _tied_apart(model_view)
        if self._mirror is not None:
            named = {name: weight for name, weight in named.items() if weight is not self._mirror}
        self.names = list(named)
        self._weights = list(named.values())
        self.parameters: list[Tensor] = [
            weight if weight.dtype == torch.float32 else weight.detach().float()
            for weight in self._weights
        ]
        self._before: list[Tensor] = []

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """While open, a backward pass leaves every weight's gradient in ``.grad``."""
        with Undo() as undo:
            undo.add(self._require_grad, False)
            self._require_grad(True)
            yield
            if self._mirror is not None and self._mirror.grad is not None:
                assert self._embedding is not None
                assert self._embedding.grad is not None
                self._embedding.grad += self._mirror.grad.mT
                self._mirror.grad = None
            for weight, master in zip(self._weights, self.parameters, strict=True):
                if master is not weight and weight.grad is not None:
                    gradient = weight.grad.float()
                    master.grad = gradient if master.grad is None else master.grad + gradient
                    weight.grad = None

    def _require_grad(self, flag: bool) -> None:
        for weight in self._changed():
            weight.requires_grad_(flag)

    @torch.no_grad()
    def write(self) -> None:
        """Copy the masters into the model, rounded to its dtype."""
        for weight, master in zip(self._weights, self.parameters, strict=True):
            if master is not weight:
                weight.copy_(master)
        if self._mirror is not None:
            assert self._embedding is not None
            self._mirror.copy_(self._embedding.mT)

    def _changed(self) -> list[nn.Parameter]:
        return [*self._weights, *([] if self._mirror is None else [self._mirror])]

    @property
    def key(self) -> str:
        """What is trained."""
        return f"all weights/{self._view.fingerprint}"

    @property
    def facts(self) -> dict[str, str]:
        """What is trained, for ``info``."""
        return {"trained": "all weights", "dtype": str(self._view.dtype)}

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Put weights and gradients back at the end, bit by bit."""
        weights = self._changed()
        gradients = [weight.grad for weight in weights]
        self._before = [weight.detach().clone() for weight in weights]
        before = self._before

        @torch.no_grad()
        def put_back() -> None:
            for weight, value, gradient in zip(weights, before, gradients, strict=True):
                weight.copy_(value)
                weight.grad = gradient
            self._before = []

        with Undo() as undo:
            undo.add(put_back)
            for weight in weights:
                weight.grad = None
            yield

    def delta(self, name: str, info: Mapping[str, Any], history: pd.DataFrame) -> WeightDelta:
        """Return the weights that training has changed, in float32."""
        trained = {
            key: master.detach().float().cpu().clone()
            for key, master, before in zip(self.names, self.parameters, self._before, strict=False)
            if not torch.equal(master, before.float())
        }
        if self._mirror is not None and _EMBED in trained:
            trained[_UNEMBED] = trained[_EMBED].mT.contiguous()
        return WeightDelta(self._view.fingerprint, trained, name, info, history)

    def penalty(self) -> None:
        """The loss has no further term."""


def _of_architecture(model_view: ModelView) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that run and that the architecture has."""
    parameters = dict(model_view.model.named_parameters())
    shared = Counter(_storage(weight).data_ptr() for weight in parameters.values())
    head = getattr(getattr(model_view.model, "unembed", None), "original_component", None)
    added = getattr(head, "bias", None)
    cfg = model_view.model.cfg
    no_positions = getattr(cfg, "positional_embedding_type", "") == "alibi"
    for name, weight in parameters.items():
        if name == "pos_embed.W_pos" and no_positions:
            continue  # a HookedTransformer leaves it empty, with whatever the memory held
        may_be_added = weight is added if model_view.is_bridge else _BIAS.search(name)
        if may_be_added and not bool(weight.detach().any()):
            continue
        # A bridge keeps a fused matrix beside its parts, which share its storage and are what runs.
        if shared[_storage(weight).data_ptr()] == 1 or weight.nbytes < _storage(weight).nbytes():
            yield name, weight


def _tied_apart(model_view: ModelView) -> tuple[nn.Parameter | None, nn.Parameter | None]:
    """A HookedTransformer's embedding and unembedding, where Hugging Face has one matrix."""
    parameters = dict(model_view.model.named_parameters())
    embed, unembed = parameters.get(_EMBED), parameters.get(_UNEMBED)
    if embed is None or unembed is None or embed.shape != unembed.mT.shape:
        return None, None
    tied = torch.equal(embed.detach(), unembed.detach().mT)
    return (embed, unembed) if tied else (None, None)


def _storage(weight: Tensor) -> torch.UntypedStorage:
    return weight.untyped_storage()
