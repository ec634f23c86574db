"""Scores of a model's MLP neurons for a task, and how sets are selected from them."""

import operator
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.highest import highest, tell_nothing_scored, tell_unscored
from tl_taskneurons.neurons.methods import CONTRASTS, METHODS
from tl_taskneurons.neurons.sets import HEADER, NeuronSet, header_of, rebound, require_same_origin
from tl_taskneurons.runtime.errors import InputError, InputTypeError
from tl_taskneurons.runtime.options import require_number, require_seed
from tl_taskneurons.runtime.tensor_files import load_tensor, save_tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of signed scores: neurons that the task is worse without, better without, or both.
Side = Literal["help", "hurt", "both"]


@dataclass(frozen=True, eq=False)
class NeuronScores:
    """How much each neuron matters to a task.

    Attributes:
        values: float32 scores; the larger, the more relevant. The unit depends on the method
            (nats of loss for the attribution methods). Kept detached on the CPU, in float32
            whatever was given, as ``examples`` are.
        fingerprint: the model they belong to.
        name: the task's name.
        method: the method's name.
        info: how they were made (examples, tokens, prompt, metric, seed, ...); plain JSON values.
        examples: each example's scores, where ``per_example`` asked for them; not saved. Those of
            sizes by ``side("both")`` keep their signs.
    """

    values: Float[Tensor, "layer d_mlp"]
    fingerprint: str
    name: str = ""
    method: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    examples: Float[Tensor, "example layer d_mlp"] | None = None

    def __post_init__(self) -> None:
        values = self.values
        if not isinstance(values, Tensor) or values.ndim != 2 or not values.is_floating_point():
            shape = tuple(getattr(values, "shape", ()))
            found = f"{getattr(values, 'dtype', type(values).__name__)} {shape}"
            raise InputTypeError(
                f"The scores of {self.name!r} are {found}; give a float tensor [layer, d_mlp]."
            )
        object.__setattr__(self, "values", _plain(values))
        if self.examples is not None:
            object.__setattr__(self, "examples", _plain(self.examples))
        if not bool(self.values.isfinite().all()):
            layer, j = (~self.values.isfinite()).nonzero()[0].tolist()
            raise InputError(
                f"Score of neuron ({layer}, {j}) for {self.name!r} is "
                f"{self.values[layer, j].item()}; scores must be finite."
            )

    def __repr__(self) -> str:
        n_layers, d_mlp = self.values.shape
        return (
            f"NeuronScores({self.name!r}, {self.method}, {n_layers} layers x {d_mlp} neurons, "
            f"model {self.fingerprint})"
        )

    def __getitem__(self, neuron: tuple[int, int]) -> float:
        """Return the score of a neuron, ``scores[layer, j]``."""
        n_layers, d_mlp = self.values.shape
        try:
            layer, j = map(operator.index, neuron)
        except (TypeError, ValueError) as error:
            raise InputTypeError(
                f"scores[{neuron!r}] is no neuron; write scores[layer, neuron], and scores.values "
                "for all of them."
            ) from error
        if not (0 <= layer < n_layers and 0 <= j < d_mlp):
            raise InputError(
                f"No neuron ({layer}, {j}) among the scores, which have {n_layers} layers of "
                f"{d_mlp} neurons; count from 0."
            )
        return float(self.values[layer, j])

    def top(
        self,
        n: int | None = None,
        *,
        fraction: float | None = None,
        threshold: float | None = None,
        per_layer: bool = False,
        sign: Side | None = None,
    ) -> NeuronSet:
        """Select the neurons with the highest scores (paper, section 2; there 10%).

        Give exactly one of ``n``, ``fraction`` and ``threshold``. Ties go to the lower layer, then
        to the lower index. A fraction is rounded to the nearest whole number of neurons.

        Args:
            n: number of neurons.
            fraction: share of the neurons, in (0, 1].
            threshold: take every neuron whose score is at least this.
            per_layer: apply ``fraction`` or ``n`` to each layer instead of all layers together.
            sign: of signed scores, which neurons count: see ``side``; by default ``"both"``. Where
                it is given, neurons of score 0 are left out, so fewer may be taken: those on the
                other side, and with ``"both"`` those to which a contrast gives 0.

        Warns:
            UserWarning: for chosen neurons in layers that were not scored, or to which a contrast
                gives 0.

        Where the scores of each example are there, ``info["split_half"]`` says how reliable the
        set is; see ``split_half``.

        Raises:
            ValueError: for a fraction outside (0, 1], an ``n`` outside the model, or not exactly
                one way of selecting.
        """
        if sum(given is not None for given in (fraction, n, threshold)) != 1:
            raise InputError(
                f"Give exactly one of fraction ({fraction}), n ({n}) and threshold ({threshold})."
            )
        require_number("fraction", fraction)
        require_number("n", n, whole=True)
        require_number("threshold", threshold)
        side = self.side(sign or "both")
        mask = highest(side.values, fraction, n, threshold, per_layer)
        if sign is not None:
            mask = mask & (side.values > 0)
        if "contrast" in self.info and threshold is None:
            tell_nothing_scored(mask, side.values, self.name)
        elif "layers" in self.info and "contrast" not in self.info:
            tell_unscored(mask, self.info["layers"], self.name)
        info = {
            "method": self.method, "fraction": fraction, "n": n, "threshold": threshold,
            "per_layer": per_layer, **side.info,
        }  # fmt: skip
        if side.examples is not None and len(side.examples) > 1 and threshold is None:
            info["split_half"] = side.split_half(fraction=fraction, n=n, per_layer=per_layer)
        return NeuronSet(mask, self.fingerprint, self.name, info)

    def side(self, sign: Side) -> "NeuronScores":
        """Return signed scores as sizes, of the neurons on one side; the others score 0.

        Args:
            sign: ``"help"``: silencing makes the task worse by the metric; ``"hurt"``: it makes it
                better; ``"both"``: sizes.

        Raises:
            ValueError: for scores without sign, an unknown side, or a side of a metric that is
                neither better higher nor better lower.
        """
        if sign not in ("help", "hurt", "both"):
            raise InputError(f"sign is {sign!r}; use 'help', 'hurt' or 'both'.")
        if not self.info.get("signed"):
            if sign == "both":
                return self
            raise InputError(
                f"The scores of {self.name!r} are sizes, so no neuron {sign}s; score with "
                "signed=True."
            )
        better = self.info.get("better")
        if sign != "both" and better not in ("higher", "lower"):
            raise InputError(
                f"Nobody said whether metric {self.info.get('metric')!r} is better higher or "
                "lower, so no neuron helps or hurts; use sign='both', or choose by the values."
            )
        turn = 1.0 if (sign == "help") == (better == "lower") else -1.0

        def sized(values: Tensor) -> Tensor:
            return values.abs() if sign == "both" else (turn * values).clamp_min(0.0)

        # Of examples the sizes are taken after the mean, as of the scores themselves.
        examples = self.examples
        if examples is not None and sign != "both":
            examples = turn * examples
        info = {**self.info, "signed": False, "side": sign}
        return replace(self, values=sized(self.values), info=info, examples=examples)

    def standard_errors(self) -> Float[Tensor, "layer d_mlp"]:
        """Return the standard error of each score over the examples.

        Raises:
            ValueError: without the scores of at least two examples.
        """
        examples = self._examples()
        return examples.std(0) / len(examples) ** 0.5

    def split_half(
        self, *, fraction: float | None = None, n: int | None = None, per_layer: bool = False,
        n_splits: int = 20, seed: int = 0,
    ) -> float:  # fmt: skip
        """Say how much of a set would return with other examples: its split-half reliability.

        The examples are cut at random into halves, each half's top is taken, and the share of
        neurons that both have is averaged over ``n_splits`` cuts. A set chosen by all examples is
        somewhat more reliable, as it rests on twice as many.

        Args:
            fraction: size of the sets, as in ``top``; give this or ``n``.
            n: size of the sets.
            per_layer: as in ``top``.
            n_splits: how many cuts.
            seed: of the cuts.

        Raises:
            ValueError: without the scores of at least two examples, for fewer than one cut, or a
                size that isn't there.
        """
        require_number("n_splits", n_splits, whole=True, least=1, optional=False)
        examples = self._examples()
        generator = torch.Generator().manual_seed(require_seed(seed))
        shares = []
        for _ in range(n_splits):
            order = torch.randperm(len(examples), generator=generator, device="cpu")
            halves = [examples[rows].mean(0) for rows in order.tensor_split(2)]
            if self.sized:
                halves = [half.abs() for half in halves]
            one, two = (highest(half, fraction, n, None, per_layer) for half in halves)
            shares.append(float((one & two).sum() / one.sum().clamp_min(1)))
        return sum(shares) / len(shares)

    @property
    def sized(self) -> bool:
        """Whether neurons are chosen by the sizes of means over examples, whatever their signs."""
        side = "both" if self.info.get("signed") else self.info.get("side")
        if side is not None:
            return side == "both"
        return self.method in METHODS and METHODS.find(self.method).size_last

    def _examples(self) -> Float[Tensor, "example layer d_mlp"]:
        if self.examples is None or len(self.examples) < 2:
            raise InputError(
                f"The scores of {self.name!r} are kept of "
                f"{0 if self.examples is None else len(self.examples)} examples; score at least "
                "two with per_example=True."
            )
        return self.examples

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
            ValueError: without others, for an unknown ``how``, for signed scores, or for scores of
                another model or method.
        """
        several = isinstance(others, Iterable) and not isinstance(others, NeuronScores)
        given: Any = others if several else [others]
        rivals = list(given)
        for rival in rivals:
            if not isinstance(rival, NeuronScores):
                raise InputTypeError(
                    f"Contrasting {self.name!r} needs scores of others, got {str(rival)[:60]!r} "
                    f"({type(rival).__name__}); give NeuronScores, e.g. list(scores.values())."
                )
        if not rivals:
            raise InputError(f"Contrasting {self.name!r} needs the scores of at least one other.")
        for one in (self, *rivals):
            require_same_origin(self, one)
            if one.method != self.method:
                raise InputError(
                    f"Scores of {self.name!r} come from method {self.method!r}, those of "
                    f"{one.name!r} from {one.method!r}; contrast scores of one method."
                )
            if one.info.get("signed"):
                raise InputError(
                    f"The scores of {one.name!r} are signed; contrast one side of each, e.g. "
                    "scores.side('help')."
                )
        values = CONTRASTS.find(how).function(self, rivals, fraction)
        info = {**self.info, "contrast": how, "against": [rival.name for rival in rivals]}
        if how == "exclude":
            info["contrast_fraction"] = fraction
        return replace(self, values=values, info=info, examples=None)

    def rebind(self, model: LanguageModel) -> "NeuronScores":
        """Return the same scores for another model of the same shape.

        Raises:
            ValueError: when the shapes differ.
        """
        return replace(self, fingerprint=rebound(self.values, self.fingerprint, view(model)))

    def to_frame(self) -> pd.DataFrame:
        """Return one row per neuron, highest score first: ``layer``, ``neuron``, ``score``."""
        n_layers, d_mlp = self.values.shape
        flat = self.values.flatten()
        order = flat.argsort(descending=True, stable=True)
        return pd.DataFrame(
            {"layer": (order // d_mlp).numpy(), "neuron": (order % d_mlp).numpy(),
             "score": flat[order].numpy()}
        )  # fmt: skip

    def plot(self, *, ax: "Axes | None" = None) -> "Figure":
        """Draw every neuron's score, layers by neurons; see ``plots.score_map``."""
        from tl_taskneurons.plots.score_map import score_map

        return score_map(self.to_frame(), name=self.name, ax=ax)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the scores to a safetensors file, atomically."""
        header = {**header_of(self), "method": self.method}
        save_tensor(path, "NeuronScores", self.values, header)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "NeuronScores":
        """Read scores that ``save`` wrote.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: for a damaged file, or one that holds something else.
        """
        values, header = load_tensor(path, "NeuronScores", (*HEADER, "method"))
        return NeuronScores(
            values, header["fingerprint"], header["name"], header["method"], header["info"]
        )


def _plain(values: Tensor) -> Tensor:
    return values.detach().to("cpu", torch.float32)
