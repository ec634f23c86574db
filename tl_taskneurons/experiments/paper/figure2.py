"""The paper's Figure 2: three tasks trained together in a growing share of their neurons.

The first task of every family is trained, classification and generation apart, in the top share of
the neurons by their scores on these tasks together, and tested on the same tasks (specialization)
and on their siblings (generalization, within and across the two types).
"""

import pandas as pd
from matplotlib.figure import Figure

from tl_taskneurons.experiments.lab import gates, states
from tl_taskneurons.experiments.lab.detection import scores
from tl_taskneurons.experiments.lab.experiment import Experiment, Tables
from tl_taskneurons.experiments.lab.groups import groups_of, interval, union_scores
from tl_taskneurons.experiments.lab.lab import Lab
from tl_taskneurons.experiments.lab.states import Condition
from tl_taskneurons.plots import share_curves

IN, OUT = "in-domain", "out-of-domain"


class Figure2(Experiment):
    """A growing share of neurons, tasks trained together."""

    name = "figure2"
    title = "a growing share of neurons, tasks trained together"

    def conditions(self, lab: Lab) -> list[Condition]:
        """One state per group, share and seed."""
        groups, found = groups_of(lab.tasks), scores(lab, states.base(lab))
        siblings = tuple(task for group in groups.values() for task in group.test)
        conditions = []
        for name, group in groups.items():
            union = union_scores(found, group.train)
            for share in lab.plan.shares:
                for seed in lab.plan.seeds:
                    training = lab.plan.transfer_training(seed, len(group.train))
                    state = states.trained(lab, group.train, union.top(fraction=share), training)
                    columns = {
                        "train_group": name, "fraction": share, "seed": seed, "lr": training.lr,
                    }  # fmt: skip
                    conditions.append(Condition(state, (*group.train, *siblings), columns))
        return conditions

    def items(self, lab: Lab) -> pd.DataFrame:
        """All answers: with ``train_group, test_group, kind, fraction`` and ``seed``."""
        groups = groups_of(lab.tasks)
        group_of = {
            task: name for name, group in groups.items() for task in (*group.train, *group.test)
        }
        found = super().items(lab)
        own = {(name, task) for name, group in groups.items() for task in group.train}
        inside = [pair in own for pair in zip(found["train_group"], found["task"], strict=True)]
        return found.assign(
            test_group=found["task"].map(group_of),
            kind=pd.Series(inside, index=found.index).map({True: IN, False: OUT}),
        )

    def tables(self, lab: Lab) -> Tables:
        """The table behind the figure."""
        return {"figure2": table(self.items(lab))}

    def evidence(self, lab: Lab) -> Tables:
        """For C4."""
        return {"together": self.items(lab)}

    def gates(self, lab: Lab) -> list[pd.DataFrame]:
        """With all neurons trained the tasks are learnt, and something transfers to siblings."""
        found = self.items(lab)
        whole = found[found["fraction"] == found["fraction"].max()]
        own = whole[whole["train_group"] == whole["test_group"]]
        return [gates.gate(lab, table, own) for table in ("together", "controlled")]

    def draw(self, tables: Tables) -> dict[str, Figure]:
        """Draw the curves."""
        return {"figure2": share_curves(tables["figure2"])}


def table(items: pd.DataFrame) -> pd.DataFrame:
    """One row per trained group, tested group, kind and share; losses in nats per token."""
    keys = ["train_group", "test_group", "kind", "fraction"]
    rows = [
        {
            **dict(zip(keys, key, strict=True)),
            "metric": part["metric"].iloc[0],
            **interval(part),
            **interval(part, "loss"),
            "lr": part["lr"].iloc[0],
        }
        for key, part in items.groupby(keys, sort=False)
    ]
    return pd.DataFrame(rows)
