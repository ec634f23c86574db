"""Scores of neurons and sets of neurons: selection, contrast, set algebra, controls, files."""

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_taskneurons.files import load_tensor, save_tensor
from tl_taskneurons.model import ModelView, view

_HEADER = ("fingerprint", "name", "info")
CONTRASTS = ("exclude", "difference", "rank")


@dataclass(frozen=True, eq=False)
class NeuronSet:
    """A set of neurons of one model.

    Supports ``|``, ``&``, ``-``, ``^`` and ``~``, ``len``, ``==``, and ``(layer, j) in neurons``.

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

    @staticmethod
    def from_pairs(model: Any, pairs: Iterable[tuple[int, int]], name: str = "") -> "NeuronSet":
        """Make a set of ``(layer, j)`` pairs.

        Raises:
            ValueError: for a pair outside the model; the message names it.
        """
        model_view = view(model)
        mask = torch.zeros(model_view.shape, dtype=torch.bool)
        for layer, j in pairs:
            if not (0 <= layer < model_view.n_layers and 0 <= j < model_view.d_mlp):
                raise ValueError(
                    f"No neuron ({layer}, {j}) in {model_view.name}, which has "
                    f"{model_view.n_layers} layers of {model_view.d_mlp} neurons."
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

    def rebind(self, model: Any) -> "NeuronSet":
        """Return the same neurons for another model of the same shape, e.g. a fine-tuned one.

        Raises:
            ValueError: when the shapes differ.
        """
        return replace(self, fingerprint=_rebound(self.mask, self.fingerprint, view(model)))

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
        free = torch.ones_like(self.mask)
        if exclude is not None:
            require_same_origin(self, exclude)
            free = ~exclude.mask
        generator = torch.Generator().manual_seed(seed)
        # A random order of all neurons, drawn once: the first free ones of it are the control.
        order = torch.rand(self.mask.shape, generator=generator, dtype=torch.float64)
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
            raise ValueError(f"match is {match!r}; use 'layer' or 'total'.")
        info = {"random_like": self.name, "seed": seed, "match": match}
        return NeuronSet(mask, self.fingerprint, f"random like {self.name} #{seed}", info)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per neuron: ``layer``, ``neuron``."""
        pairs = self.mask.nonzero()
        return pd.DataFrame({"layer": pairs[:, 0].tolist(), "neuron": pairs[:, 1].tolist()})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the set to a safetensors file, atomically."""
        save_tensor(path, "NeuronSet", self.mask.to(torch.uint8), _header(self))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "NeuronSet":
        """Read a set that ``save`` wrote.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: for a damaged file, or one that holds something else.
        """
        mask, header = load_tensor(path, "NeuronSet", _HEADER)
        return NeuronSet(mask.bool(), header["fingerprint"], header["name"], header["info"])

    def _combine(
        self, other: "NeuronSet", operation: Callable[[Tensor, Tensor], Tensor], sign: str
    ) -> "NeuronSet":
        if not isinstance(other, NeuronSet):
            raise TypeError(f"Expected a NeuronSet, got {type(other).__name__}.")
        require_same_origin(self, other)
        mask = operation(self.mask, other.mask)
        return NeuronSet(mask, self.fingerprint, f"({self.name} {sign} {other.name})")


@dataclass(frozen=True, eq=False)
class NeuronScores:
    """How much each neuron matters to a task.

    Attributes:
        values: float32 scores; the larger, the more relevant. The unit depends on the method
            (nats of loss for the attribution methods).
        fingerprint: the model they belong to.
        name: the task's name.
        method: the method's name.
        info: how they were made (examples, tokens, prompt, seed, ...); plain JSON values.
    """

    values: Float[Tensor, "layer d_mlp"]
    fingerprint: str
    name: str = ""
    method: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not bool(self.values.isfinite().all()):
            layer, j = (~self.values.isfinite()).nonzero()[0].tolist()
            raise ValueError(
                f"Score of neuron ({layer}, {j}) for {self.name!r} is "
                f"{self.values[layer, j].item()}; scores must be finite."
            )

    def __repr__(self) -> str:
        n_layers, d_mlp = self.values.shape
        return (
            f"NeuronScores({self.name!r}, {self.method}, {n_layers} layers x {d_mlp} neurons, "
            f"model {self.fingerprint})"
        )

    def top(
        self,
        *,
        fraction: float | None = None,
        n: int | None = None,
        threshold: float | None = None,
        per_layer: bool = False,
    ) -> NeuronSet:
        """Select the neurons with the highest scores (paper, section 2; there 10%).

        Give exactly one of ``fraction``, ``n`` and ``threshold``. Ties go to the lower layer, then
        to the lower index. A fraction is rounded to the nearest whole number of neurons.

        Args:
            fraction: share of the neurons, in (0, 1].
            n: number of neurons.
            threshold: take every neuron whose score is at least this.
            per_layer: apply ``fraction`` or ``n`` to each layer instead of all layers together.

        Raises:
            ValueError: for a fraction outside (0, 1], an ``n`` outside the model, or not exactly
                one way of selecting.
        """
        if sum(given is not None for given in (fraction, n, threshold)) != 1:
            raise ValueError(
                f"Give exactly one of fraction ({fraction}), n ({n}) and threshold ({threshold})."
            )
        if threshold is not None:
            if math.isnan(threshold):
                raise ValueError("threshold is nan; it must be a number.")
            mask = self.values >= threshold
        else:
            pool = self.values.shape[1] if per_layer else self.values.numel()
            count = _count(fraction, n, pool)
            rows = self.values if per_layer else self.values.reshape(1, -1)
            order = rows.argsort(dim=1, descending=True, stable=True)[:, :count]
            mask = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order, True)
            mask = mask.reshape(self.values.shape)
        info = {
            "method": self.method, "fraction": fraction, "n": n, "threshold": threshold,
            "per_layer": per_layer, **self.info,
        }  # fmt: skip
        return NeuronSet(mask, self.fingerprint, self.name, info)

    def contrast(
        self,
        others: "NeuronScores | Iterable[NeuronScores]",
        *,
        how: str = "exclude",
        fraction: float = 0.01,
    ) -> "NeuronScores":
        """Keep what is specific to this task against other tasks or plain text.

        Plain top-k answers "what can this task not do without?"; in real models many of those
        neurons are needed by every input. The contrast answers "what does this task need that
        the others don't?".

        Args:
            others: scores of other tasks or of plain text, by the same method.
            how: ``"exclude"``: a neuron in the top ``fraction`` of any other task scores 0.
                ``"difference"``: own score minus the highest of the others, after dividing each
                task's scores by their sum (a task that the model fails has large scores
                everywhere); negative differences score 0.
                ``"rank"``: the same difference between ranks (share of neurons below), which
                ignores how scores are spread.
            fraction: the share that counts as another task's top, for ``"exclude"``.

        Raises:
            ValueError: without others, for an unknown ``how``, or for scores of another model or
                method.
        """
        rivals = [others] if isinstance(others, NeuronScores) else list(others)
        if not rivals:
            raise ValueError(f"Contrasting {self.name!r} needs the scores of at least one other.")
        for rival in rivals:
            require_same_origin(self, rival)
            if rival.method != self.method:
                raise ValueError(
                    f"Scores of {self.name!r} come from method {self.method!r}, those of "
                    f"{rival.name!r} from {rival.method!r}; contrast scores of one method."
                )
        if how == "exclude":
            taken = torch.stack([rival.top(fraction=fraction).mask for rival in rivals]).any(0)
            values = self.values.masked_fill(taken, 0.0)
        elif how in ("difference", "rank"):
            scale = _shares if how == "difference" else _ranks
            highest = torch.stack([scale(rival.values) for rival in rivals]).amax(0)
            values = (scale(self.values) - highest).clamp_min(0.0)
        else:
            raise ValueError(f"Unknown contrast {how!r}; use one of {CONTRASTS}.")
        info = {**self.info, "contrast": how, "against": [rival.name for rival in rivals]}
        if how == "exclude":
            info["contrast_fraction"] = fraction
        return replace(self, values=values, info=info)

    def rebind(self, model: Any) -> "NeuronScores":
        """Return the same scores for another model of the same shape.

        Raises:
            ValueError: when the shapes differ.
        """
        return replace(self, fingerprint=_rebound(self.values, self.fingerprint, view(model)))

    def to_frame(self) -> pd.DataFrame:
        """Return one row per neuron, highest score first: ``layer``, ``neuron``, ``score``."""
        n_layers, d_mlp = self.values.shape
        flat = self.values.flatten()
        order = flat.argsort(descending=True, stable=True)
        return pd.DataFrame(
            {"layer": (order // d_mlp).numpy(), "neuron": (order % d_mlp).numpy(),
             "score": flat[order].numpy()}
        )  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the scores to a safetensors file, atomically."""
        header = {**_header(self), "method": self.method}
        save_tensor(path, "NeuronScores", self.values, header)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "NeuronScores":
        """Read scores that ``save`` wrote.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: for a damaged file, or one that holds something else.
        """
        values, header = load_tensor(path, "NeuronScores", (*_HEADER, "method"))
        return NeuronScores(
            values, header["fingerprint"], header["name"], header["method"], header["info"]
        )


def exclusive(sets: Mapping[str, NeuronSet]) -> dict[str, NeuronSet]:
    """Take out of each set every neuron that any other set has too.

    Raises:
        ValueError: for fewer than two sets, or sets of different models.
    """
    if len(sets) < 2:
        raise ValueError(f"exclusive needs at least two sets; got {list(sets)}.")
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
    members = list(sets.values()) if isinstance(sets, Mapping) else list(sets)
    if not members:
        raise ValueError("common needs at least one set.")
    need = len(members) if at_least is None else at_least
    if not 1 <= need <= len(members):
        raise ValueError(f"at_least is {need}; there are {len(members)} sets.")
    for member in members[1:]:
        require_same_origin(members[0], member)
    mask = torch.stack([member.mask for member in members]).sum(0) >= need
    return NeuronSet(mask, members[0].fingerprint, f"common to {need} of {len(members)}")


def require_same_origin(first: NeuronSet | NeuronScores, second: NeuronSet | NeuronScores) -> None:
    """Raise ValueError when two scores or sets belong to different models."""
    if first.fingerprint != second.fingerprint:
        raise ValueError(
            f"{first!r} and {second!r} belong to different models, so their neurons don't "
            "correspond. Use one model, or .rebind(model) if only its weights changed."
        )


def _header(item: NeuronSet | NeuronScores) -> dict[str, Any]:
    return {"fingerprint": item.fingerprint, "name": item.name, "info": dict(item.info)}


def _rebound(tensor: Tensor, fingerprint: str, model_view: ModelView) -> str:
    if tuple(tensor.shape) != model_view.shape:
        raise ValueError(
            f"Neurons of model {fingerprint} don't fit {model_view.name} "
            f"({model_view.fingerprint}): its shape is {model_view.shape}."
        )
    return model_view.fingerprint


def _require_room(count: int, room: int, where: str) -> None:
    if count > room:
        raise ValueError(
            f"Can't draw {count} random neurons in {where}: only {room} are not excluded."
        )


def _count(fraction: float | None, n: int | None, pool: int) -> int:
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction is {fraction}; it must be in (0, 1], e.g. 0.10 for 10%.")
        return max(1, round(fraction * pool))
    assert n is not None
    if not 0 <= n <= pool:
        raise ValueError(f"n is {n}; there are {pool} neurons to choose from.")
    return n


def _shares(values: Tensor) -> Tensor:
    total = values.sum()
    return values / total if total > 0 else values


def _ranks(values: Tensor) -> Tensor:
    """Share of neurons that score lower; equal scores have equal ranks."""
    flat = values.flatten()
    below = torch.searchsorted(flat.sort().values, flat)
    return (below / flat.numel()).reshape(values.shape).to(torch.float32)
