"""Table 1 beyond the paper: shares of neurons, selections, and what silencing sets them to.

Original, random neurons silenced, task neurons silenced; it sets plain top-k (what a task can't do
without) beside a contrastive selection (what it alone needs), silences to zero and to the mean, and
reports specificity. The contrastive selection, unless given, is chosen on held-out train examples,
never on the test split.

    python -m tl_taskneurons.experiments.studies.selections --data DATA_FOLDER --out runs/table1
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from tl_taskneurons.evaluation.deactivation import (
    Condition,
    conditions,
    deactivation_items,
    evaluate_condition,
)
from tl_taskneurons.evaluation.tables import deactivation_matrix, deactivation_table
from tl_taskneurons.loading.models import load_model
from tl_taskneurons.loading.tasks import load_tasks
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.attribution import activation_mean, score_neurons
from tl_taskneurons.neurons.methods import SELECTIONS
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.selection import select
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.progress import Progress
from tl_taskneurons.runtime.run_folder import RunFolder
from tl_taskneurons.runtime.table_files import stamp, write_table
from tl_taskneurons.tasks.prompts import Prompt
from tl_taskneurons.tasks.task import Task, Tasks

TASKS = "sst2,agnews,rte,country_capital,antonym,present_past"
ABLATIONS: tuple[str, ...] = ("zero", "mean")


@dataclass(frozen=True)
class Plan:
    """The sizes of the experiment.

    Attributes:
        shots: demonstrations in a prompt.
        n_detect: train examples per task that neurons are scored on.
        n_choose: further train examples per task on which the contrastive selection is chosen.
        n_test: test examples of the silenced task (and of each task in the plain model).
        n_others: test examples of each other task, for specificity.
        controls: random controls per set.
        fractions: shares of neurons, in (0, 1].
        ablations: what silenced neurons are set to.
        max_new_tokens: the longest generated answer of tasks that are judged by ROUGE-L.
        contrast: the contrastive selection; if empty, it is chosen.
    """

    shots: int = 2
    n_detect: int = 24
    n_choose: int = 6
    n_test: int = 24
    n_others: int = 8
    controls: int = 5
    fractions: tuple[float, ...] = (0.01, 0.05, 0.10)
    ablations: tuple[str, ...] = ABLATIONS
    max_new_tokens: int = 64
    contrast: str = ""

    @property
    def prompt(self) -> Prompt:
        """The form of the prompts."""
        return Prompt(shots=self.shots)


@dataclass(frozen=True)
class Cell:
    """One state of the model in one part of the table."""

    ablation: str
    fraction: float
    selection: str
    condition: Condition

    @property
    def unit(self) -> str:
        """The name of the unit of work."""
        at = self.condition
        if at.kind == "none":
            return "test/plain"
        return (
            f"test/{self.ablation}-{self.fraction:g}-{self.selection}/"
            f"{at.silenced}-{at.kind}{at.seed if at.kind == 'random' else ''}"
        )


def run(
    model: LanguageModel, tasks: Tasks, folder: RunFolder, plan: Plan, progress: bool
) -> pd.DataFrame:
    """Compute what the folder lacks; return one row per example, condition and cell."""
    scores = detect(model, tasks, folder, plan)
    means = _means(model, tasks, plan)
    best = plan.contrast or best_contrast(choose(model, tasks, scores, folder, plan))
    cells = [
        Cell(ablation, fraction, selection, condition)
        for ablation in plan.ablations
        for fraction in plan.fractions
        for selection in ("plain", best)
        for condition in conditions(select(scores, selection, fraction), controls=plan.controls)
    ]
    frames = []
    for cell in Progress("table 1", shown=progress).over(cells):

        def compute(cell: Cell = cell) -> pd.DataFrame:
            return evaluate_condition(
                model, tasks, cell.condition, ablation=cell.ablation,
                means=means if cell.ablation == "mean" else None,
                prompt=plan.prompt, limit=plan.n_test, limit_others=plan.n_others,
                share_prefix=True, max_new_tokens=plan.max_new_tokens,
            )  # fmt: skip

        frame = folder.unit(cell.unit, compute)
        frames.append(
            frame.assign(ablation=cell.ablation, fraction=cell.fraction, selection=cell.selection)
        )
    return pd.concat(frames, ignore_index=True)


def tables(items: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the table (original, random, task, specificity) and the task x task matrix."""
    table, matrix = [], []
    for key, group in items.groupby(["ablation", "fraction", "selection"], sort=False):
        columns = dict(zip(("ablation", "fraction", "selection"), key, strict=True))
        table.append(stamp(deactivation_table(group), **columns))
        matrix.append(stamp(deactivation_matrix(group), **columns))
    return pd.concat(table, ignore_index=True), pd.concat(matrix, ignore_index=True)


def detect(
    model: LanguageModel, tasks: Tasks, folder: RunFolder, plan: Plan
) -> dict[str, NeuronScores]:
    """Score neurons on the first train examples of each task, or read the stored scores."""
    scores = {}
    for task in tasks:
        path = folder.file("scores", f"{task.name}.safetensors")
        if not path.exists():
            found = score_neurons(model, task, prompt=plan.prompt, limit=plan.n_detect)
            found.save(path)
        scores[task.name] = NeuronScores.load(path)
    return scores


def choose(
    model: LanguageModel,
    tasks: Tasks,
    scores: Mapping[str, NeuronScores],
    folder: RunFolder,
    plan: Plan,
) -> pd.DataFrame:
    """Compare the contrastive selections at the smallest share on held-out train examples.

    Returns:
        The rows of ``deactivation_table`` with a column ``selection``.
    """
    held_out = Tasks([_held_out(task, plan) for task in tasks])
    frames = []
    methods = {"", *(own.method for own in scores.values())}
    for selection in (name for name, choice in SELECTIONS.items() if choice.reads in methods):
        sets = select(scores, selection, min(plan.fractions))

        def compute(sets: Any = sets) -> pd.DataFrame:
            return deactivation_items(
                model, held_out, sets, controls=0, prompt=plan.prompt, share_prefix=True,
                max_new_tokens=plan.max_new_tokens,
            )  # fmt: skip

        items = folder.unit(f"choose/{selection}", compute)
        frames.append(stamp(deactivation_table(items), selection=selection))
    return pd.concat(frames, ignore_index=True)


def best_contrast(choice: pd.DataFrame) -> str:
    """Return the contrastive selection of highest mean loss specificity over tasks."""
    contrastive = choice[choice["selection"] != "plain"]
    return str(contrastive.groupby("selection")["loss_specificity"].mean().idxmax())


def _held_out(task: Task, plan: Plan) -> Task:
    """Make the train examples after those used for detection the test split."""
    rest = task.train[plan.n_detect : plan.n_detect + plan.n_choose]
    if not rest:
        raise InputError(
            f"Task {task.name!r} has {len(task.train)} train examples; choosing a selection needs "
            f"more than the {plan.n_detect} used for detection. Lower --detect."
        )
    # The loss alone decides, so nothing need be generated.
    return replace(task, test=rest, metric="loss" if task.metric == "rougeL" else task.metric)


def _means(model: LanguageModel, tasks: Tasks, plan: Plan) -> Tensor:
    """Mean activations over all tasks' prompts: what a neuron does whatever the task."""
    per_task = [
        activation_mean(model, task, prompt=plan.prompt, limit=plan.n_choose) for task in tasks
    ]
    return torch.stack(per_task).mean(0)


def main(arguments: list[str] | None = None) -> None:
    """Run the experiment from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    plan = Plan()
    parser.add_argument("--model", default="smollm2-135m", help="name, hub id or folder")
    parser.add_argument("--data", default="builtin", help="source of the tasks, see load_tasks")
    parser.add_argument("--tasks", default=TASKS, help="comma-separated names, or all")
    parser.add_argument("--out", default="runs/table1", help="folder; a stopped run goes on there")
    parser.add_argument("--detect", type=int, default=plan.n_detect, help="train examples per task")
    parser.add_argument("--choose", type=int, default=plan.n_choose, help="held-out train examples")
    parser.add_argument("--test", type=int, default=plan.n_test, help="test examples per task")
    parser.add_argument("--others", type=int, default=plan.n_others, help="of each other task")
    parser.add_argument("--controls", type=int, default=plan.controls)
    parser.add_argument("--shots", type=int, default=plan.shots)
    parser.add_argument("--fractions", nargs="+", type=float, default=list(plan.fractions))
    parser.add_argument("--ablations", nargs="+", choices=ABLATIONS, default=list(ABLATIONS))
    parser.add_argument("--max-new-tokens", type=int, default=plan.max_new_tokens)
    parser.add_argument(
        "--contrast", default=plan.contrast, choices=[*SELECTIONS][1:],
        help="the contrastive selection (default: the best on held-out train examples)",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    plan = Plan(
        given.shots, given.detect, given.choose, given.test, given.others, given.controls,
        fractions=tuple(given.fractions), ablations=tuple(given.ablations),
        max_new_tokens=given.max_new_tokens, contrast=given.contrast,
    )  # fmt: skip
    tasks = load_tasks(given.data, None if given.tasks == "all" else given.tasks.split(","))
    model = load_model(given.model)
    stated = {key: value for key, value in vars(given).items() if key not in ("out", "data")}
    with RunFolder.open(Path(given.out), stated, kind="selections") as folder:
        folder.confirm(fingerprint=view(model).fingerprint)
        items = run(model, tasks, folder, plan, progress=True)
        table, matrix = tables(items)
        write_table(folder.file("items.parquet"), stamp(items, model=given.model))
        write_table(folder.file("table.parquet"), stamp(table, model=given.model))
        write_table(folder.file("matrix.parquet"), stamp(matrix, model=given.model))
        folder.finish()


if __name__ == "__main__":
    main()
