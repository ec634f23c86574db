"""What all deltas have in common: one way to apply, undo and merge them."""

import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from tl_taskneurons.models.identity import same_model
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import ModelView, is_pinned, view
from tl_taskneurons.runtime.cleanup import Undo
from tl_taskneurons.runtime.errors import InputError, StateError
from tl_taskneurons.training.deltas.merging import write_merged

Weights = Mapping[str, Tensor]
PathLike = str | os.PathLike[str]

# What ``apply`` replaced, for deltas that don't hold the base weights themselves.
_replaced: "weakref.WeakKeyDictionary[LanguageModel, weakref.WeakKeyDictionary[Delta, Weights]]" = (
    weakref.WeakKeyDictionary()
)


class Delta(ABC):
    """What training changed in a base model.

    Applying gives the model the trained weights, rounded to its dtype; leaving ``applied`` and
    ``undo`` give back the old bytes. All or nothing: after an error the model is as before.

    Attributes:
        fingerprint: the base model's.
        name: for tables and messages.
        info: how it was made; plain JSON values.
        history: one row per update (see ``training.loop.fit``); not saved.
    """

    fingerprint: str
    name: str
    info: Mapping[str, Any]
    history: pd.DataFrame

    @property
    @abstractmethod
    def n_parameters(self) -> int:
        """Number of trained weights."""

    @abstractmethod
    def save(self, path: PathLike) -> None:
        """Write the delta to a safetensors file, atomically."""

    @staticmethod
    @abstractmethod
    def load(path: PathLike) -> "Delta":
        """Read a delta that ``save`` wrote.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: for a damaged file, or one that holds something else.
        """

    @abstractmethod
    def _read(self, model_view: ModelView) -> Weights:
        """Copy the model's weights that this delta replaces."""

    @abstractmethod
    def _write(self, model_view: ModelView, values: Iterable[tuple[str, Tensor]]) -> None:
        """Overwrite weights, by the names of ``_read``, rounded to the model's dtype."""

    @abstractmethod
    def _trained(self, before: Weights) -> Iterator[tuple[str, Tensor]]:
        """Yield the weights that this delta gives a model that has ``before``, by name."""

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the base model's weights; float32 where the delta doesn't say."""
        return getattr(torch, str(self.info.get("dtype", "float32")).removeprefix("torch."))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name!r}, {self._what()}{self.n_parameters} weights, "
            f"model {self.fingerprint})"
        )

    def _what(self) -> str:
        return ""

    @contextmanager
    def applied(self, model: LanguageModel) -> Iterator[None]:
        """Give a model the trained weights for a while; the old bytes are put back at the end.

        Args:
            model: the base model, as HookedTransformer or TransformerBridge.

        Raises:
            RuntimeError: while something else has changed the model's weights for a while, such
                as ``deactivate`` with ``how="weights"``.
            ValueError: for another model; both fingerprints are named.
        """
        model_view = view(model)
        require_own_weights(model_view)
        self._require_base(model_view)
        before = self._read(model_view)
        with Undo() as undo:
            undo.add(self._write, model_view, before.items())
            self._write(model_view, self._trained(before))
            yield

    def apply(self, model: LanguageModel) -> None:
        """Give a model the trained weights for good (until ``undo``).

        Raises:
            RuntimeError: while something else has changed the model's weights for a while.
            ValueError: for another model (both fingerprints are named), or, for chosen neurons,
                for the base model in another precision, where ``undo`` could not bring back the
                same bytes.
        """
        model_view = view(model)
        require_own_weights(model_view)
        self._require_base(model_view)
        before = self._read(model_view)
        self._keep_base(model_view, before)
        self._swap(model_view, before, self._trained(before))

    def undo(self, model: LanguageModel) -> None:
        """Put back the weights that ``apply`` replaced, bit by bit.

        Raises:
            ValueError: when the model doesn't hold this delta's trained weights.
            RuntimeError: when the base weights are not known (only neurons' deltas hold them,
                others can undo what they applied themselves, in the same process), or while
                something else has changed the model's weights for a while.
        """
        model_view = view(model)
        require_own_weights(model_view)
        self._require_shape(model_view)
        found = self._read(model_view)
        base = self._base(model_view)
        for name, value in self._trained(base):
            if not torch.equal(found[name], value.to(found[name])):
                raise InputError(
                    f"{model_view.name} doesn't hold the trained weights of {self!r}: "
                    f"{self._spell(name)} differs. Undo what was applied last first."
                )
        self._swap(model_view, found, base.items())

    def merge(self, source: PathLike, out: PathLike) -> Path:
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
        return write_merged(self.apply, source, out, self.dtype)

    def _swap(self, model_view: ModelView, old: Weights, new: Iterable[tuple[str, Tensor]]) -> None:
        """Write new weights; when that fails, the old ones."""
        with Undo() as undo:
            undo.add(self._write, model_view, old.items())
            self._write(model_view, new)
            undo.keep()

    def _keep_base(self, model_view: ModelView, before: Weights) -> None:
        """Note what ``undo`` is to bring back."""
        of_model = _replaced.setdefault(model_view.model, weakref.WeakKeyDictionary())
        of_model[self] = before

    def _base(self, model_view: ModelView) -> Weights:
        """What ``undo`` is to bring back."""
        known = _replaced.get(model_view.model, {}).get(self)
        if known is None:
            raise StateError(
                f"{self!r} doesn't hold the base weights and was not applied to this "
                f"{model_view.name}, so it can't be undone; load the base model again, or use "
                "applied(model)."
            )
        return known

    def _spell(self, name: str) -> str:
        return name

    @abstractmethod
    def _require_shape(self, model_view: ModelView) -> None:
        """Refuse a model that doesn't have the weights that this delta replaces."""

    def _require_base(self, model_view: ModelView) -> None:
        if not same_model(self.fingerprint, model_view.fingerprint):
            raise InputError(
                f"{self!r} was trained on the base model {self.fingerprint}, but "
                f"{model_view.name} is {model_view.fingerprint}. Apply it to its own base model; "
                "if another delta is applied, undo that first, or add the two."
            )
        self._require_shape(model_view)


def require_own_weights(model_view: ModelView) -> None:
    """Refuse a model whose weights are changed for a while, under the fingerprint of its own.

    Other weights would be written over the change, or be put back wrong at its end.

    Raises:
        RuntimeError: naming the model, and in which order both go together.
    """
    if is_pinned(model_view):
        raise StateError(
            f"The weights of {model_view.name} are changed for a while (by deactivate or scale "
            "with how='weights', a mixture of differences, or a training under way), so no "
            "trained weights can be given or taken now. Apply the difference first, then "
            "deactivate(model, neurons.rebind(model), how='weights'), or use how='hooks'."
        )
