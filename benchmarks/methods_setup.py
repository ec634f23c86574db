"""What the comparisons of methods share: sizes fixed beforehand, tasks that can be done, files."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

import tl_taskneurons as tn
from tl_taskneurons.analysis.question import spread
from tl_taskneurons.runtime.stored import stored

# The forms of prompt to choose from, for each task.
PROMPTS = {
    "no shots": tn.Prompt(),
    "4 shots": tn.Prompt(shots=4),
    "8 shots, no instruction": tn.Prompt(shots=8, instruction=False),
    "4 shots, arrow": tn.Prompt(shots=4, raw=True, template="{input} ->"),
    "8 shots, arrow": tn.Prompt(shots=8, raw=True, template="{input} ->"),
}
# Tasks that share their answers' kind with the task are asked as one family.
FAMILIES = (
    ("city_country", "country_capital", "landmark_country"),
    ("present_past", "verb_ing"),
    ("english_french", "english_spanish", "english_german"),
)


@dataclass(frozen=True)
class Sizes:
    """How many examples, neurons and tasks take part, fixed before any test example is seen.

    Attributes:
        gate: training examples by which prompts are compared and tasks are let in.
        prompts: the forms of prompt that are compared.
        least: the training score above chance that lets a task in, of what is possible.
        score: training examples that neurons are scored on.
        held: further training examples that a search measures its goal on.
        spared: training examples of each other task that a search measures harm on.
        draws: of demonstrations that a search spreads the task's examples over.
        rivals: other tasks that a search spares and that harm in curves is measured on.
        test: test examples of the task.
        unseen: draws of demonstrations that test examples are spread over; the search has none
            of them.
        harmed: test examples of each other task.
        curve: test examples at each point of a ranking's curves.
        shares: shares of all neurons at which rankings are measured.
        exact: training examples on which single neurons are ablated.
        sample: single neurons that are ablated, half of them drawn at random.
    """

    gate: int = 48
    prompts: tuple[str, ...] = tuple(PROMPTS)[1:]
    least: float = 0.35
    score: int = 16
    held: int = 48
    draws: int = 6
    spared: int = 8
    rivals: int = 5
    test: int = 48
    unseen: int = 4
    harmed: int = 12
    curve: int = 12
    shares: tuple[float, ...] = (0.0005, 0.005, 0.05, 0.5)
    exact: int = 2
    sample: int = 40


SIZES = {
    "full": Sizes(),
    "tiny": Sizes(
        gate=12, prompts=("no shots",), least=0.3, score=10, held=16, spared=12, rivals=1, test=6,
        harmed=4, curve=4, shares=(0.01,), exact=1, sample=10,
    ),
}  # fmt: skip


# The first seed of the demonstrations of test examples; searches have those from 0 on.
UNSEEN = 100


@dataclass(frozen=True)
class Setting:
    """A model, and the tasks that it can do with the best prompt for each.

    Attributes:
        name: the model's, without a folder.
        model: the model.
        tasks: those it can do, the best first.
        prompts: the best for each task.
        gate: of every task the best prompt, its training score, the score of guessing, and whether
            the model can do it: ``task, prompt, train, chance, able``.
        sizes: how much of everything takes part.
        folder: where what is done lies.
    """

    name: str
    model: Any
    tasks: tuple[tn.Task, ...]
    prompts: Mapping[str, tn.Prompt]
    gate: pd.DataFrame
    sizes: Sizes
    folder: Path

    def others(self, task: tn.Task) -> list[tn.Task]:
        """Return the other tasks, but those of the task's family."""
        family = next((names for names in FAMILIES if task.name in names), (task.name,))
        return [other for other in self.tasks if other.name not in family]

    def rivals(self, task: tn.Task) -> list[tn.Task]:
        """Return as many of the others as a search spares, spread evenly over the list."""
        others = self.others(task)
        step = max(1.0, len(others) / self.sizes.rivals)
        return [others[int(k * step)] for k in range(min(len(others), self.sizes.rivals))]

    def scores(self, task: tn.Task, method: str = "grad_act") -> tn.NeuronScores:
        """Score the neurons for a task, or read the scores where they are there."""
        return stored(
            self.folder / "scores" / f"{task.name}_{method}.safetensors",
            lambda: tn.score_neurons(
                self.model, task, method, prompt=self.prompts[task.name],
                limit=self.sizes.score,
            ),
            load=tn.NeuronScores.load, save=lambda path, scores: scores.save(path),
        )  # fmt: skip

    def values(self, tasks: Sequence[tn.Task], limit: int) -> list[float]:
        """Measure tasks on test examples, each after demonstrations that no search has seen."""
        return [self._value(replace(task, test=task.test[:limit])) for task in tasks]

    def _value(self, task: tn.Task) -> float:
        prompt = self.prompts[task.name]
        parts = spread(task, replace(prompt, seed=prompt.seed + UNSEEN), self.sizes.unseen)
        tables = [
            tn.evaluate(self.model, part, prompt=form, share_prefix=True) for part, form in parts
        ]
        sums = [table["value"][0] * table["n"][0] for table in tables]
        return float(sum(sums) / sum(table["n"][0] for table in tables))

    def undisturbed(self, task: tn.Task, limit: int) -> float:
        """Measure a task on test examples, once for all."""
        table = stored(
            self.folder / "plain" / f"{task.name}_{limit}.csv",
            lambda: pd.DataFrame({"value": self.values([task], limit)}),
            load=pd.read_csv, save=save,
        )  # fmt: skip
        return float(table["value"][0])


def set_up(name: str, tasks: Sequence[tn.Task], sizes: Sizes, folder: Path) -> Setting:
    """Choose the prompts and the tasks by training examples."""
    model = tn.load_model(name, device="cpu")

    def gate() -> pd.DataFrame:
        rows = []
        for task in tasks:
            held = replace(task, test=task.train[: sizes.gate], train=task.train[sizes.gate :])
            for form in sizes.prompts:
                table = tn.evaluate(model, held, prompt=PROMPTS[form], share_prefix=True)
                rows.append({"task": task.name, "prompt": form, "train": table["value"][0]})
        return pd.DataFrame(rows)

    table = stored(folder / "gate.csv", gate, load=pd.read_csv, save=save)
    best = table.loc[table.groupby("task")["train"].idxmax()].set_index("task")
    named = {task.name: task for task in tasks}
    best["chance"] = [chance_of(named[str(task)]) for task in best.index]
    best["able"] = (best["train"] - best["chance"]) / (1 - best["chance"]) >= sizes.least
    best = best.sort_values("train", ascending=False, kind="stable")
    return Setting(
        Path(name).stem, model, tuple(named[str(task)] for task in best.index[best["able"]]),
        {task: PROMPTS[form] for task, form in best["prompt"].items()}, best.reset_index(), sizes,
        folder,
    )  # fmt: skip


def chance_of(task: tn.Task) -> float:
    """Return the score of guessing."""
    return 1 / len(task.labels) if task.labels else 0.0


def save(path: Path, table: pd.DataFrame) -> None:
    """Write a table where none stands half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    table.to_csv(part, index=False)
    part.replace(path)


def cells(
    folder: Path, names: Sequence[str], compute: Callable[[str], pd.DataFrame], table: Path | None
) -> pd.DataFrame:
    """Compute what is missing, cell by cell, and write all that is there after each."""
    done: list[pd.DataFrame] = []
    for name in names:
        cell = stored(folder / f"{name}.csv", lambda name=name: compute(name),
                      load=pd.read_csv, save=save)  # fmt: skip
        done.append(cell)
        print(cell.round(3).to_string(index=False), flush=True)
        if table:
            save(table, pd.concat(done, ignore_index=True).round(4))
    return pd.concat(done, ignore_index=True)


def parsed(
    argv: Sequence[str] | None, doc: str | None, switches: Mapping[str, str] | None = None
) -> argparse.Namespace:
    """Read the command line; a script may have switches of its own, with what they do."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0] if doc else "")
    parser.add_argument("--model", default="smollm2-135m", help="a name or a path")
    parser.add_argument("--data", default="builtin")
    parser.add_argument("--tasks", default="", help="names with commas; by default all")
    parser.add_argument("--out", type=Path, required=True, help="folder of what is done")
    parser.add_argument("--table", type=Path, help="where to write the whole table")
    parser.add_argument("--sizes", choices=tuple(SIZES), default="full")
    for name, what in (switches or {}).items():
        parser.add_argument(f"--{name}", action="store_true", help=what)
    return parser.parse_args(argv)


def setting_of(given: argparse.Namespace) -> Setting:
    """Set up what the command line asks for."""
    names = [name for name in given.tasks.split(",") if name]
    tasks = tn.load_tasks(given.data, names or None)
    return set_up(given.model, tasks, SIZES[given.sizes], given.out)
