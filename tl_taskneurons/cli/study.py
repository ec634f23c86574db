"""The way from a model and tasks to tables and figures on disk; command line and demo share it."""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from tl_taskneurons.analysis.reliability import halves_of, reliability_of
from tl_taskneurons.cli.question import require_silencing
from tl_taskneurons.cli.settings import Settings
from tl_taskneurons.evaluation.deactivation import conditions, evaluate_condition
from tl_taskneurons.evaluation.tables import deactivation_matrix, deactivation_table
from tl_taskneurons.loading.models import load_model
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import ModelView, require_same_model, view
from tl_taskneurons.neurons.attribution import activation_mean, score_neurons
from tl_taskneurons.neurons.methods import METHODS
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.selection import layer_table, select
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.progress import Progress
from tl_taskneurons.runtime.roles import current_role
from tl_taskneurons.runtime.run_folder import RunFolder, file_name
from tl_taskneurons.runtime.table_files import stamp, write_table
from tl_taskneurons.runtime.tensor_files import load_tensor, save_tensor
from tl_taskneurons.tasks.task import Task, Tasks, tasks_digest

_HALVES = "HalfScores"
_MOST_BYTES = 2**29


@dataclass(frozen=True)
class Study:
    """A model, tasks and settings at work in a run folder.

    Attributes:
        run: the folder.
        model: a HookedTransformer or TransformerBridge.
        tasks: the tasks.
        settings: how neurons are found and judged.
        progress: show progress bars.
    """

    run: RunFolder
    model: LanguageModel
    tasks: Tasks
    settings: Settings
    progress: bool = False

    def __post_init__(self) -> None:
        """Note which model and tasks these are; refuse others than in an earlier call."""
        self.run.confirm(
            fingerprint=self.view.fingerprint, tasks_digest=tasks_digest(self.tasks),
            device=str(self.view.device),
        )  # fmt: skip

    @property
    def view(self) -> ModelView:
        """The model's neurons."""
        return view(self.model)

    def columns(self) -> dict[str, Any]:
        """Return the columns that every table carries."""
        return {
            "model": self.view.name, "fingerprint": self.view.fingerprint,
            "method": self.settings.method, "fraction": self.settings.fraction,
        }  # fmt: skip


@contextmanager
def open_study(
    settings: Settings, out: str | os.PathLike[str], *, deactivating: bool, progress: bool = False
) -> Iterator[Study]:
    """Load tasks and model and hold a run folder, so that a stopped run goes on where it stopped.

    Args:
        settings: how neurons are found and judged.
        out: the folder; see ``RunFolder.open`` for what it refuses.
        deactivating: whether the settings of the evaluation count, too.
        progress: show progress bars.
    """
    if deactivating:
        require_silencing(settings.ablation)
    tasks = settings.read()  # cheap and often wrong: before the model
    arguments = settings.arguments(deactivate=deactivating)
    with RunFolder.open(out, arguments, kind="detect/deactivate") as run:
        model = load_model(
            settings.model, kind=settings.kind, dtype=settings.dtype, device=settings.device
        )
        yield Study(run, model, tasks, settings, progress)


def detect(study: Study) -> dict[str, dict[str, NeuronSet]]:
    """Find each task's neurons, by every selection of the settings.

    Writes ``scores/TASK.safetensors`` (at once, and reused when there), ``sets/SELECTION/TASK
    .safetensors``, ``neurons.parquet`` (one row per selected neuron) and ``layers.parquet`` (one
    row per layer: count, share of the set, share of the task's total score, and the set's
    split-half reliability, from ``scores/halves``).

    Returns:
        Selection to task name to neurons.
    """
    settings = study.settings
    scores = {task.name: score_task(study, task) for task in study.tasks}
    halves = _halves(study)
    sets = {
        name: _selected(scores, halves, name, settings.fraction) for name in settings.selections
    }
    neurons, layers = [], []
    for selection, chosen in sets.items():
        for task, members in chosen.items():
            members.save(study.run.file("sets", selection, f"{file_name(task)}.safetensors"))
            labels = {"task": task, "selection": selection}
            frame = members.to_frame()
            values = scores[task].values
            frame["score"] = values[members.mask].numpy()
            neurons.append(frame.assign(**labels))
        table = layer_table(scores, chosen).assign(selection=selection)
        if halves:
            told = {task: members.info["split_half"] for task, members in chosen.items()}
            table["split_half"] = table["task"].map(told)
        layers.append(table)
    common = {**study.columns(), "seed": settings.seed}
    for name, frames in (("neurons", neurons), ("layers", layers)):
        table = stamp(pd.concat(frames, ignore_index=True), **common)
        write_table(study.run.file(f"{name}.parquet"), table)
    return sets


def deactivate(
    study: Study, sets: Mapping[str, Mapping[str, NeuronSet]]
) -> dict[str, pd.DataFrame]:
    """Silence each set, and random controls, and evaluate all tasks.

    Every condition is a unit of the run: written at once, not computed again. Writes
    ``deactivation_items.parquet``, ``deactivation_table.parquet``, ``deactivation_matrix.parquet``.
    In the items ``seed`` is the control's seed (-1 where there is none) and ``run_seed`` the run's.

    Returns:
        ``"items"``, ``"table"`` and ``"matrix"``.
    """
    settings = study.settings
    means = _means(study) if settings.ablation == "mean" else None
    work = [
        (selection, condition)
        for selection, chosen in sets.items()
        for condition in conditions(chosen, controls=settings.controls)
    ]
    frames: dict[str, list[pd.DataFrame]] = {selection: [] for selection in sets}
    for selection, condition in Progress("deactivate", shown=study.progress).over(work):
        # The plain model is the same whatever is selected.
        unit = "original"
        if condition.kind != "none":
            seed = f"-{condition.seed}" if condition.kind == "random" else ""
            unit = f"{selection}/{condition.kind}-{file_name(condition.silenced)}{seed}"
        frame = study.run.unit(
            unit,
            lambda condition=condition: evaluate_condition(
                study.model, study.tasks, condition, ablation=settings.ablation, means=means,  # pyright: ignore[reportArgumentType]
                positions=settings.place,
                prompt=settings.prompt, limit=settings.test_limit, share_prefix=True,
                max_new_tokens=settings.max_new_tokens,
            ),
        )  # fmt: skip
        frames[selection].append(frame.assign(selection=selection))
    parts: dict[str, list[pd.DataFrame]] = {"items": [], "table": [], "matrix": []}
    for selection, listed in frames.items():
        items = pd.concat(listed, ignore_index=True)
        common = {**study.columns(), "selection": selection, "ablation": settings.ablation}
        parts["items"].append(stamp(items, **common, run_seed=settings.seed))
        for name, summary in (("table", deactivation_table), ("matrix", deactivation_matrix)):
            frame = summary(items)
            parts[name].append(stamp(frame, **common, seed=settings.seed))
    tables = {name: pd.concat(listed, ignore_index=True) for name, listed in parts.items()}
    for name, table in tables.items():
        write_table(study.run.file(f"deactivation_{name}.parquet"), table)
    return tables


def score_task(study: Study, task: Task) -> NeuronScores:
    """Score one task, or read its scores from the run; see ``detect``."""
    file = study.run.file("scores", f"{file_name(task.name)}.safetensors")
    if not file.exists():
        settings = study.settings
        found = score_neurons(
            study.model, task, settings.method, prompt=settings.prompt, limit=settings.limit,
            seed=settings.seed, progress=study.progress, per_example=_keeps_examples(study, task),
            **settings.scoring(settings.method),
        )  # fmt: skip
        if found.examples is not None:  # before the scores: where these are, the halves are too
            save_tensor(_halves_file(study, task), _HALVES, halves_of(found), {"task": task.name})
        found.save(file)
    current_role().wait()
    scores = NeuronScores.load(file)
    require_same_model(repr(scores), scores.fingerprint, study.view)
    return scores


def _keeps_examples(study: Study, task: Task) -> bool:
    """Whether each example's scores are kept for the reliability of sets; they take memory."""
    limit = study.settings.limit or len(task.train)
    n_examples = min(limit, len(task.train))
    scored = math.prod(study.view.shape) * n_examples * 4
    method = METHODS.find(study.settings.method)
    return method.data and not method.whole and n_examples > 1 and scored <= _MOST_BYTES


def _halves_file(study: Study, task: Task) -> Path:
    return study.run.file("scores", "halves", f"{file_name(task.name)}.safetensors")


def _halves(study: Study) -> dict[str, Tensor]:
    """Each task's scores on halves of its examples; nothing where a task has none."""
    files = {task.name: _halves_file(study, task) for task in study.tasks}
    if not all(file.exists() for file in files.values()):
        return {}
    return {name: load_tensor(file, _HALVES)[0] for name, file in files.items()}


def _selected(
    scores: Mapping[str, NeuronScores],
    halves: Mapping[str, Tensor],
    selection: str,
    fraction: float,
) -> dict[str, NeuronSet]:
    """Select sets, which know their split-half reliability where it can be told."""
    sets = select(scores, selection, fraction)
    if not halves:
        return sets
    shares = reliability_of(halves, scores, selection, fraction)
    return {
        name: replace(chosen, info={**chosen.info, "split_half": shares[name]})
        for name, chosen in sets.items()
    }


def _means(study: Study) -> Tensor:
    """Each neuron's mean activation over the train examples of all tasks, every task alike."""
    file = study.run.file("activation_means.safetensors")
    if not file.exists():
        settings = study.settings
        with Progress("means", shown=study.progress) as bar:
            per_task = [
                activation_mean(study.model, task, prompt=settings.prompt, limit=settings.limit)
                for task in bar.track(study.tasks)
            ]
        save_tensor(
            file,
            "ActivationMeans",
            torch.stack(per_task).mean(0),
            {"tasks": list(study.tasks.names)},
        )
    current_role().wait()
    return load_tensor(file, "ActivationMeans")[0]
