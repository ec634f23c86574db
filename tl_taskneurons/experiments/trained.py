"""What the training experiments share: the sizes, one training with its tests, and its summaries.

A cell is one training (some neurons, some tasks, a seed) and the tests after it. Every cell is a
unit of the run folder, so a stopped experiment goes on at the cell where it was stopped.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from tl_taskneurons.attribution import score_neurons
from tl_taskneurons.evaluation import evaluate_items
from tl_taskneurons.loading import load_model
from tl_taskneurons.model import view
from tl_taskneurons.neurons import NeuronScores, NeuronSet
from tl_taskneurons.progress import Progress
from tl_taskneurons.prompts import Prompt
from tl_taskneurons.results import RunFolder, write_table
from tl_taskneurons.summaries import bootstrap
from tl_taskneurons.task_sources import load_tasks
from tl_taskneurons.tasks import Task, Tasks
from tl_taskneurons.training import finetune
from tl_taskneurons.training_loop import Training

LEARNING_RATES = (1e-3, 3e-3, 1e-2, 3e-2)


@dataclass(frozen=True)
class Plan:
    """The sizes of an experiment.

    Attributes:
        fraction: share of the neurons that are a task's (the paper takes 0.10).
        seeds: of the order of examples, and of random neurons.
        steps: updates for each training task.
        batch_size: examples of an update.
        lr: AdamW's highest learning rate.
        n_detect: train examples per task that neurons are scored on.
        n_train: train examples per task to learn from.
        n_test: test examples per task.
        shots: demonstrations in a prompt.
    """

    fraction: float = 0.10
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 60
    batch_size: int = 16
    lr: float = 1e-2
    n_detect: int = 100
    n_train: int = 1000
    n_test: int = 60
    shots: int = 0

    @property
    def prompt(self) -> Prompt:
        """The form of the prompts."""
        return Prompt(shots=self.shots)

    def training(self, seed: int, tasks: int = 1) -> Training:
        """How to train on so many tasks together: as many updates for each of them."""
        return Training(lr=self.lr, steps=self.steps * tasks, batch_size=self.batch_size, seed=seed)


@dataclass(frozen=True)
class Experiment:
    """A model, tasks, sizes and the folder that results go to.

    Attributes:
        model: a HookedTransformer or TransformerBridge.
        tasks: all tasks that are trained or tested.
        plan: the sizes.
        folder: the run folder.
        shown: whether progress is shown.
    """

    model: Any
    tasks: Tasks
    plan: Plan
    folder: RunFolder
    shown: bool = False

    def scores(self) -> dict[str, NeuronScores]:
        """Score neurons of the base model on each task, or read the stored scores."""
        found = {}
        for task in self.tasks:
            path = self.folder.file("scores", f"{task.name}.safetensors")
            if not path.exists():
                score_neurons(
                    self.model, task, prompt=self.plan.prompt, limit=self.plan.n_detect
                ).save(path)
            found[task.name] = NeuronScores.load(path)
        return found

    def plain(self) -> pd.DataFrame:
        """The base model's answers on every task."""
        return self.folder.unit("plain", lambda: self._test(self.tasks.names))

    def cell(
        self,
        name: str,
        neurons: NeuronSet,
        trained: Sequence[str],
        tested: Sequence[str],
        seed: int,
    ) -> pd.DataFrame:
        """Train neurons on tasks and test: the rows of ``evaluate_items`` for the tested tasks."""

        def compute() -> pd.DataFrame:
            delta = finetune(
                self.model, [self.tasks[task] for task in trained], neurons,
                self.plan.training(seed, len(trained)), prompt=self.plan.prompt,
                limit=self.plan.n_train,
            )  # fmt: skip
            with delta.applied(self.model):
                return self._test(tested)

        return self.folder.unit(name, compute).assign(seed=seed)

    def over(self, title: str, cells: Sequence[Callable[[], pd.DataFrame]]) -> pd.DataFrame:
        """Compute cells one after another and put their rows together."""
        frames = [cell() for cell in Progress(title, shown=self.shown).over(cells)]
        return pd.concat(frames, ignore_index=True)

    def _test(self, tested: Sequence[str]) -> pd.DataFrame:
        frames = [
            evaluate_items(
                self.model, self.tasks[name], prompt=self.plan.prompt, limit=self.plan.n_test
            )
            for name in tested
        ]
        return pd.concat(frames, ignore_index=True)


def union_scores(scores: Mapping[str, NeuronScores], names: Sequence[str]) -> NeuronScores:
    """Scores of several tasks together: each task's scores divided by their sum, then averaged."""
    values = torch.stack([scores[name].values / scores[name].values.sum() for name in names])
    return replace(scores[names[0]], values=values.mean(0), name="+".join(names))


def seed_rows(items: pd.DataFrame, column: str = "score") -> np.ndarray:
    """One task's values as ``[seeds, items]``."""
    return items.pivot(index="seed", columns="item", values=column).to_numpy()


def interval(items: pd.DataFrame, column: str = "score") -> dict[str, float]:
    """Mean over seeds, tasks and items with its 95% bootstrap interval.

    Seeds and items are resampled; tasks count alike and are all kept.
    """
    per_task = [seed_rows(group, column) for _, group in items.groupby("task")]
    width = min(rows.shape[1] for rows in per_task)
    joined = np.mean([rows[:, :width] for rows in per_task], axis=0)
    low, high = bootstrap(joined)
    return {"score": float(np.mean([rows.mean() for rows in per_task])), "low": low, "high": high}


def groups_of(tasks: Tasks) -> dict[str, dict[str, tuple[str, ...]]]:
    """The paper's groups: of every family its first task is trained, its second is the sibling.

    Returns:
        ``{"CLS": {"train": ..., "test": ...}, "GEN": ...}``, classification and generation; a
        group without a family of two is left out.

    Raises:
        ValueError: when no family has two tasks.
    """
    families: dict[str, list[Task]] = {}
    for task in tasks:
        families.setdefault(task.family, []).append(task)
    groups: dict[str, dict[str, list[str]]] = {}
    for members in families.values():
        if len(members) >= 2:
            kind = "CLS" if members[0].is_classification else "GEN"
            group = groups.setdefault(kind, {"train": [], "test": []})
            group["train"].append(members[0].name)
            group["test"].append(members[1].name)
    if not groups:
        raise ValueError(
            f"No two of the tasks {list(tasks.names)} are of one family; transfer between siblings "
            "needs pairs such as mini_food and mini_film."
        )
    return {
        kind: {side: tuple(names) for side, names in group.items()}
        for kind, group in groups.items()
    }


def choose_lr(experiment: Experiment, neurons: Mapping[str, NeuronSet]) -> float:
    """Choose the learning rate on held-out training examples, for task and random neurons alike.

    One quarter of the training examples of the first classification and the first generation task
    is held out; the rate with the lowest mean loss there wins. Test examples are never seen.
    """
    firsts = {task.is_classification: task for task in reversed(experiment.tasks)}
    frame = experiment.folder.unit(
        "choose_lr",
        lambda: pd.DataFrame(
            [
                {"task": task.name, "lr": lr, "neurons": kind,
                 "loss": _held_out_loss(experiment, task, chosen, lr)}
                for task in firsts.values()
                for lr in LEARNING_RATES
                for kind, chosen in (
                    ("task", neurons[task.name]), ("random", neurons[task.name].random_like(0)),
                )
            ]
        ),
    )  # fmt: skip
    means = frame.groupby("lr", as_index=False)["loss"].mean()
    return float(means["lr"].to_numpy()[means["loss"].to_numpy().argmin()])


def _held_out_loss(experiment: Experiment, task: Task, neurons: NeuronSet, lr: float) -> float:
    training = replace(
        experiment.plan.training(0), lr=lr, validation=0.25,
        evaluate_every=experiment.plan.steps,
    )  # fmt: skip
    delta = finetune(
        experiment.model, task, neurons, training, prompt=experiment.plan.prompt,
        limit=4 * experiment.plan.n_test,
    )  # fmt: skip
    return float(delta.history["validation_loss"].iloc[-1])


def open_experiment(
    name: str, document: str | None, arguments: Sequence[str] | None = None, **defaults: Any
) -> tuple[Experiment, argparse.Namespace]:
    """Read the command line of a training experiment and open its folder.

    Args:
        name: of the experiment; its folder is ``runs/{name}`` by default.
        document: the help text.
        arguments: the command line; None takes the process's.
        **defaults: sizes that differ from ``Plan``'s.
    """
    plan = Plan(**defaults)
    parser = argparse.ArgumentParser(
        description=document, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini-llama-base", help="name, hub id or folder")
    parser.add_argument("--data", default="mini", help="source of the tasks, see load_tasks")
    parser.add_argument("--tasks", help="comma-separated names (default: all of the source)")
    parser.add_argument("--out", default=f"runs/{name}", help="a stopped run goes on there")
    parser.add_argument("--csv", type=Path, help="also write the table here")
    parser.add_argument("--fraction", type=float, default=plan.fraction)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(plan.seeds))
    parser.add_argument("--steps", type=int, default=plan.steps, help="updates per training task")
    parser.add_argument("--batch-size", type=int, default=plan.batch_size)
    parser.add_argument("--lr", type=float, help="default: chosen on held-out train examples")
    parser.add_argument("--detect", type=int, default=plan.n_detect, help="train examples per task")
    parser.add_argument("--train", type=int, default=plan.n_train, help="train examples per task")
    parser.add_argument("--test", type=int, default=plan.n_test, help="test examples per task")
    parser.add_argument("--shots", type=int, default=plan.shots)
    given = parser.parse_args(arguments)
    plan = Plan(
        fraction=given.fraction, seeds=tuple(given.seeds), steps=given.steps,
        batch_size=given.batch_size, lr=given.lr or plan.lr, n_detect=given.detect,
        n_train=given.train, n_test=given.test, shots=given.shots,
    )  # fmt: skip
    tasks = load_tasks(given.data, given.tasks.split(",") if given.tasks else None)
    model = load_model(given.model)
    stated = {key: value for key, value in vars(given).items() if key not in ("out", "data", "csv")}
    folder = RunFolder.open(Path(given.out), {"experiment": name, **stated})
    folder.confirm(fingerprint=view(model).fingerprint)
    experiment = Experiment(model, tasks, plan, folder, shown=True)
    if given.lr is None:
        sets = {
            task: scores.top(fraction=plan.fraction) for task, scores in experiment.scores().items()
        }
        plan = replace(plan, lr=choose_lr(experiment, sets))
        experiment = replace(experiment, plan=plan)
    return experiment, given


def publish(experiment: Experiment, given: argparse.Namespace, **tables: pd.DataFrame) -> None:
    """Write the tables into the folder, and the first one to ``--csv``; close the run."""
    with experiment.folder as folder:
        for place, (name, table) in enumerate(tables.items()):
            stamped = table.assign(
                model=given.model, lr=experiment.plan.lr, seeds=len(experiment.plan.seeds)
            )
            write_table(folder.file(f"{name}.parquet"), stamped)
            if given.csv is not None:
                path = given.csv if place == 0 else given.csv.with_stem(f"{given.csv.stem}_{name}")
                stamped.round(4).to_csv(path, index=False)
        folder.finish()
