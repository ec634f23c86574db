"""With which weights each input is answered, after some stages of a sequence.

An ``Inference`` splits the test inputs of tasks into groups: a state of the model, and the inputs
that are answered in it. Some know which task an input belongs to (as W-NCFT does in the paper),
some find it out from the input's features in the base model.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from tl_taskneurons.continual.features import TaskStatistics, distances, task_weights
from tl_taskneurons.continual.learners import History, Learner, Setting, deltas_of
from tl_taskneurons.continual.mixtures import Reading, mixed, mixed_by_example
from tl_taskneurons.training.deltas import NeuronDelta

_GRID = 8  # routing weights are rounded to eighths, so that most tasks have none


@dataclass(frozen=True, eq=False)
class InputGroup:
    """A state of the model and what is answered in it.

    Attributes:
        state: gives the base model the state for a while.
        inputs: task name to positions in its test split.
        name: what decides the state, where methods may have it in common; None for mixtures.
    """

    state: AbstractContextManager[None]
    inputs: Mapping[str, Sequence[int]]
    name: str | None = None

    @classmethod
    def after(
        cls,
        setting: Setting,
        learner: Learner,
        history: History,
        inputs: Mapping[str, Sequence[int]],
    ) -> "InputGroup":
        """Answer inputs in a learner's state after some stages, the base model after none."""
        if not all(result.key for result in history):
            return cls(learner.state(setting, history), inputs)
        by = repr(learner if len(history) > 1 else learner.first) if history else ""
        keys = [result.key for result in history]
        name = json.dumps([setting.view.result_key, by, keys])
        return cls(learner.state(setting, history), inputs, name)


@runtime_checkable
class Inference(Protocol):
    """How inputs are answered. Frozen dataclasses.

    Attributes:
        one_state: whether all inputs meet the same weights, so that the model can keep them.
    """

    one_state: ClassVar[bool]

    def groups(
        self,
        setting: Setting,
        learner: Learner,
        history: History,
        tasks: Sequence[str],
    ) -> Iterator[InputGroup]:
        """Yield groups that cover every test input of the tasks once."""
        ...


@dataclass(frozen=True)
class Plain:
    """Use the model as the last stage left it."""

    one_state: ClassVar[bool] = True

    def groups(
        self,
        setting: Setting,
        learner: Learner,
        history: History,
        tasks: Sequence[str],
    ) -> Iterator[InputGroup]:
        """Yield one group."""
        yield InputGroup.after(setting, learner, history, _all_inputs(setting, tasks))


@dataclass(frozen=True)
class TaskOracle:
    """Use the result of the input's own task, which is told; the base model for unseen tasks."""

    one_state: ClassVar[bool] = False

    def groups(
        self,
        setting: Setting,
        learner: Learner,
        history: History,
        tasks: Sequence[str],
    ) -> Iterator[InputGroup]:
        """Yield a group per task."""
        for name in tasks:
            own = [result for result in history if result.task == name]
            yield InputGroup.after(setting, learner, own, _all_inputs(setting, [name]))


@dataclass(frozen=True)
class NearestTask:
    """Use the result of the task nearest to the input (EPI); no task is told."""

    one_state: ClassVar[bool] = False

    def groups(
        self,
        setting: Setting,
        learner: Learner,
        history: History,
        tasks: Sequence[str],
    ) -> Iterator[InputGroup]:
        """Yield a group per seen task."""
        known = _known(setting, history)
        nearest = {
            name: distances(setting.features(name, "test"), known).argmin(1) for name in tasks
        }
        for k, result in enumerate(history):
            inputs = {
                name: (found == k).nonzero().flatten().tolist() for name, found in nearest.items()
            }
            yield InputGroup.after(setting, learner, [result], inputs)


@dataclass(frozen=True)
class TaskWeighted:
    """W-NCFT: weight each seen task's neurons by its likeness to the input's task, which is told.

    Attributes:
        reading: how weights are applied; see ``mixtures.mixed``.
        gain: the constant factor of the weights in the readings that add changes; None is the
            number of seen tasks, so that equal weights are 1. The literal reading has none.
        temperature: of the softmax; the paper's is 1.
    """

    reading: Reading = "stages"
    gain: float | None = None
    temperature: float = 1.0
    one_state: ClassVar[bool] = False

    def groups(
        self,
        setting: Setting,
        learner: Learner,  # noqa: ARG002 (common signature)
        history: History,
        tasks: Sequence[str],
    ) -> Iterator[InputGroup]:
        """Yield a group per task."""
        for name in tasks:
            weights = (self._gain(len(history)) * self.weights(setting, history, name)).tolist()
            state = mixed(setting.view, deltas_of(history, NeuronDelta), weights, self.reading)
            yield InputGroup(state, _all_inputs(setting, [name]))

    def weights(self, setting: Setting, history: History, name: str) -> Float[Tensor, " task"]:
        """Return the paper's Sim for a task: one weight per seen task, which sum to 1."""
        vectors = [setting.statistics(result.task).mean for result in history]
        return task_weights(setting.statistics(name).mean, vectors, self.temperature)

    def _gain(self, n_tasks: int) -> float:
        if self.reading == "literal":
            return 1.0
        return float(n_tasks) if self.gain is None else self.gain


@dataclass(frozen=True)
class Routed:
    """Mix the tasks' neurons for each input by its own features; no task is told.

    For results that all start from the base model. The weights are a softmax over minus half the
    squared Mahalanobis distances to the tasks' means, divided by a temperature.

    Attributes:
        temperature: at 1 weights are the tasks' posterior, if inputs are Gaussian and their means
            and covariance known. These are estimated, which makes it too sure: at 4 the log loss on
            held-out training inputs of SmolLM2-135M (topics and reviews) is the lowest. Towards 0
            this is ``NearestTask``.
    """

    temperature: float = 4.0
    one_state: ClassVar[bool] = False

    def groups(
        self,
        setting: Setting,
        learner: Learner,  # noqa: ARG002 (common signature)
        history: History,
        tasks: Sequence[str],
    ) -> Iterator[InputGroup]:
        """Yield a group per task, whose inputs have mixtures of their own."""
        known = _known(setting, history)
        deltas = deltas_of(history, NeuronDelta)
        for name in tasks:
            rounded = (self.weights(setting.features(name, "test"), known) * _GRID).round()
            weights = rounded / rounded.sum(1, keepdim=True).clamp_min(1)
            state = mixed_by_example(setting.view, deltas, weights)
            yield InputGroup(state, _all_inputs(setting, [name]))

    def weights(
        self, features: Float[Tensor, "n d_model"], known: Mapping[str, TaskStatistics]
    ) -> Float[Tensor, "n task"]:
        """Return each input's weight of each known task; they sum to 1."""
        return (-0.5 * distances(features, known) / self.temperature).softmax(1)


def _known(setting: Setting, history: History) -> dict[str, TaskStatistics]:
    return {result.task: setting.statistics(result.task) for result in history}


def _all_inputs(setting: Setting, tasks: Sequence[str]) -> dict[str, Sequence[int]]:
    return {name: range(len(setting.tasks[name].test)) for name in tasks}
