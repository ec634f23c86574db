"""NCFT: each task is trained in its own neurons (paper, section 4); how to protect old ones."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_taskneurons.continual.learners import History, Setting, StageResult, deltas_of
from tl_taskneurons.neurons.attribution import score_neurons
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.tasks.task import Task
from tl_taskneurons.training.deltas import NeuronDelta
from tl_taskneurons.training.finetune import finetune


@dataclass(frozen=True)
class NeuronLearner:
    """Detect the task's neurons in the model as it is now, and train only them.

    Attributes:
        fraction: share of all neurons that a task gets.
        mass: in place of ``fraction``, a budget per task: as many of the highest neurons as hold
            this share of the task's total score.
        isolation: ``"none"`` (the paper); ``"strict"`` never trains again what an earlier task
            trained; ``"soft"`` scales the updates of a neuron by ``1 / (1 + strength * r)``, where
            r is the sum over earlier tasks of its score in units of that task's mean score.
        strength: of the soft isolation.
        contrast: choose neurons by a contrast with the earlier tasks' scores
            (``NeuronScores.contrast``) in place of the plain top; None is plain.
        score_limit: at most so many training examples are scored.
    """

    fraction: float = 0.10
    mass: float | None = None
    isolation: Literal["none", "strict", "soft"] = "none"
    strength: float = 1.0
    contrast: str | None = None
    score_limit: int = 100
    ordered: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("fraction", "mass"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise InputError(f"{name} is {value}; it must be in (0, 1].")
        if self.score_limit < 1:
            raise InputError(
                f"score_limit is {self.score_limit}, but neurons are chosen by the scores of "
                "training examples; give at least 1."
            )

    @property
    def first(self) -> "NeuronLearner":
        """The paper's: there is nothing to protect yet."""
        return replace(self, isolation="none", strength=1.0, contrast=None)

    def learn(self, setting: Setting, history: History, task: Task) -> StageResult:
        """Train the task's neurons."""
        with self.state(setting, history):
            scores = score_neurons(
                setting.view.model, task, prompt=setting.prompt, limit=self.score_limit
            )
            delta = finetune(
                setting.view.model, task, self.choose(scores, history), setting.budget(task),
                prompt=setting.prompt, progress=setting.progress,
                update_scale=self.update_scale(history),
            )  # fmt: skip
        return StageResult(task.name, delta, scores.values)

    @contextmanager
    def state(self, setting: Setting, history: History) -> Iterator[None]:
        """Apply the stages' deltas one upon the other."""
        with ExitStack() as stack:
            for delta in deltas_of(history, NeuronDelta):
                stack.enter_context(delta.applied(setting.view.model))
            yield

    def choose(self, scores: NeuronScores, history: History) -> NeuronSet:
        """Return the neurons to train for a task with these scores.

        Raises:
            ValueError: when strict isolation or the contrast leaves too few neurons.
        """
        count = self.count(scores.values)
        if not history:
            return scores.top(n=count)
        if self.contrast is not None:
            earlier = [replace(scores, values=relevance) for relevance in relevances(history)]
            scores = scores.contrast(earlier, how=self.contrast, fraction=self.fraction)
        left = self._left(scores.values, history)
        free = int(left.sum())
        if count > free:
            rule = "strict isolation" if self.isolation == "strict" else ""
            if self.contrast is not None:
                rule += f"{' with ' if rule else ''}contrast {self.contrast!r}"
            raise InputError(
                f"Task {scores.name!r} needs {count} neurons, but {rule} leaves {free} "
                f"of {left.numel()} after {len(history)} tasks; lower fraction or mass, or use "
                f"isolation 'soft'{' without contrast' if self.contrast is not None else ''}."
            )
        # Scores are 0 or more, so neurons that are not left come last.
        return replace(scores, values=scores.values.masked_fill(~left, -1.0)).top(n=count)

    def _left(
        self, scores: Float[Tensor, "layer d_mlp"], history: History
    ) -> Bool[Tensor, "layer d_mlp"]:
        """Say which neurons the task may have; a contrast gave 0 to those that it may not."""
        left = torch.ones_like(scores, dtype=torch.bool)
        if self.contrast is not None:
            left &= scores > 0
        if self.isolation == "strict":
            for delta in deltas_of(history, NeuronDelta):
                left &= ~delta.neurons.mask
        return left

    def count(self, scores: Float[Tensor, "layer d_mlp"]) -> int:
        """Return how many neurons a task gets."""
        if self.mass is None:
            return max(1, round(self.fraction * scores.numel()))
        falling = scores.flatten().double().sort(descending=True).values.cumsum(0)
        return min(scores.numel(), int((falling < self.mass * falling[-1]).sum()) + 1)

    def update_scale(self, history: History) -> Float[Tensor, "layer d_mlp"] | None:
        """Return by how much each neuron's updates are scaled; None where they are not."""
        if self.isolation != "soft" or not history:
            return None
        earlier = torch.stack([values / values.mean() for values in relevances(history)]).sum(0)
        return 1 / (1 + self.strength * earlier)


def relevances(history: History) -> list[Float[Tensor, "layer d_mlp"]]:
    """Return the neurons' scores at the stages that trained neurons."""
    return [result.relevance for result in history if result.relevance is not None]
