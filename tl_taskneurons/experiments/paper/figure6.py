"""The paper's Figure 6: one task trained alone in a growing share of its neurons."""

import pandas as pd
from matplotlib.figure import Figure

from tl_taskneurons.experiments.lab import gates, states
from tl_taskneurons.experiments.lab.detection import scores
from tl_taskneurons.experiments.lab.experiment import Experiment, Tables
from tl_taskneurons.experiments.lab.groups import groups_of, interval
from tl_taskneurons.experiments.lab.lab import Lab
from tl_taskneurons.experiments.lab.rates import Kind, chosen
from tl_taskneurons.experiments.lab.states import Condition
from tl_taskneurons.experiments.paper.figure2 import IN, OUT
from tl_taskneurons.plots import share_curves


class Figure6(Experiment):
    """A growing share of neurons, one task alone."""

    name = "figure6"
    title = "a growing share of neurons, one task alone"

    def rates(self, lab: Lab) -> list[Kind]:
        """One for each share."""
        return [Kind("task", share) for share in lab.plan.shares]

    def conditions(self, lab: Lab) -> list[Condition]:
        """One state per trained task, share and seed, tested on the task and its sibling."""
        found = scores(lab, states.base(lab))
        conditions = []
        for group in groups_of(lab.tasks).values():
            for task, sibling in group.pairs:
                for share in lab.plan.shares:
                    for seed in lab.plan.seeds:
                        lr = chosen(lab, Kind("task", share))
                        neurons = found[task].top(fraction=share)
                        state = states.trained(lab, [task], neurons, lab.plan.training(lr, seed))
                        columns = {"trained": task, "fraction": share, "seed": seed, "lr": lr}
                        conditions.append(Condition(state, (task, sibling), columns))
        return conditions

    def tables(self, lab: Lab) -> Tables:
        """The table behind the figure."""
        return {"figure6": table(self.items(lab))}

    def evidence(self, lab: Lab) -> Tables:
        """For C4."""
        return {"alone": self.items(lab)}

    def gates(self, lab: Lab) -> list[pd.DataFrame]:
        """With all neurons trained the task is learnt, and something transfers to its sibling."""
        found = self.items(lab)
        whole = found[found["fraction"] == found["fraction"].max()]
        return [gates.gate(lab, "alone", whole)]

    def draw(self, tables: Tables) -> dict[str, Figure]:
        """Draw the curves."""
        return {"figure6": share_curves(tables["figure6"], panel="task", line=None)}


def table(items: pd.DataFrame) -> pd.DataFrame:
    """One row per trained task, tested task and share; losses in nats per token."""
    rows = []
    for (trained, share, task), part in items.groupby(["trained", "fraction", "task"], sort=False):
        rows.append(
            {
                "task": trained,
                "tested": task,
                "fraction": share,
                "kind": IN if task == trained else OUT,
                "metric": part["metric"].iloc[0],
                **interval(part),
                **interval(part, "loss"),
                "lr": part["lr"].iloc[0],
            }
        )
    return pd.DataFrame(rows)
