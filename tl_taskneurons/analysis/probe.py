"""What a search for neurons asks of a model: effects on a task, and what silencing costs whom."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_taskneurons.evaluation.evaluate import evaluate_items
from tl_taskneurons.models.positions import Positions
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.neurons.attribution import activation_mean, score_neurons, score_tasks
from tl_taskneurons.neurons.interventions import deactivate
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.tasks.prompts import Prompt
from tl_taskneurons.tasks.task import Task

# What a task's value is where the model knows nothing of it.
_FLOORS = {"exact_match": 0.0, "rougeL": 0.0, "prob": 0.0, "logit_diff": 0.0}
# A task with less than this above chance is one that the model can't do.
_LEAST = 0.1


class UnableWarning(UserWarning):
    """A task that must not be harmed is one that the model can't do anyway."""


@dataclass(frozen=True)
class Question:
    """What is silenced, how, and on which examples effects are taken and measured.

    Attributes:
        metric: what signed effects are of: a name of ``METRICS`` or a function; anything but
            ``"loss"`` is also what the goal is measured in.
        ablation: as in ``deactivate``; ``"mean"`` takes the means over the task's examples.
        positions: as in ``deactivate``.
        prompt: how examples become text.
        n_score: training examples that effects are taken on.
        n_held: further training examples that goal and harm are measured on.
    """

    metric: str | Callable[..., Any] = "loss"
    ablation: str | Tensor = "zero"
    positions: Positions = "all"
    prompt: Prompt = Prompt()
    n_score: int = 24
    n_held: int = 32

    def __post_init__(self) -> None:
        if self.n_score < 1 or self.n_held < 1:
            raise InputError(
                f"n_score is {self.n_score} and n_held {self.n_held}; both must be at least 1."
            )


@dataclass(frozen=True)
class Toll:
    """What silencing a set costs, on held-out training examples.

    Attributes:
        value: of the task's metric.
        taken: share of the task's value above chance that is gone, at most 1.
        harm: what the other tasks lose of their scores, the mean over tasks (of 1).
        worst: what the one that loses most loses.
        worst_task: its name.
        text_harm: rise of the loss of plain text, the largest over texts, in nats per token.
    """

    value: float
    taken: float
    harm: float
    worst: float
    worst_task: str
    text_harm: float


def halves(task: Task, question: Question) -> tuple[Task, Task]:
    """Cut a task's training examples: one part to take effects on, one to measure on.

    The second part is the test split of the task that is returned; its demonstrations come from
    the rest. The task's own test split is in neither.

    Raises:
        ValueError: for fewer than four training examples.
    """
    examples, n_score = task.train, question.n_score
    if len(examples) < 4:
        raise InputError(
            f"Task {task.name!r} has {len(examples)} training examples; the search needs at least "
            "4, to take effects on some and to measure on others."
        )
    if len(examples) < n_score + question.n_held:
        n_score = min(n_score, len(examples) // 2)
    held = examples[n_score : n_score + question.n_held]
    rest = (*examples[:n_score], *examples[n_score + len(held) :])
    return replace(task, train=examples[:n_score]), replace(task, train=rest, test=held)


class Probe:
    """A task to take, and tasks to spare, of one model."""

    def __init__(
        self, model: LanguageModel, task: Task, others: Sequence[Task], question: Question
    ) -> None:
        self.model, self.question = model, question
        self.scored, self.held = halves(task, question)
        parts = [halves(other, question) for other in others]
        self.ablation = question.ablation
        if isinstance(self.ablation, str) and self.ablation == "mean":
            self.ablation = activation_mean(model, self.scored, prompt=question.prompt)
        self.metric = None if question.metric == "loss" else question.metric
        self.floor = _floor(task, self.metric)
        self.plain = self._value(self.held, self.metric)
        if self.plain - self.floor < _LEAST:
            raise InputError(
                f"{task.name!r} is at {self.plain:.3g} on held-out training examples, and chance "
                f"is {self.floor:.3g}, so the model can't do it and has no neurons to find for it; "
                "try another prompt (more shots) or another task."
            )
        self.spared: list[tuple[Task, Task, float]] = []
        for before, held in parts:
            value = self._value(held, None)
            if held.metric != "loss" and value - _floor(held, None) < _LEAST:
                warnings.warn(
                    f"The model can't do {held.name!r}, which must not be harmed: it is at "
                    f"{value:.3g} and chance is {_floor(held, None):.3g}; it is left out.",
                    UnableWarning,
                    stacklevel=4,
                )
                continue
            self.spared.append((before, held, value))
        if not self.spared:
            raise InputError(
                "None of the others is a task that the model can do, so no harm can be measured; "
                "give others, or plain text: Task.from_texts(name, texts)."
            )

    def rivals(self, known: Mapping[str, NeuronScores] | None = None) -> list[NeuronScores]:
        """Score the neurons for the tasks to spare, but those whose scores are known."""
        known = known or {}
        missing = [scored for scored, _, _ in self.spared if scored.name not in known]
        found: dict[str, NeuronScores] = dict(known)
        if missing:
            found |= score_tasks(self.model, missing, prompt=self.question.prompt)
        return [found[scored.name] for scored, _, _ in self.spared]

    def effects(self, silenced: NeuronSet) -> Float[Tensor, "layer d_mlp"]:
        """How much each neuron helps the task while others are silenced; 0 where it doesn't."""
        options: Any = {
            "metric": self.question.metric, "ablation": self.ablation,
            "positions": self.question.positions, "prompt": self.question.prompt,
        }  # fmt: skip
        if not len(silenced):
            scores = score_neurons(self.model, self.scored, signed=True, **options)
        else:
            with self._silenced(silenced):
                scores = score_neurons(self.model, self.scored, signed=True, **options)
        return scores.side("help").values

    def toll(self, silenced: NeuronSet) -> Toll:
        """Measure what silencing a set costs."""
        with self._silenced(silenced):
            value = self._value(self.held, self.metric)
            after = [self._value(held, None) for _, held, _ in self.spared]
        losses, texts = {"": 0.0}, [0.0]
        for (_, held, before), now in zip(self.spared, after, strict=True):
            if held.metric == "loss":
                texts.append(now - before)
            else:
                losses[held.name] = max(0.0, before - now)
        worst = max(losses, key=lambda name: losses[name])
        n_tasks = max(1, len(losses) - 1)
        taken = min(1.0, (self.plain - value) / (self.plain - self.floor))
        return Toll(value, taken, sum(losses.values()) / n_tasks, losses[worst], worst, max(texts))

    def mask(self, rivals: Sequence[NeuronScores], share: float) -> Bool[Tensor, "layer d_mlp"]:
        """Return the neurons in another task's top share."""
        return torch.stack([rival.top(fraction=share).mask for rival in rivals]).any(0)

    def _silenced(self, neurons: NeuronSet) -> Any:
        return deactivate(
            self.model, neurons, ablation=self.ablation, positions=self.question.positions
        )

    def _value(self, task: Task, metric: str | Callable[..., Any] | None) -> float:
        # A prefix that all prompts share runs once, where silencing can be done without the rest.
        simple = (
            metric is None
            and self.question.positions == "all"
            and (isinstance(self.ablation, Tensor) or self.ablation == "zero")
        )
        frame = evaluate_items(
            self.model, task, split="test", prompt=self.question.prompt, metric=metric,
            share_prefix=simple,
        )  # fmt: skip
        column = "loss" if metric is None and task.metric == "loss" else "score"
        return float(frame[column].mean())


def _floor(task: Task, metric: str | Callable[..., Any] | None) -> float:
    """The value of a task that the model knows nothing of."""
    if metric is None and task.metric == "accuracy":
        return 1 / len(task.labels)
    name = task.metric if metric is None else metric
    if isinstance(name, str) and name in _FLOORS:
        return _FLOORS[name]
    if metric is None:
        return 0.0
    raise InputError(
        f"metric is {metric!r}, and nobody knows its value where the model knows nothing, so no "
        f"share of it can be the goal; use 'loss' (the goal is then the task's score) or one of "
        f"{[known for known in _FLOORS if known not in ('exact_match', 'rougeL')]}."
    )
