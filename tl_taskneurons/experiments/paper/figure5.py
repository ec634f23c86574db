"""The paper's Figure 5: what silencing (a, b) or training (c, d) a task's neurons does to others.

The states are those of Tables 1 and 2.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tl_taskneurons.evaluation.statistics import mean_interval
from tl_taskneurons.evaluation.tables import deactivation_matrix
from tl_taskneurons.experiments.lab.experiment import Experiment, Tables
from tl_taskneurons.experiments.lab.groups import seed_rows
from tl_taskneurons.experiments.lab.lab import Lab
from tl_taskneurons.experiments.lab.store import Cell
from tl_taskneurons.experiments.paper import table1, table2
from tl_taskneurons.plots import deactivation_heatmap, training_heatmap


def cells(lab: Lab) -> list[Cell]:
    """The cells of both tables."""
    return [*table1.cells(lab), *table2.cells(lab)]


def matrix(plain: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Change on every task when each task's neurons are trained: rows ``trained``, ``task``.

    ``change`` (of the metric, 0 to 1) and ``loss_change`` (nats per token) are trained minus
    zero-shot, averaged over seeds and items.
    """
    base = {str(task): part.sort_values("item") for task, part in plain.groupby("task")}
    rows = []
    own = items[items["neurons"] == "task"]
    for key, group in own.groupby(["trained", "task"], sort=False):
        trained, task = (str(name) for name in key)
        row = {"trained": trained, "task": task, "metric": group["metric"].iloc[0]}
        for column, prefix in (("score", ""), ("loss", "loss_")):
            before = base[task][column].to_numpy()
            change = seed_rows(group, column) - before
            low, high = mean_interval(change)
            row |= {
                f"{prefix}change": float(np.mean(change)), f"{prefix}low": low,
                f"{prefix}high": high,
            }  # fmt: skip
        rows.append(row | {"n": len(base[task])})
    return pd.DataFrame(rows)


def tables(lab: Lab) -> Tables:
    """Both matrices."""
    silenced = deactivation_matrix(table1.items(lab)).assign(
        selection="plain", fraction=lab.plan.fraction
    )
    trained = matrix(table2.plain(lab), table2.items(lab))
    return {"figure5_silenced": silenced, "figure5_trained": trained}


def evidence(lab: Lab) -> Tables:
    """For C3."""
    return {**table1.evidence(lab), **table2.evidence(lab)}


def draw(found: Tables) -> dict[str, Figure]:
    """Draw both matrices, by score; by loss where a task has no score."""
    drawn = {}
    for name, heatmap in (
        ("figure5_silenced", deactivation_heatmap), ("figure5_trained", training_heatmap),
    ):  # fmt: skip
        column = "change" if found[name]["change"].notna().all() else "loss_change"
        drawn[name] = heatmap(found[name], column)
    return drawn


EXPERIMENT = Experiment(
    "figure5", "tasks against tasks: silenced and trained", cells, tables, evidence, draw,
    tuned=True,
)  # fmt: skip
