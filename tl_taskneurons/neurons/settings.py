"""The options that all scoring functions share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from torch import Tensor

from tl_taskneurons.models.inputs import Data, DataOptions
from tl_taskneurons.models.positions import Positions, check_positions, named
from tl_taskneurons.neurons.ablation import check_ablation
from tl_taskneurons.neurons.methods import Method
from tl_taskneurons.neurons.metrics import Metric, find_metric
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.options import require_seed


class ItemOptions(TypedDict, total=False):
    """Options of scoring examples that are tokenised already; see ``ScoreSettings``."""

    token_budget: int | None
    layers: Sequence[int] | None
    steps: int
    seed: int
    metric: str | Callable[..., Any]
    ablation: str | Tensor
    positions: Positions
    signed: bool


class ScoreOptions(ItemOptions, DataOptions, total=False):
    """Options of scoring a task; see ``ScoreSettings``."""

    per_example: bool


@dataclass(frozen=True)
class ScoreSettings(Data):
    """How neurons are scored, beside the method; ``Data`` says on which examples.

    Attributes:
        layers: score these layers only, for the methods that take gradients or activations; the
            others score 0, and layers below the lowest take no part in the backward pass.
        steps: points on the path, for ``"integrated_gradients"``.
        seed: for ``"random"``, and for which examples ``"resample"`` draws.
        metric: what silencing is to change: a name of ``METRICS``, or a function of the logits
            ``[answer_tokens, vocab]`` and the example's ``Item`` that returns a scalar.
        ablation: what a silenced neuron's activation becomes: a name of ``ABLATIONS``, or
            constants ``[layer, d_mlp]``, e.g. from ``activation_mean``.
        positions: where neurons are silenced, or their activations read: ``"all"``,
            ``"answer"`` (where its tokens are predicted), ``"last_prompt"``, a slice of each
            example's tokens, or a function of ``Places``.
        signed: keep the sign: the change of the metric when the neuron is silenced.
        per_example: keep every example's scores as well, for standard errors and reliability.
    """

    layers: Sequence[int] | None = None
    steps: int = 8
    seed: int = 0
    metric: str | Callable[..., Any] = "loss"
    ablation: str | Tensor = "zero"
    positions: Positions = "all"
    signed: bool = False
    per_example: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_seed(self.seed)
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}; integrated gradients needs at least 1.")
        find_metric(self.metric)
        check_ablation(self.ablation)
        check_positions(self.positions)

    @property
    def measure(self) -> Metric:
        """The metric."""
        return find_metric(self.metric)

    @property
    def asks_default(self) -> bool:
        """Whether the question is the paper's: the loss, by setting neurons to zero."""
        return isinstance(self.ablation, str) and (self.metric, self.ablation) == ("loss", "zero")

    def read_by(self, method: Method) -> "ScoreSettings":
        """Return the settings with the positions that a method reads."""
        if method.reads_at and isinstance(self.positions, str) and self.positions == "all":
            return replace(self, positions=method.reads_at)
        return self

    def facts(self) -> dict[str, Any]:
        """What was asked, as plain JSON values."""
        metric = self.measure
        ablation = self.ablation if isinstance(self.ablation, str) else "constants"
        return {
            "metric": metric.name, "better": metric.better, "ablation": ablation,
            "positions": named(self.positions), "signed": self.signed,
        }  # fmt: skip
