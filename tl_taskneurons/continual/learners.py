"""What all ways of learning one task after another share: where they work, what they leave.

A ``Learner`` trains one stage after another and says which weights the model has after them. It
keeps no state of its own: all that it knows of earlier stages are their ``StageResult`` objects, so
a sequence can be stopped anywhere and taken up again.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol, TypeVar, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from tl_taskneurons.continual.features import SAMPLES, TaskStatistics, input_features
from tl_taskneurons.models.view import ModelView
from tl_taskneurons.runtime.errors import InputTypeError
from tl_taskneurons.tasks.prompts import Prompt
from tl_taskneurons.tasks.task import Task, Tasks
from tl_taskneurons.training.deltas import Delta
from tl_taskneurons.training.settings import Training

Kind = TypeVar("Kind", bound=Delta)


@dataclass(frozen=True, eq=False)
class StageResult:
    """What a stage leaves behind.

    Attributes:
        task: name of the task trained.
        delta: what changed. A ``NeuronDelta`` starts from the model as it was before the stage,
            the others from the base model.
        relevance: each neuron's score when the stage began, for learners that choose neurons.
        seconds: how long the stage took, detection included.
        peak_mib: the most memory it needed; see ``memory.peak_of_process``.
        key: what it is found by, given by its store: a digest of all that decides what is learnt.
    """

    task: str
    delta: Delta
    relevance: Float[Tensor, "layer d_mlp"] | None = None
    seconds: float = math.nan
    peak_mib: float = math.nan
    key: str = ""


History = Sequence[StageResult]  # the stages so far, in order


@dataclass(frozen=True, eq=False)
class Setting:
    """Where learners work.

    Attributes:
        view: the model; it has the base weights whenever no learner's state is open.
        tasks: every task of the sequence, cut to the examples that are used.
        training: learning rate, steps and so on.
        prompt: the form of the prompts.
        progress: show progress bars; by default after two seconds (see ``Progress``).
    """

    view: ModelView
    tasks: Tasks
    training: Training = field(default_factory=Training)
    prompt: Prompt = field(default_factory=Prompt)
    progress: bool | None = None
    _features: dict[tuple[str, str], Tensor] = field(default_factory=dict, repr=False)
    _statistics: dict[str, TaskStatistics] = field(default_factory=dict, repr=False)

    def budget(self, task: Task) -> Training:
        """Return the training of one stage with its number of steps, alike for every learner."""
        training = self.training
        per_step = min(training.batch_size * training.accumulate, len(task.train))  # as in ``fit``
        steps = training.steps or max(1, math.ceil(training.epochs * len(task.train) / per_step))
        return replace(training, steps=steps)

    def features(self, name: str, split: str) -> Float[Tensor, "n d_model"]:
        """Return the base model's features of a task's inputs; computed once."""
        key = name, split
        if key not in self._features:
            self._features[key] = input_features(
                self.view.model, self.tasks[name], split=split, prompt=self.prompt,
                limit=SAMPLES if split == "train" else None,
            )  # fmt: skip
        return self._features[key]

    def statistics(self, name: str) -> TaskStatistics:
        """Return what is known of a task's training inputs; computed once."""
        if name not in self._statistics:
            self._statistics[name] = TaskStatistics.of(self.features(name, "train"))
        return self._statistics[name]


@runtime_checkable
class Learner(Protocol):
    """One way to train a stage. Learners are frozen dataclasses; their ``repr`` names them.

    Attributes:
        ordered: whether the order of the earlier tasks matters to what a stage learns.
    """

    ordered: ClassVar[bool]

    @property
    def first(self) -> "Learner":
        """The simplest learner with the same first stage of a sequence, and state after it."""
        ...

    def learn(self, setting: Setting, history: History, task: Task) -> StageResult:
        """Train a task after the stages in ``history``; the model has its base weights again."""
        ...

    def state(self, setting: Setting, history: History) -> AbstractContextManager[None]:
        """Give the model its weights after some stages (the base's after none), for a while."""
        ...


def deltas_of(history: History, kind: type[Kind]) -> list[Kind]:
    """Return what stages left behind, all of one kind.

    Raises:
        TypeError: for a stage that left something else.
    """
    deltas: list[Kind] = []
    for result in history:
        if not isinstance(result.delta, kind):
            raise InputTypeError(
                f"The stage of task {result.task!r} left a {type(result.delta).__name__}, but a "
                f"{kind.__name__} is needed; this learner and this inference don't go together."
            )
        deltas.append(result.delta)
    return deltas
