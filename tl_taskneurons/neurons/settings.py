"""The options that all scoring functions share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from tl_taskneurons.models.inputs import Data, DataOptions
from tl_taskneurons.runtime.errors import InputError


class ItemOptions(TypedDict, total=False):
    """Options of scoring examples that are tokenised already; see ``ScoreSettings``."""

    token_budget: int | None
    layers: Sequence[int] | None
    steps: int


class ScoreOptions(ItemOptions, DataOptions, total=False):
    """Options of scoring a task; see ``ScoreSettings``."""

    seed: int


@dataclass(frozen=True)
class ScoreSettings(Data):
    """How neurons are scored, beside the method; ``Data`` says on which examples.

    Attributes:
        layers: score these layers only, for the methods that take gradients or activations; the
            others score 0, and layers below the lowest take no part in the backward pass.
        steps: points on the path, for ``"integrated_gradients"``.
        seed: for ``"random"``.
    """

    layers: Sequence[int] | None = None
    steps: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}; integrated gradients needs at least 1.")
