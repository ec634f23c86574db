"""Which attribution method to trust: each is scored against neurons that were planted.

Models whose task neurons are known (``tl_taskneurons.builtin.planted``), gated and plain, with
growing noise in all weights and with growing overlap between the tasks. Each method takes as many
neurons as were planted, so that its precision and its recall are the same number.

    python -m tl_taskneurons.experiments.studies.planted --out runs/planted
"""

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch

from tl_taskneurons.builtin.planted import planted_model, precision_recall
from tl_taskneurons.evaluation.evaluate import evaluate
from tl_taskneurons.evaluation.statistics import mean_interval
from tl_taskneurons.loading.models import load_model
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.attribution import score_neurons
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.progress import Progress
from tl_taskneurons.runtime.run_folder import RunFolder
from tl_taskneurons.runtime.table_files import write_table
from tl_taskneurons.tasks.task import Task


@dataclass(frozen=True)
class Plan:
    """The sizes of the experiment.

    Attributes:
        noises: noise levels at no overlap; see ``planted_model``.
        overlaps: shares of a task's neurons that all tasks have in common, at ``some_noise``.
        some_noise: a level at which most planted neurons are still found.
        seeds: models for each point.
        tasks: tasks in a model.
        neurons: planted neurons of a task.
        n_layers: layers of a model.
        d_mlp: neurons in each layer.
        examples: train examples of a task that neurons are scored on.
    """

    noises: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.4)
    overlaps: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0)
    some_noise: float = 0.1
    seeds: int = 5
    tasks: int = 3
    neurons: int = 16
    n_layers: int = 2
    d_mlp: int = 96
    examples: int = 32

    def points(self) -> Iterator["Point"]:
        """Yield every model of the experiment once, seed by seed."""
        with_noise = [(noise, 0.0) for noise in self.noises]
        with_overlap = [(self.some_noise, overlap) for overlap in self.overlaps]
        for seed in range(self.seeds):
            for mlp in ("gated", "plain"):
                for noise, overlap in dict.fromkeys(with_noise + with_overlap):
                    yield Point(mlp, noise, overlap, seed)


COMPARED = (
    "grad_act", "grad_act_abs", "grad_act_mean", "integrated_gradients", "exact", "activation",
    "frequency", "weight_norm", "random",
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One planted model."""

    mlp: str
    noise: float
    overlap: float
    seed: int

    @property
    def unit(self) -> str:
        """The name of the unit of work."""
        return f"{self.mlp}-noise{self.noise:g}-overlap{self.overlap:g}-{self.seed}"


def score_methods(point: Point, plan: Plan) -> pd.DataFrame:
    """Plant a model and let every method find its first task's neurons.

    One task is enough: the tasks of a model are alike, and each seed draws new ones.

    Returns:
        One row per method: ``mlp, noise, overlap, seed, method, precision, recall, distractors``
        (share of the found that are loud neurons), ``exact`` (share of the found that exact
        ablation finds, too) and ``accuracy`` of the model on the task (0.5 is chance).
    """
    planted = planted_model(
        plan.tasks, plan.neurons, point.overlap, point.noise, point.mlp == "gated", point.seed,
        n_layers=plan.n_layers, d_mlp=plan.d_mlp, n_train=plan.examples, n_test=plan.examples,
    )  # fmt: skip
    task = planted.tasks[0]
    truth = planted.truth[task.name]
    model = load_model(planted.model, tokenizer=planted.tokenizer, device="cpu")
    accuracy = float(evaluate(model, task)["value"].iloc[0])
    found = {
        method: _found(model, task, method, int(truth.sum()), point.seed) for method in COMPARED
    }
    rows = []
    for method, members in found.items():
        precision, recall = precision_recall(members, truth)
        loud, agreed = (
            float((members & other).sum() / members.sum())
            for other in (planted.distractors, found["exact"])
        )
        rows.append(
            {**asdict(point), "method": method, "precision": precision, "recall": recall,
             "distractors": loud, "exact": agreed, "accuracy": accuracy}
        )  # fmt: skip
    return pd.DataFrame(rows)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Average over seeds, with 95% intervals over them.

    Returns:
        One row per kind of MLP, noise, overlap and method: ``mlp, noise, overlap, method,
        precision, recall, low, high`` (the interval of both), ``distractors, exact, accuracy,
        n_seeds``.
    """
    made = []
    keys = ["mlp", "noise", "overlap", "method"]
    for key, group in rows.groupby(keys, sort=False):
        low, high = mean_interval(group["precision"].to_numpy())
        means = group[["precision", "recall", "distractors", "exact", "accuracy"]].mean()
        made.append(
            {**dict(zip(keys, key, strict=True)), **means, "low": low, "high": high,
             "n_seeds": len(group)}
        )  # fmt: skip
    return pd.DataFrame(made)


def run(folder: RunFolder, plan: Plan, *, progress: bool = False) -> pd.DataFrame:
    """Compute what the folder lacks; return the rows of all models."""
    frames = []
    for point in Progress("planted models", shown=progress).over(list(plan.points())):
        frames.append(folder.unit(point.unit, lambda point=point: score_methods(point, plan)))
    return pd.concat(frames, ignore_index=True)


def _found(model: LanguageModel, task: Task, method: str, n: int, seed: int) -> torch.Tensor:
    """The method's n top neurons; boolean [layer, d_mlp]."""
    neurons = None
    if method == "exact":
        model_view = view(model)
        everything = torch.ones(model_view.shape, dtype=torch.bool, device="cpu")
        neurons = NeuronSet(everything, model_view.fingerprint)
    return score_neurons(model, task, method, neurons=neurons, seed=seed).top(n=n).mask


def main(arguments: list[str] | None = None) -> None:
    """Run the experiment from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    plan = Plan()
    parser.add_argument("--out", default="runs/planted", help="folder; a stopped run goes on there")
    parser.add_argument("--seeds", type=int, default=plan.seeds, help="models for each point")
    parser.add_argument("--noises", nargs="+", type=float, default=list(plan.noises))
    parser.add_argument("--overlaps", nargs="+", type=float, default=list(plan.overlaps))
    given = parser.parse_args(arguments)
    plan = Plan(tuple(given.noises), tuple(given.overlaps), seeds=given.seeds)
    stated = {"experiment": "planted", **asdict(plan)}
    with RunFolder.open(Path(given.out), stated, kind="planted") as folder:
        rows = run(folder, plan, progress=True)
        write_table(folder.file("planted.parquet"), summary(rows))
        folder.finish()


if __name__ == "__main__":
    main()
