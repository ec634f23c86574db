"""What stages leave behind and how tasks are answered after them, found by all that decides it."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from tl_taskneurons.continual.learners import History, Learner, Setting, StageResult
from tl_taskneurons.runtime.memory import peak_of_process
from tl_taskneurons.runtime.options import plain
from tl_taskneurons.runtime.run_folder import file_name
from tl_taskneurons.runtime.stored import stored
from tl_taskneurons.runtime.table_files import read_json, read_table, write_json, write_table
from tl_taskneurons.runtime.tensor_files import load_tensor, save_tensor
from tl_taskneurons.tasks.task import Task, tasks_digest
from tl_taskneurons.training.deltas import load_delta


class StageStore:
    """Trains stages and keeps what they leave, in memory, and in a folder where one is given.

    It keeps tasks' answers in states that methods or stages have in common likewise.

    A folder may be shared by sequences of other orders, methods and learning rates: a stage is
    found by its model, learner, settings and the training examples of its tasks, and nothing else.

    Args:
        folder: where to keep them; None is memory alone.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._known: dict[str, StageResult] = {}
        self._answers: dict[str, pd.DataFrame] = {}

    def learn(self, setting: Setting, learner: Learner, history: History, name: str) -> StageResult:
        """Return what a task's stage learns after the given ones; train it where it is unknown."""
        key = _key(setting, learner, history, name)

        def compute() -> StageResult:
            return _measured(setting, learner, history, name)

        if key not in self._known:
            result = (
                compute()
                if self._folder is None
                else stored(
                    self._folder / f"{file_name(name)}-{key}" / "piece.json", compute,
                    load=load_stage, save=save_stage,
                )
            )  # fmt: skip
            self._known[key] = replace(result, key=key)
        return self._known[key]

    def answers(
        self, setting: Setting, state: str, task: Task, compute: Callable[[], pd.DataFrame]
    ) -> pd.DataFrame:
        """Return the items of a task in a named state; compute them where they are unknown."""
        key = _digest([state, asdict(setting.prompt), tasks_digest([task])])
        if key not in self._answers:
            self._answers[key] = (
                compute()
                if self._folder is None
                else stored(
                    self._folder / "answers" / f"{file_name(task.name)}-{key}.parquet", compute,
                    load=read_table, save=write_table,
                )
            )  # fmt: skip
        return self._answers[key]


def _measured(setting: Setting, learner: Learner, history: History, name: str) -> StageResult:
    start = time.perf_counter()
    with peak_of_process(setting.view.device) as peak:
        result = learner.learn(setting, history, setting.tasks[name])
    return replace(result, seconds=time.perf_counter() - start, peak_mib=peak.mib)


def save_stage(path: Path, result: StageResult) -> None:
    """Write what a stage left; ``path``, its JSON file, comes last and says that all is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    result.delta.save(path.with_name("delta.safetensors"))
    if result.relevance is not None:
        save_tensor(path.with_name("relevance.safetensors"), "Relevance", result.relevance, {})
    facts = {
        "task": result.task, "kind": type(result.delta).__name__, "seconds": result.seconds,
        "peak_mib": result.peak_mib,
    }  # fmt: skip
    write_json(path, facts)


def load_stage(path: Path) -> StageResult:
    """Read what ``save_stage`` wrote.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: for a damaged file.
    """
    facts = read_json(path)
    delta = load_delta(path.with_name("delta.safetensors"))
    scores = path.with_name("relevance.safetensors")
    relevance = load_tensor(scores, "Relevance")[0] if scores.exists() else None
    return StageResult(facts["task"], delta, relevance, facts["seconds"], facts["peak_mib"])


def _key(setting: Setting, learner: Learner, history: History, name: str) -> str:
    earlier = [result.task for result in history]
    tasks = [*earlier, name] if learner.ordered else sorted([*earlier, name])
    content: list[Any] = [
        setting.view.result_key, repr(learner if earlier else learner.first),
        asdict(setting.training), asdict(setting.prompt),
        tasks_digest([replace(setting.tasks[each], test=()) for each in tasks]),
    ]  # fmt: skip
    return _digest(content)


def _digest(content: list[Any]) -> str:
    return hashlib.sha256(json.dumps(plain(content)).encode()).hexdigest()[:16]
