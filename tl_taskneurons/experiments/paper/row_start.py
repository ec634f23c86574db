"""What the model answers on the tasks in a row before the first of them is trained.

Methods in a row can be compared only where the labels are known, or the first to teach the words
wins. So the model that rows start from is tested on the rows' own test examples, and, where a
primer made the labels known, the model before that.
"""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from tl_taskneurons.evaluation.evaluate import evaluate_items
from tl_taskneurons.evaluation.statistics import mean_interval, share_interval
from tl_taskneurons.experiments.lab import gates, primer, states
from tl_taskneurons.experiments.lab.lab import Lab
from tl_taskneurons.experiments.lab.states import State
from tl_taskneurons.experiments.lab.store import Result, Unit
from tl_taskneurons.experiments.paper.row_budgets import order_tasks, row_seeds
from tl_taskneurons.tasks.task import Tasks, tasks_digest


def units(lab: Lab) -> list[Unit]:
    """One per kind of instructions, model, and seed that tasks are drawn with."""
    return [
        lab.store.unit(f"{about['start']} model before rows", result, _flops(lab, tasks))
        for result, about, tasks in _results(lab)
    ]


def table(lab: Lab) -> pd.DataFrame:
    """Return the scores before a row begins, over the items of all seeds.

    Returns:
        ``instructions, task, start`` (``base``, or ``primed``, which rows start from), ``labels,
        guessing, score, low, high`` (shares of 1; 95% intervals over items), ``loss`` (nats per
        token), ``n``, and ``different``, how many of the test examples are: where it is less, seeds
        share some.
    """
    frames = [lab.store.get(result).assign(**about) for result, about, _ in _results(lab)]
    found = pd.concat(frames, ignore_index=True)
    different = _different(lab)
    rows = []
    for key, part in found.groupby(["instructions", "task", "start"], sort=False):
        spread = share_interval if part["labels"].iloc[0] else mean_interval
        low, high = spread(part["score"].to_numpy())
        about = dict(zip(("instructions", "task", "start"), key, strict=True))
        means = part[["guessing", "score", "loss"]].mean().to_dict()
        about |= {"labels": part["labels"].iloc[0], **means}
        counts = {"n": len(part), "different": different[str(about["task"])]}
        rows.append({**about, "low": low, "high": high, **counts})
    columns = [
        "instructions", "task", "start", "labels", "guessing", "score", "low", "high", "loss", "n",
        "different",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _different(lab: Lab) -> dict[str, int]:
    """How many different test examples each task has in all seeds together."""
    inputs: dict[str, set[str]] = {}
    for seed in row_seeds(lab):
        for order in lab.plan.sequences.orders:
            for task in order_tasks(lab, order, seed, lab.plan.sequences.instructions[0]):
                inputs.setdefault(task.name, set()).update(each.input for each in task.test)
    return {name: len(found) for name, found in inputs.items()}


def _results(lab: Lab) -> Iterator[tuple[Result[pd.DataFrame], dict[str, Any], Tasks]]:
    sizes, known = lab.plan.sequences, set[str]()
    models = {"base": states.base(lab)}
    if sizes.primer_steps:
        models["primed"] = primer.state(lab)
    for instructions in sizes.instructions:
        for seed in row_seeds(lab):
            listed = [order_tasks(lab, order, seed, instructions) for order in sizes.orders]
            tasks = Tasks({task.name: task for each in listed for task in each}.values())
            for name, state in models.items():
                result = _answers(lab, state, tasks)
                if result.digest not in known:  # tasks that aren't drawn are the same every time
                    known.add(result.digest)
                    yield result, {"instructions": instructions, "start": name}, tasks


def _answers(lab: Lab, state: State, tasks: Tasks) -> Result[pd.DataFrame]:
    """One row per example: ``task, labels, guessing, score, loss``."""

    def compute() -> pd.DataFrame:
        with state.enter() as model:
            answered = [
                evaluate_items(model, task, prompt=lab.plan.prompt).assign(
                    labels=len(task.labels), guessing=gates.floor(task)
                )
                for task in tasks
            ]
        columns = ["task", "labels", "guessing", "score", "loss"]
        return pd.concat(answered, ignore_index=True)[columns]

    key = {**state.key, "items before rows": tasks_digest(tasks), "asked": lab.prompt_key}
    return Result("rows", key, compute)


def _flops(lab: Lab, tasks: Tasks) -> float:
    """Answers to all test examples, some labels each."""
    return 2 * lab.n_parameters * sum(5 * len(task.test) * lab.tokens(task) for task in tasks)
