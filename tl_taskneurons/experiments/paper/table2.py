"""The paper's Table 2 (and 7): zero-shot, random neurons trained, task neurons trained.

Every task is trained alone, in its own top neurons and in random ones (as many in each layer), and
tested on itself; with its own neurons also on all others, for the matrix of Figure 5 (c, d).
"""

import pandas as pd

from tl_taskneurons.evaluation.statistics import mean_interval
from tl_taskneurons.experiments.lab.experiment import Experiment, Tables
from tl_taskneurons.experiments.lab.groups import interval, seed_rows
from tl_taskneurons.experiments.lab.lab import Condition, Lab, cells_of, items_of
from tl_taskneurons.experiments.lab.store import Cell


def conditions(lab: Lab) -> list[Condition]:
    """Every trained state with the tasks that are tested in it and what describes it."""
    names, sets = lab.tasks.names, lab.sets()
    found = []
    for seed in lab.plan.seeds:
        for name in names:
            about = {"trained": name, "seed": seed}
            own, random = sets[name], sets[name].random_like(seed)
            state = lab.trained([name], own, seed)
            found.append((state, names, {**about, "neurons": "task"}))
            state = lab.trained([name], random, seed)
            found.append((state, (name,), {**about, "neurons": "random"}))
    return found


def cells(lab: Lab) -> list[Cell]:
    """One cell per trained state, and the base model."""
    return [lab.cell(lab.plain(), lab.tasks.names), *cells_of(lab, conditions(lab))]


def items(lab: Lab) -> pd.DataFrame:
    """All answers after training: with ``trained``, ``neurons`` and ``seed``."""
    return items_of(lab, conditions(lab))


def plain(lab: Lab) -> pd.DataFrame:
    """The base model's answers."""
    return lab.items(lab.plain(), lab.tasks.names)


def table(plain: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """One row per task: zero-shot, train-random, train-task, and the gain of task over random.

    ``excess`` is task minus random; its interval is over seeds and items, in pairs. Losses in nats
    per token.
    """
    rows = []
    for task, base in plain.groupby("task", sort=False):
        own = items[(items["trained"] == task) & (items["task"] == task)]
        chosen, random = (own[own["neurons"] == kind] for kind in ("task", "random"))
        low, high = mean_interval(seed_rows(chosen) - seed_rows(random))
        row = {
            "task": task, "metric": base["metric"].iloc[0], "zero_shot": base["score"].mean(),
            "excess": chosen["score"].mean() - random["score"].mean(), "excess_low": low,
            "excess_high": high, "loss_zero_shot": base["loss"].mean(),
            "loss_random": random["loss"].mean(), "loss_task": chosen["loss"].mean(),
            "n": len(base),
        }  # fmt: skip
        for kind, group in (("random", random), ("task", chosen)):
            found = interval(group)
            row |= {
                f"train_{kind}": found["score"], f"train_{kind}_low": found["low"],
                f"train_{kind}_high": found["high"],
            }  # fmt: skip
        rows.append(row)
    return pd.DataFrame(rows)


def tables(lab: Lab) -> Tables:
    """The table, one row per task."""
    return {"table2": table(plain(lab), items(lab)).assign(lr=lab.lr())}


def evidence(lab: Lab) -> Tables:
    """For C2 and C3."""
    return {"trained": items(lab), "plain": plain(lab)}


EXPERIMENT = Experiment(
    "table2", "task neurons trained, against random ones", cells, tables, evidence
)
