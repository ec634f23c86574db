"""The paper's Figure 5: what silencing (a, b) or training (c, d) a task's neurons does to others.

The states are those of Tables 1 and 2.
"""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tl_taskneurons.evaluation.statistics import mean_interval
from tl_taskneurons.evaluation.tables import deactivation_matrix
from tl_taskneurons.experiments.lab import gates
from tl_taskneurons.experiments.lab.experiment import Experiment, Tables
from tl_taskneurons.experiments.lab.groups import seed_rows
from tl_taskneurons.experiments.lab.lab import Lab
from tl_taskneurons.experiments.lab.rates import Kind
from tl_taskneurons.experiments.lab.states import Unit
from tl_taskneurons.experiments.paper.table1 import Table1
from tl_taskneurons.experiments.paper.table2 import END_POINT, Table2
from tl_taskneurons.plots import deactivation_heatmap, training_heatmap


class Figure5(Experiment):
    """Tasks against tasks: silenced and trained."""

    name = "figure5"
    title = "tasks against tasks: silenced and trained"
    needs_tuned = True
    silenced, trained = Table1(), Table2()

    def rates(self, lab: Lab) -> list[Kind]:
        """Those of Table 2."""
        return self.trained.rates(lab)

    def units(self, lab: Lab) -> list[Unit]:
        """Those of both tables."""
        return [*self.silenced.units(lab), *self.trained.units(lab)]

    def tables(self, lab: Lab) -> Tables:
        """Both matrices, the silenced one for each selection and share (on the first sample).

        Without Table 2's end points there is none of training.
        """
        items = self.silenced.items(lab)
        first = items[items["sample"] == 0]
        keys = ["selection", "fraction"]
        parts = []
        for key, part in first.groupby(keys, sort=False):
            about: dict[str, Any] = dict(zip(keys, key, strict=True))
            parts.append(deactivation_matrix(part).assign(**about))
        silenced = {"figure5_silenced": pd.concat(parts, ignore_index=True)}
        if END_POINT not in lab.plan.questions:
            return silenced
        trained = matrix(gates.zero_shot(lab), self.trained.end_points(lab))
        return {**silenced, "figure5_trained": trained}

    def evidence(self, lab: Lab) -> Tables:
        """For C3."""
        return {**self.silenced.evidence(lab), **self.trained.evidence(lab)}

    def gates(self, lab: Lab) -> list[pd.DataFrame]:
        """Those of both tables."""
        return [*self.silenced.gates(lab), *self.trained.gates(lab)]

    def draw(self, tables: Tables) -> dict[str, Figure]:
        """Draw both by loss, the silenced one at the smallest share."""
        silenced = tables["figure5_silenced"]
        plain = silenced[silenced["selection"] == "plain"]
        smallest = plain[plain["fraction"] == plain["fraction"].min()]
        drawn = {"figure5_silenced": deactivation_heatmap(smallest, "loss_change")}
        if "figure5_trained" in tables:
            drawn["figure5_trained"] = training_heatmap(tables["figure5_trained"], "loss_change")
        return drawn


def matrix(plain: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Change on every task when each task's neurons are trained: rows ``trained``, ``task``.

    ``change`` (of the metric, 0 to 1) and ``loss_change`` (nats per token) are trained minus
    zero-shot, averaged over seeds and items.
    """
    base = {str(task): part.sort_values("item") for task, part in plain.groupby("task")}
    rows = []
    own = items[items["neurons"] == "task"]
    for (trained, task), group in own.groupby(["trained", "task"], sort=False):
        before = base[str(task)]
        row = {"trained": trained, "task": task, "metric": group["metric"].iloc[0]}
        for column, prefix in (("score", ""), ("loss", "loss_")):
            change = seed_rows(group, column) - before[column].to_numpy()
            low, high = mean_interval(change)
            row |= {
                f"{prefix}change": float(change.mean()),
                f"{prefix}low": low,
                f"{prefix}high": high,
            }
        rows.append(row | {"n": len(before)})
    return pd.DataFrame(rows)
