"""EleutherAI's evaluation harness (lm-eval) on a model as it is, silenced and trained."""

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.given import Neurons, named_sets, neuron_set
from tl_taskneurons.neurons.interventions import deactivate
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.cleanup import Undo
from tl_taskneurons.runtime.errors import (
    InputError,
    MissingFileError,
    MissingPackageError,
    OutOfReachError,
)
from tl_taskneurons.runtime.options import require_kind, require_number

# The seeds are those of demonstrations; nobody's random numbers are touched.
_UNSEEDED: dict[str, Any] = {
    "random_seed": None, "numpy_random_seed": None, "torch_random_seed": None,
}  # fmt: skip


@runtime_checkable
class Applicable(Protocol):
    """What gives a model other weights for a while: every delta."""

    @property
    def name(self) -> str:
        """For tables."""
        ...

    def applied(self, model: Any) -> AbstractContextManager[None]:
        """The context in which the model has them."""
        ...


def lm_eval(
    model: LanguageModel,
    tasks: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
    *,
    neurons: Neurons | Mapping[str, NeuronSet] | None = None,
    delta: Applicable | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    include_path: str | os.PathLike[str] | None = None,
    bos: bool = True,
) -> pd.DataFrame:
    """Run tasks of EleutherAI's harness on a model as it is, and silenced or trained.

    The harness words the prompts and judges the answers; this library runs the model, so it works
    for both model classes and inside other interventions. Needs the extra ``evals``.

    Args:
        model: a HookedTransformer or TransformerBridge with a tokenizer.
        tasks: the harness's names of tasks, groups and tags, or configurations as dicts; one or
            several.
        neurons: silence these as well; several sets by name, one after another.
        delta: give the model these trained weights as well.
        limit: the first examples of each task only.
        num_fewshot: demonstrations, in place of each task's own number.
        include_path: a folder of task configurations (YAML) of your own.
        bos: put the tokenizer's BOS in front, as everything in this library does. The harness's
            own class does what the tokenizer does, so its numbers may differ.

    Returns:
        One row per condition, task and metric: ``condition`` (``"as it is"``, ``"silenced NAME"``,
        ``"trained NAME"``), ``task, metric, filter, value, stderr, n``.

    Raises:
        ImportError: without ``lm_eval``.
        ValueError: for an unknown task (the nearest are named), neurons or a delta of another
            model, or a task that samples its answers.
        ConnectionError: a task's data can't be fetched.
    """
    require_number("limit", limit, whole=True, least=1)
    require_number("num_fewshot", num_fewshot, whole=True, least=0)
    require_kind("tasks", tasks, str | Iterable, "give names of the harness's tasks")
    require_kind("delta", delta, Applicable | None, "give a delta, as finetune returns")
    if include_path is not None:
        require_kind("include_path", include_path, str | os.PathLike, "give a folder")
        if not Path(include_path).is_dir():
            raise MissingFileError(
                f"include_path is {str(include_path)!r}, which is no folder here; give one with "
                "YAML files of tasks."
            )
    try:
        from lm_eval import evaluator

        from tl_taskneurons.evaluation.harness_model import HarnessModel
    except ImportError as error:
        raise MissingPackageError(
            "lm_eval needs the evaluation harness; install it with pip install "
            "'tl-taskneurons[evals]'"
        ) from error
    asked: list[Any] = [tasks] if isinstance(tasks, str | Mapping) else list(tasks)
    for one in asked:
        require_kind("a task", one, str | Mapping, "give its name, or its configuration as a dict")
    conditions = _conditions(model, neurons, delta)
    manager = _manager(asked, include_path)
    harness = HarnessModel(model, bos=bos)
    frames = []
    for name, opened in conditions.items():
        with opened, _one_process():
            try:
                found = evaluator.simple_evaluate(
                    harness, tasks=asked, num_fewshot=num_fewshot, limit=limit,
                    bootstrap_iters=1000, task_manager=manager, log_samples=False, **_UNSEEDED,
                )  # fmt: skip
            except (ConnectionError, FileNotFoundError) as error:
                raise OutOfReachError(
                    f"The data of {_listed(asked)} can't be read ({_first_line(error)}); connect "
                    "to the network, or name files of your own in the task's configuration."
                ) from error
        frames.append(_table(found or {}).assign(condition=name))
    table = pd.concat(frames, ignore_index=True)
    return table[["condition", *[column for column in table if column != "condition"]]]


def _conditions(
    model: LanguageModel, neurons: Any, delta: Applicable | None
) -> dict[str, AbstractContextManager[Any]]:
    """The contexts in which the tasks are run, by name."""
    model_view = view(model)
    conditions: dict[str, AbstractContextManager[Any]] = {"as it is": nullcontext()}
    if neurons is not None:
        sets = named_sets(neurons) if isinstance(neurons, Mapping) else {"": neurons}
        for name, given in sets.items():
            one = neuron_set(model_view, given)
            conditions[f"silenced {name or one.name}".strip()] = deactivate(model, one)
    if delta is not None:
        conditions[f"trained {delta.name}".strip()] = delta.applied(model)
    return conditions


def _manager(asked: Sequence[Any], include_path: str | os.PathLike[str] | None) -> Any:
    """The tasks that the harness knows; its own are looked through only where they are needed."""
    from lm_eval.tasks import TaskManager

    if not asked:
        raise InputError("There are no tasks; give at least one name of the harness's.")
    own = None if include_path is None else os.fspath(include_path)
    names = [name for name in asked if isinstance(name, str)]
    manager = TaskManager(include_path=own, include_defaults=False)
    if set(names) - set(manager.all_tasks):
        manager = TaskManager(include_path=own)
    for name in names:
        if name in manager.all_tasks or os.path.isfile(name):  # noqa: PTH113 (a name, mostly)
            continue
        near = difflib.get_close_matches(name, manager.all_tasks, n=3, cutoff=0.5)
        raise InputError(
            f"The harness has no task {name!r}"
            + (f"; did you mean {', '.join(map(repr, near))}? " if near else ". ")
            + "Put configurations of your own into a folder and name it by include_path."
        )
    return manager


@contextmanager
def _one_process() -> Iterator[None]:
    """Have the harness take its intervals in this process; its pool would fork a loaded model."""
    name = "DISABLE_MULTIPROC"
    before = os.environ.get(name)
    with Undo() as undo:
        if before is None:
            undo.add(os.environ.pop, name, None)
        else:
            undo.add(os.environ.__setitem__, name, before)
        os.environ[name] = "1"
        yield


def _table(found: Mapping[str, Any]) -> pd.DataFrame:
    rows = []
    for task, measured in found.get("results", {}).items():
        n = found.get("n-samples", {}).get(task, {}).get("effective")
        for key, value in measured.items():
            metric, comma, way = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = measured.get(f"{metric}_stderr,{way}")
            stderr = float(error) if isinstance(error, int | float) else float("nan")
            rows.append((task, metric, way, float(value), stderr, n))
    return pd.DataFrame(rows, columns=["task", "metric", "filter", "value", "stderr", "n"])


def _listed(asked: Sequence[Any]) -> str:
    return ", ".join(
        str(one.get("task", one)) if isinstance(one, Mapping) else one for one in asked
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
