"""How good rankings and sets of neurons are, over the built-in tasks that a model can do.

    python benchmarks/methods.py --out build/methods [--model smollm2-135m] [--tasks a,b]
        [--examples 24] [--test 32] [--others 4] [--curves]
        [--table figures/methods_smollm2-135m.csv]

A task is one that the model can do when its best prompt gives at least ``--least`` on training
examples; the prompt, the sets and their limits are chosen on training examples, everything in the
table is measured on test examples. One file for each task under ``--out``: a run that was stopped
goes on with the tasks that are missing.
"""

import argparse
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

import tl_taskneurons as tn
from tl_taskneurons.runtime.stored import stored

SHOTS = (0, 4)
SHARES = (0.0005, 0.002, 0.01, 0.05, 0.2, 1.0)

# Tasks that share their answers' kind with the task are asked as one family.
SIBLINGS = {
    "city_country": ("country_capital", "landmark_country"),
    "country_capital": ("city_country", "landmark_country"),
    "landmark_country": ("city_country", "country_capital"),
    "present_past": ("verb_ing",), "verb_ing": ("present_past",),
    "english_french": ("english_spanish", "english_german"),
    "english_spanish": ("english_french", "english_german"),
    "english_german": ("english_french", "english_spanish"),
}  # fmt: skip


def save(path: Path, table: pd.DataFrame) -> None:
    """Write a table where none stands half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    table.to_csv(part, index=False)
    part.replace(path)


def training_value(model: Any, task: tn.Task, prompt: tn.Prompt, limit: int) -> float:
    """The score on training examples."""
    held = replace(task, test=task.train[:limit], train=task.train[limit:])
    return float(tn.evaluate(model, held, prompt=prompt, share_prefix=True)["value"][0])


def doable(model: Any, tasks: Sequence[tn.Task], given: argparse.Namespace) -> pd.DataFrame:
    """Each task's best number of demonstrations by training examples, and its value there."""
    rows = []
    for task in tasks:
        values = {
            shots: training_value(model, task, tn.Prompt(shots=shots), given.examples)
            for shots in SHOTS
        }
        best = max(SHOTS, key=lambda shots: values[shots])
        rows.append({"task": task.name, "shots": best, "train": values[best]})
    return pd.DataFrame(rows)


def measured(
    model: Any, task: tn.Task, others: Sequence[tn.Task], prompt: tn.Prompt,
    neurons: tn.NeuronSet, given: argparse.Namespace,
) -> dict[str, float]:  # fmt: skip
    """What silencing a set does to the test examples of a task and of the others, in points."""
    options: Any = {"prompt": prompt, "limit": given.test, "share_prefix": True}
    before = tn.evaluate(model, [task, *others], **options)["value"]
    with tn.deactivate(model, neurons):
        after = tn.evaluate(model, [task, *others], **options)["value"]
    lost = (before - after) * 100
    floor = 1 / len(task.labels) if task.labels else 0.0
    return {
        "n_neurons": len(neurons), "plain": 100 * before[0], "left": 100 * after[0],
        "taken": float((before[0] - after[0]) / max(before[0] - floor, 1e-9)),
        "others_lose": float(lost[1:].mean()), "others_lose_most": float(lost[1:].max()),
    }  # fmt: skip


def compare(
    model: Any, task: tn.Task, others: Sequence[tn.Task], known: dict[str, tn.NeuronScores],
    prompt: tn.Prompt, given: argparse.Namespace,
) -> pd.DataFrame:  # fmt: skip
    """One row for each ranking and selection of a task."""
    rows: list[dict[str, Any]] = []

    def add(method: str, seconds: float, **columns: Any) -> None:
        rows.append(
            {"model": given.model, "task": task.name, "shots": prompt.shots, "method": method,
             "seconds": round(seconds, 1), **columns}
        )  # fmt: skip

    spared = [other for other in others if other.name not in SIBLINGS.get(task.name, ())]
    start = time.process_time()
    limits = tn.Limits(goal=given.goal, outside=(0.01, 0.03), checks=16)
    question = tn.Question(prompt=prompt, n_score=given.examples, n_held=given.examples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = tn.find_neurons(
            model, task, spared[: given.others], limits=limits, question=question, known=known
        )
    seconds = time.process_time() - start
    add("find_neurons", seconds, reached=found.reached,
        **measured(model, task, spared, prompt, found.neurons, given))  # fmt: skip
    for name in ("exclusive", "exclude"):
        chosen = tn.select(known, name, fraction=0.01)[task.name]
        add(f"{name} 1%", 0.0, **measured(model, task, spared, prompt, chosen, given))
    size = len(found.neurons)
    plain = known[task.name].top(n=size)
    add("top, as many", 0.0, **measured(model, task, spared, prompt, plain, given))
    drawn = found.neurons.random_like(0)
    add("random, as many", 0.0, **measured(model, task, spared, prompt, drawn, given))
    if given.curves:
        rankings = {"grad_act": known[task.name]}
        for name in given.methods:
            rankings[name] = tn.score_neurons(
                model, task, name, prompt=prompt, limit=given.examples
            )
        rankings["grad_act, signed"] = tn.score_neurons(
            model, task, prompt=prompt, limit=given.examples, signed=True
        )
        curves = tn.ablation_curves(
            model, task, rankings, others=spared[: given.others], fractions=SHARES,
            metric="log_prob", prompt=prompt, limit=given.test // 2, share_prefix=True,
        )  # fmt: skip
        for row in curves.areas.to_dict("records"):
            name = f"ranking: {row.pop('ranking')}"
            add(name, 0.0, **{str(column): value for column, value in row.items()})
    return pd.DataFrame(rows)


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", default="builtin")
    parser.add_argument("--tasks", default="", help="names with commas; by default all")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tasks' files")
    parser.add_argument("--table", type=Path, help="where to write the whole table")
    parser.add_argument("--examples", type=int, default=24, help="to score, and to hold out")
    parser.add_argument("--test", type=int, default=32, help="test examples of each task")
    parser.add_argument("--others", type=int, default=4, help="other tasks in search and curves")
    parser.add_argument("--goal", type=float, default=0.95, help="on held-out training examples")
    parser.add_argument("--least", type=float, default=0.4, help="a task that can be done")
    parser.add_argument("--curves", action="store_true", help="areas of rankings as well")
    parser.add_argument("--methods", nargs="*", default=["activation", "random"])
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Run what is missing, and put the tasks' tables together."""
    given = parsed(argv)
    model = tn.load_model(given.model, device="cpu")
    names = [name for name in given.tasks.split(",") if name]
    tasks = tn.load_tasks(given.data, names or None)
    gate = stored(
        given.out / "gate.csv", lambda: doable(model, tasks, given), load=pd.read_csv, save=save
    ).set_index("task")
    chosen = [task for task in tasks if gate.loc[task.name, "train"] >= given.least]
    # One form of prompt for all, so that tasks differ in what they ask alone.
    prompt = tn.Prompt(shots=int(gate.loc[[task.name for task in chosen], "shots"].mode()[0]))
    known: dict[str, tn.NeuronScores] = {}
    for task in chosen:
        known[task.name] = stored(
            given.out / f"{task.name}.safetensors",
            lambda task=task: tn.score_neurons(model, task, prompt=prompt, limit=given.examples),
            load=tn.NeuronScores.load, save=lambda path, scores: scores.save(path),
        )  # fmt: skip
    tables = []
    for task in chosen:
        others = [other for other in chosen if other.name != task.name]
        table = stored(
            given.out / f"{task.name}.csv",
            lambda task=task, others=others: compare(model, task, others, known, prompt, given),
            load=pd.read_csv, save=save,
        )  # fmt: skip
        tables.append(table)
        print(table.round(3).to_string(index=False), flush=True)  # noqa: T201
    whole = pd.concat(tables, ignore_index=True)
    if given.table:
        save(given.table, whole.round(4))
    return whole


if __name__ == "__main__":
    main()
