"""Rivals that train every weight: one task after another, with a replay buffer, and jointly."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from random import Random
from typing import ClassVar

from tl_taskneurons.continual.learners import History, Setting, StageResult, deltas_of
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.tasks.task import Task
from tl_taskneurons.training.comparisons import finetune_all
from tl_taskneurons.training.deltas import WeightDelta
from tl_taskneurons.training.settings import Training


@dataclass(frozen=True)
class WeightLearner:
    """Train all weights on one task after another.

    Attributes:
        buffer: examples kept of each earlier task and trained again; 0 keeps none.
        share: of the examples trained on at a stage, the share that comes from the buffer.
    """

    buffer: int = 0
    share: float = 0.5
    ordered: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.buffer < 0 or not 0 < self.share < 1:
            raise InputError(
                f"buffer is {self.buffer} and share is {self.share}; buffer must be 0 or more, "
                "share between 0 and 1."
            )

    @property
    def first(self) -> "WeightLearner":
        """Without a buffer, which is empty."""
        return WeightLearner()

    def learn(self, setting: Setting, history: History, task: Task) -> StageResult:
        """Train all weights from where the last stage left them."""
        with self.state(setting, history):
            delta = _train(setting, self._mix(setting, history, task), setting.budget(task))
        # What a stage doesn't reach keeps the values of the stage before.
        earlier = deltas_of(history, WeightDelta)[-1].trained if history else {}
        delta = replace(
            delta, trained={**earlier, **delta.trained}, fingerprint=setting.view.fingerprint
        )
        return StageResult(task.name, delta)

    def state(self, setting: Setting, history: History) -> AbstractContextManager[None]:
        """Apply the last stage's weights."""
        return _last(setting, history)

    def _mix(self, setting: Setting, history: History, task: Task) -> list[Task]:
        """The task, and its buffer's examples repeated to make up their share."""
        if not (self.buffer and history):
            return [task]
        wanted = self.share / (1 - self.share) * len(task.train) / len(history)
        mix = [task]
        for result in history:
            earlier = setting.tasks[result.task]
            draw = Random(f"buffer/{setting.training.seed}/{earlier.name}")
            kept = draw.sample(earlier.train, min(self.buffer, len(earlier.train)))
            times = max(1, round(wanted / len(kept)))
            mix.append(replace(earlier, train=tuple(kept) * times))
        return mix


@dataclass(frozen=True)
class JointLearner:
    """Train all weights from the base on the tasks seen so far, mixed: an upper bound.

    It gets the steps of all those stages together, in one training.
    """

    ordered: ClassVar[bool] = False

    @property
    def first(self) -> WeightLearner:
        """One task is no mixture."""
        return WeightLearner()

    def learn(self, setting: Setting, history: History, task: Task) -> StageResult:
        """Train on all tasks seen."""
        names = sorted([result.task for result in history] + [task.name])
        tasks = [setting.tasks[name] for name in names]
        steps = sum(setting.budget(each).steps or 0 for each in tasks)
        delta = _train(setting, tasks, replace(setting.training, steps=steps))
        return StageResult(task.name, delta)

    def state(self, setting: Setting, history: History) -> AbstractContextManager[None]:
        """Apply the last stage's weights."""
        return _last(setting, history)


def _last(setting: Setting, history: History) -> AbstractContextManager[None]:
    return history[-1].delta.applied(setting.view.model) if history else nullcontext()


def _train(setting: Setting, tasks: Sequence[Task], training: Training) -> WeightDelta:
    return finetune_all(
        setting.view.model, tasks, None, training, prompt=setting.prompt, progress=setting.progress
    )
