"""What a search for neurons asks of a model: effects on a task, and what silencing costs whom."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_taskneurons.analysis.question import FEWEST, Part, Question, halves, spread
from tl_taskneurons.evaluation.evaluate import evaluate_items
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.neurons.attribution import activation_mean, score_neurons, score_tasks
from tl_taskneurons.neurons.interventions import deactivate
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.tasks.example import Example
from tl_taskneurons.tasks.prompts import Prompt
from tl_taskneurons.tasks.task import Task

# What a task's value is where the model knows nothing of it.
_FLOORS = {"exact_match": 0.0, "rougeL": 0.0, "prob": 0.0, "logit_diff": 0.0}
# A task with less than this above chance is one that the model can't do.
_LEAST = 0.1


class UnableWarning(UserWarning):
    """A task that must not be harmed is one that the model can't do anyway."""


@dataclass(frozen=True)
class Toll:
    """What silencing a set costs, on held-out training examples.

    What needn't be known is not measured: of a set that harms too much the task itself (NaN) and
    the others that are left, so that its harm is at least what is said; of a set that takes too
    little the others (NaN).

    Attributes:
        value: of the task's metric.
        taken: share of the task's value above chance that is gone, at most 1.
        error: its standard error over examples.
        harm: what the other tasks lose of their scores, the mean over tasks (of 1).
        worst: what the one that loses most loses.
        worst_task: its name.
        text_harm: rise of the loss of plain text, the largest over texts, in nats per token.
    """

    value: float
    taken: float
    error: float = 0.0
    harm: float = math.nan
    worst: float = math.nan
    worst_task: str = ""
    text_harm: float = math.nan


class Probe:
    """A task to take, and tasks to spare, of one model."""

    def __init__(
        self, model: LanguageModel, task: Task, others: Sequence[Task], question: Question
    ) -> None:
        if task.metric == "loss" and question.metric == "loss":
            raise InputError(
                f"Task {task.name!r} is judged by its loss alone, which has no value for knowing "
                "nothing, so no share of it can be taken; ask with Question(metric='prob'), or "
                "take a task with right answers."
            )
        self.model, self.question = model, question
        self.scored, self.held = halves(task, question)
        parts = [halves(other, question, question.n_spared) for other in others]
        self.ablation = question.ablation
        if isinstance(self.ablation, str) and self.ablation == "mean":
            self.ablation = activation_mean(model, self.scored, prompt=question.prompt_of(task))
        self.metric = None if question.metric == "loss" else question.metric
        self.floor = _floor(task, self.metric)
        self.asked = spread(self.held, question.prompt_of(task), question.draws)
        self.plain, _ = self._value(self.asked, self.metric)
        if self.plain - self.floor < _LEAST:
            raise InputError(
                f"{task.name!r} is at {self.plain:.3g} on held-out training examples, and chance "
                f"is {self.floor:.3g}, so the model can't do it and has no neurons to find for it; "
                "try another prompt (more shots) or another task."
            )
        self.spared: list[tuple[Task, Task, float]] = []
        for before, held in parts:
            value, _ = self._value([(held, question.prompt_of(held))], None)
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
        found: dict[str, NeuronScores] = dict(known or {})
        missing: dict[Prompt, list[Task]] = {}
        for scored, _, _ in self.spared:
            if scored.name not in found:
                missing.setdefault(self.question.prompt_of(scored), []).append(scored)
        for prompt, tasks in missing.items():
            found |= score_tasks(self.model, tasks, prompt=prompt)
        return [found[scored.name] for scored, _, _ in self.spared]

    def effects(self, silenced: NeuronSet) -> Float[Tensor, "layer d_mlp"]:
        """How much each neuron helps the task while others are silenced; 0 where it doesn't.

        Where answers are right or wrong, effects are those on examples that are still right: what
        is lost already, or was never there, has nothing to say.
        """
        with self._silenced(silenced) if len(silenced) else nullcontext():
            found = [
                score_neurons(
                    self.model, part, signed=True, split="test", metric=self.question.metric,
                    ablation=self.ablation, positions=self.question.positions, prompt=prompt,
                    layers=self.question.layers,
                )
                for part, prompt in self.still_right()
            ]  # fmt: skip
        sizes = [scores.info["n_examples"] for scores in found]
        sums = [scores.values * n for scores, n in zip(found, sizes, strict=True)]
        mean = torch.stack(sums).sum(0) / sum(sizes)
        return replace(found[0], values=mean).side("help").values

    def still_right(self) -> list[Part]:
        """``n_score`` examples to take effects on, spread over the draws of demonstrations."""
        n_score, question = len(self.scored.train), self.question
        pool = replace(self.held, test=self.held.train[: 2 * n_score])
        parts = spread(pool, question.prompt_of(pool), question.draws)
        right: list[tuple[Example, ...]] = []
        if self.metric is None and pool.metric in ("exact_match", "accuracy"):
            right = [self._right(each) for each in parts]
        # Where too few are right, others are taken as well.
        enough = sum(map(len, right)) >= FEWEST
        chosen = right if enough else [part.test for part, _ in parts]
        most = -(-n_score // len(parts))
        return [
            (replace(part, test=some[:most]), prompt)
            for (part, prompt), some in zip(parts, chosen, strict=True)
            if some
        ]

    def _right(self, each: Part) -> tuple[Example, ...]:
        """The examples of a part that the model does now."""
        scores = self._items([each], None)["score"]
        return tuple(example for example, score in zip(each[0].test, scores, strict=True) if score)

    def toll(
        self, silenced: NeuronSet, allows: Callable[[Toll], bool], least: float | None = None
    ) -> Toll:
        """Measure what silencing a set costs, as far as needed to know whether it is allowed.

        Args:
            silenced: the set.
            allows: whether a harm is allowed; harm only grows with each task that is measured.
            least: where less than this share is taken, the others aren't measured; None measures
                them first, and the task only if their harm is allowed.
        """
        with self._silenced(silenced):
            if least is None:
                harm = self._harm(allows)
                own = self._taken() if allows(harm) else harm
            else:
                own = self._taken()
                if own.taken < least:
                    return own
                harm = self._harm(allows)
        return replace(harm, value=own.value, taken=own.taken, error=own.error)

    def _taken(self) -> Toll:
        """What is taken of the task now."""
        value, error = self._value(self.asked, self.metric)
        above = self.plain - self.floor
        return Toll(value, min(1.0, (self.plain - value) / above), error / above)

    def _harm(self, allows: Callable[[Toll], bool]) -> Toll:
        """What the others lose now, up to the one with which it is too much.

        That one is measured first the next time: what harms it does so often.
        """
        losses, text, found = {"": 0.0}, 0.0, Toll(math.nan, math.nan, math.nan, 0.0, 0.0, "", 0.0)
        n_tasks = max(1, sum(held.metric != "loss" for _, held, _ in self.spared))
        for each in list(self.spared):
            _, held, before = each
            now, _ = self._value([(held, self.question.prompt_of(held))], None)
            if held.metric == "loss":
                text = max(text, now - before)
            else:
                losses[held.name] = max(0.0, before - now)
            worst = max(losses, key=lambda name: losses[name])
            harm = math.fsum(losses.values()) / n_tasks
            found = Toll(math.nan, math.nan, math.nan, harm, losses[worst], worst, text)
            if not allows(found):
                self.spared = [each, *(other for other in self.spared if other is not each)]
                break
        return found

    def mask(self, rivals: Sequence[NeuronScores], share: float) -> Bool[Tensor, "layer d_mlp"]:
        """Return the neurons in another task's top share."""
        return torch.stack([rival.top(fraction=share).mask for rival in rivals]).any(0)

    def _silenced(self, neurons: NeuronSet) -> Any:
        return deactivate(
            self.model, neurons, ablation=self.ablation, positions=self.question.positions
        )

    def _value(
        self, parts: Sequence[Part], metric: str | Callable[..., Any] | None
    ) -> tuple[float, float]:
        """A task's mean over examples, and its standard error."""
        column = "loss" if metric is None and parts[0][0].metric == "loss" else "score"
        values = self._items(parts, metric)[column]
        return float(values.mean()), float(values.std(ddof=0) / len(values) ** 0.5)

    def _items(
        self, parts: Sequence[Part], metric: str | Callable[..., Any] | None
    ) -> pd.DataFrame:
        # A prefix that all prompts share runs once, where silencing can be done without the rest.
        simple = (
            metric is None
            and self.question.positions == "all"
            and (isinstance(self.ablation, Tensor) or self.ablation == "zero")
        )
        found = [
            evaluate_items(
                self.model, task, split="test", prompt=prompt, metric=metric, share_prefix=simple
            )
            for task, prompt in parts
        ]
        return pd.concat(found, ignore_index=True)


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
