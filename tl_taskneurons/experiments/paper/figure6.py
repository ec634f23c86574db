"""The paper's Figure 6: one task trained alone in a growing share of its neurons."""

import pandas as pd
from matplotlib.figure import Figure

from tl_taskneurons.experiments.lab.experiment import Experiment, Tables
from tl_taskneurons.experiments.lab.groups import groups_of, interval
from tl_taskneurons.experiments.lab.lab import Condition, Lab, cells_of, items_of
from tl_taskneurons.experiments.lab.store import Cell
from tl_taskneurons.plots import share_curves


def conditions(lab: Lab) -> list[Condition]:
    """Every trained state with the task and its sibling, and what describes it."""
    scores = lab.scores()
    pairs = [
        pair
        for group in groups_of(lab.tasks).values()
        for pair in zip(group["train"], group["test"], strict=True)
    ]
    return [
        (
            lab.trained([trained], scores[trained].top(fraction=fraction), seed),
            (trained, sibling),
            {"trained": trained, "fraction": fraction, "seed": seed},
        )
        for trained, sibling in pairs
        for fraction in lab.plan.shares
        for seed in lab.plan.seeds
    ]


def cells(lab: Lab) -> list[Cell]:
    """One cell per trained state."""
    return cells_of(lab, conditions(lab))


def items(lab: Lab) -> pd.DataFrame:
    """All answers: with ``trained, fraction`` and ``seed``."""
    return items_of(lab, conditions(lab))


def table(items: pd.DataFrame) -> pd.DataFrame:
    """One row per trained task, tested task and share."""
    rows = []
    for key, part in items.groupby(["trained", "fraction", "task"], sort=False):
        trained, fraction, task = key
        kind = "in-domain" if task == trained else "out-of-domain"
        rows.append(
            {"task": trained, "tested": task, "fraction": fraction, "kind": kind,
             "metric": part["metric"].iloc[0], **interval(part), "loss": part["loss"].mean()}
        )  # fmt: skip
    return pd.DataFrame(rows)


def tables(lab: Lab) -> Tables:
    """The table behind the figure."""
    return {"figure6": table(items(lab)).assign(lr=lab.lr())}


def evidence(lab: Lab) -> Tables:
    """For C4."""
    return {"alone": items(lab)}


def draw(found: Tables) -> dict[str, Figure]:
    """Draw the curves."""
    return {"figure6": share_curves(found["figure6"], panel="task", line=None)}


EXPERIMENT = Experiment(
    "figure6", "a growing share of neurons, one task alone", cells, tables, evidence, draw
)
