"""Run a sequence of tasks: train stage by stage, test all after every stage, save, resume."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import pandas as pd
import torch

from tl_taskneurons.continual import matrix
from tl_taskneurons.continual.learners import History, Setting, StageResult
from tl_taskneurons.continual.method import Method, find_method
from tl_taskneurons.continual.scoring import score_history
from tl_taskneurons.continual.storage import StageStore
from tl_taskneurons.models.hooks import is_hooked
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import ModelView, view
from tl_taskneurons.runtime.errors import InputError, StateError
from tl_taskneurons.runtime.options import (
    plain,
    require_kind,
    require_number,
    require_seed,
    settled,
)
from tl_taskneurons.runtime.progress import Progress
from tl_taskneurons.runtime.run_folder import RunFolder, file_name
from tl_taskneurons.tasks.prompts import Prompt
from tl_taskneurons.tasks.task import Task, Tasks, one_task, tasks_digest
from tl_taskneurons.training.deltas import Delta
from tl_taskneurons.training.deltas.base import require_own_weights
from tl_taskneurons.training.settings import Training

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class SequenceResult:
    """What a sequence of tasks came to.

    Attributes:
        method: the method's name.
        order: names of the tasks in the order of the sequence.
        scores: the matrix a(i, j), one row per task and stage: ``stage`` (0 is the base model),
            ``trained`` (the stage's task), ``task``, ``seen`` (whether the task was trained by
            then), ``metric, value, low, high, loss, n, n_truncated`` as ``evaluate`` returns them.
        alone: A(i), the same columns: each task after training on it alone, by the same method.
        stages: ``stage, task, cl, fg, seconds, peak_mib, n_parameters``; see ``continual.matrix``.
        deltas: what each stage trained, by task. A ``NeuronDelta`` starts from the model as it
            was before the stage (for private methods the base), the others from the base.
    """

    method: str
    order: tuple[str, ...]
    scores: pd.DataFrame
    alone: pd.DataFrame
    stages: pd.DataFrame
    deltas: Mapping[str, Delta]

    @property
    def matrix(self) -> pd.DataFrame:
        """a(i, j): tasks in rows, stages in columns; stage 0 is the base model."""
        wide = self.scores.pivot(index="task", columns="stage", values="value")
        return wide.loc[list(self.order)]

    @property
    def summary(self) -> pd.DataFrame:
        """One row: ``method, cl, fg`` (last stage), ``bwt, fwt, alone, seconds, peak_mib``.

        ``bwt`` and ``fwt`` are backward and forward transfer (see ``continual.matrix``), ``alone``
        is the mean of A(i).
        """
        wide = self.matrix.to_numpy()
        last = self.stages.iloc[-1]
        return pd.DataFrame(
            {"method": [self.method], "cl": last["cl"], "fg": last["fg"],
             "bwt": matrix.backward_transfer(wide[:, 1:]),
             "fwt": matrix.forward_transfer(wide[:, 1:], wide[:, 0]),
             "alone": self.alone["value"].mean(), "seconds": self.stages["seconds"].sum(),
             "peak_mib": self.stages["peak_mib"].max()}
        )  # fmt: skip


class SequenceOptions(TypedDict, total=False):
    """Further keyword arguments of ``run_sequence``.

    Attributes:
        prompt: the form of the prompts.
        limit: at most so many training examples of each task.
        test_limit: at most so many test examples of each task.
        folder: save every finished stage there, and go on from there.
        store: a folder for what stages learn, to share it between sequences that have stages in
            common; by default inside ``folder``.
        keep: leave the weights of the last stage in the model; by default it is as it was.
        progress: show progress bars; by default after two seconds (see ``Progress``).
    """

    prompt: Prompt
    limit: int | None
    test_limit: int | None
    folder: PathLike | None
    store: PathLike | None
    keep: bool
    progress: bool | None


@dataclass(frozen=True)
class SequenceSettings:
    """The values of ``SequenceOptions``, with their defaults."""

    prompt: Prompt = Prompt()
    limit: int | None = None
    test_limit: int | None = None
    folder: PathLike | None = None
    store: PathLike | None = None
    keep: bool = False
    progress: bool | None = None


def run_sequence(
    model: LanguageModel,
    tasks: Sequence[Task],
    method: str | Method = "ncft",
    training: Training = Training(),
    *,
    fraction: float = 0.10,
    score_limit: int = 100,
    seed: int = 0,
    **options: Unpack[SequenceOptions],
) -> SequenceResult:
    """Train tasks one after another, and test all of them after every stage.

    Args:
        model: a HookedTransformer or TransformerBridge with raw weights. LoRA needs a bridge.
        tasks: in the order of the sequence; each task once.
        method: one of ``METHODS``, or a ``Method`` of your own.
        training: of one stage; every method gets the same steps and examples.
        fraction: share of all neurons that a task gets, for a method by name that chooses neurons.
        score_limit: such a method chooses them by the scores of at most so many training examples.
        seed: of the order of examples and of adapters' starts; it
            replaces ``training.seed``.
        **options: ``prompt``, ``limit``, ``test_limit``, ``folder``, ``store``, ``keep`` and
            ``progress``; see ``SequenceOptions``.

    Raises:
        ValueError: for no tasks, a task given twice, a task without training or test examples or
            without a metric, an unknown method, ``keep`` with a method whose weights depend on the
            input, or a folder of another configuration (both are shown). All of it before
            anything is trained.
        RuntimeError: while something has changed the model's weights for a while, such as
            ``deactivate`` with ``how="weights"``; with ``folder`` or ``store`` also while hooks act
            on the model, as by ``deactivate``: kept results are found by the model alone.
        TypeError: for an unknown option, with the nearest ones.
    """
    given = settled("run_sequence", SequenceSettings, options)
    seed = require_seed(seed)
    require_number("fraction", fraction, optional=False)
    require_number("score_limit", score_limit, whole=True, least=1, optional=False)
    require_kind("training", training, Training, "give Training(lr=..., steps=...)")
    require_kind("method", method, str | Method, "give a name of the methods, or a Method")
    model_view = view(model)
    _require_bare(model_view, kept=given.folder is not None or given.store is not None)
    chosen = find_method(method, fraction, score_limit) if isinstance(method, str) else method
    sequence = _checked(tasks, given.limit, given.test_limit)
    if given.keep and not chosen.inference.one_state:
        raise InputError(
            f"Method {chosen.name!r} answers inputs with different weights, so there is no one "
            "model to keep; use keep=False and apply result.deltas yourself."
        )
    setting = Setting(
        model_view, sequence, replace(training, seed=seed), given.prompt, given.progress
    )
    store = None if given.store is None else Path(given.store)
    if given.folder is None:
        return _Sequence(setting, chosen, StageStore(store), None).run(given.keep)
    arguments = _arguments(setting, chosen)
    with RunFolder.open(given.folder, arguments, kind="run_sequence") as run:
        stages = StageStore(run.file("pieces") if store is None else store)
        result = _Sequence(setting, chosen, stages, run).run(given.keep)
        run.finish()
    return result


@dataclass(frozen=True, eq=False)
class _Sequence:
    """One sequence at work."""

    setting: Setting
    method: Method
    store: StageStore
    folder: RunFolder | None

    def run(self, keep: bool) -> SequenceResult:
        names = self.setting.tasks.names
        frames = [self._unit("stage-0", (), names).assign(stage=0, trained="", seen=False)]
        history: list[StageResult] = []
        for stage, name in enumerate(self._over("stages", names), start=1):
            history.append(self._learn(history, name))
            frame = self._unit(f"stage-{stage}", history, names)
            seen = frame["task"].isin(names[:stage])
            frames.append(frame.assign(stage=stage, trained=name, seen=seen))
        alone = [
            self._unit(f"alone/{file_name(name)}", [self._learn((), name)], [name])
            for name in self._over("each task alone", names)
        ]
        if keep:
            self._keep(history)
        return _result(
            self.method.name, names, pd.concat(frames, ignore_index=True),
            pd.concat(alone, ignore_index=True), history,
        )  # fmt: skip

    def _learn(self, history: History, name: str) -> StageResult:
        before = self.method.before(history)
        return self.store.learn(self.setting, self.method.learner, before, name)

    def _unit(self, unit: str, history: History, names: Sequence[str]) -> pd.DataFrame:
        def compute() -> pd.DataFrame:
            return score_history(self.setting, self.method, history, names, self.store)

        return compute() if self.folder is None else self.folder.unit(unit, compute)

    def _over(self, title: str, names: Sequence[str]) -> Any:
        return Progress(title, shown=self.setting.progress).over(names)

    @torch.no_grad()
    def _keep(self, history: History) -> None:
        parameters = list(self.setting.view.model.parameters())
        with self.method.learner.state(self.setting, history):
            reached = [parameter.detach().clone() for parameter in parameters]
        for parameter, value in zip(parameters, reached, strict=True):
            parameter.copy_(value)


def _require_bare(model_view: ModelView, *, kept: bool) -> None:
    """Refuse weights that are changed for a while and, for results to be kept, hooks."""
    require_own_weights(model_view)
    if kept and is_hooked(model_view):
        raise StateError(
            f"Hooks act on {model_view.name} (an intervention such as deactivate is open, or hooks "
            "of your own are set), and results in a folder or store are found again by the model, "
            "not by its hooks. Leave the block or remove the hooks, or run without folder and "
            "store."
        )


def _checked(tasks: Sequence[Task], limit: int | None, test_limit: int | None) -> Tasks:
    """Refuse sequences that could not run to their end; cut tasks to their limits."""
    for name, value in (("limit", limit), ("test_limit", test_limit)):
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}; it must be at least 1, or None for all examples.")
    several: Any = tasks if isinstance(tasks, Iterable) and not isinstance(tasks, str) else [tasks]
    tasks = [one_task(task) for task in several]
    if not tasks:
        raise InputError("The sequence has no tasks; give at least one.")
    names = [task.name for task in tasks]
    for stage, name in enumerate(names):
        if name in names[:stage]:
            raise InputError(
                f"Task {name!r} is given twice, at stages {names.index(name) + 1} and {stage + 1}; "
                "a sequence has each task once, so leave the second out."
            )
    for stage, task in enumerate(tasks, start=1):
        for split in ("train", "test"):
            try:
                task.split(split)
            except ValueError as error:
                raise InputError(f"Stage {stage} can't be run. {error}") from error
        if task.metric == "loss":
            raise InputError(
                f"Stage {stage} can't be run. Task {task.name!r} has no metric but its loss, so "
                "there is no score to compare; use accuracy, exact_match or rougeL."
            )
    return Tasks(task.limit(limit, test_limit) for task in tasks)


def _arguments(setting: Setting, method: Method) -> dict[str, Any]:
    """What decides a sequence's results."""
    return plain({
        "model": setting.view.name, "fingerprint": setting.view.fingerprint,
        "kind": setting.view.kind, "dtype": str(setting.view.dtype),
        "order": list(setting.tasks.names), "tasks_digest": tasks_digest(setting.tasks),
        "method": repr(method), "training": asdict(setting.training),
        "prompt": asdict(setting.prompt), "seed": setting.training.seed,
    })  # fmt: skip


def _result(
    method: str,
    order: tuple[str, ...],
    scores: pd.DataFrame,
    alone: pd.DataFrame,
    history: History,
) -> SequenceResult:
    wide = scores.pivot(index="task", columns="stage", values="value").loc[list(order)].to_numpy()
    stages = matrix.stage_table(wide[:, 1:], alone["value"].to_numpy()).assign(
        task=order,
        seconds=[result.seconds for result in history],
        peak_mib=[result.peak_mib for result in history],
        n_parameters=[result.delta.n_parameters for result in history],
    )
    columns = ["stage", "trained", "task", "seen"]
    rest = [name for name in scores.columns if name not in columns]
    return SequenceResult(
        method=method,
        order=order,
        scores=scores[[*columns, *rest]],
        alone=alone,
        stages=stages[["stage", "task", "cl", "fg", "seconds", "peak_mib", "n_parameters"]],
        deltas={result.task: result.delta for result in history},
    )
