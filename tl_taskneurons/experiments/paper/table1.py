"""The paper's Table 1 (and 6): original, random neurons silenced, task neurons silenced.

Neurons are found and silenced in the model that was trained on all tasks. For shares, selections
and means beyond the paper see ``selections``.
"""

import pandas as pd
from matplotlib.figure import Figure

from tl_taskneurons.evaluation.tables import deactivation_table
from tl_taskneurons.experiments.lab.experiment import Experiment, Tables
from tl_taskneurons.experiments.lab.lab import TUNED, Condition, Lab, cells_of, items_of
from tl_taskneurons.experiments.lab.store import Cell
from tl_taskneurons.plots import deactivation_bars


def conditions(lab: Lab) -> list[Condition]:
    """Every state with the tasks that are tested in it and the columns that describe it.

    Random controls, as many neurons in each layer as the task's, are tested on the task alone.
    """
    names = lab.tasks.names
    plain = {"silenced": "", "kind": "none", "seed": -1, "n_neurons": 0}
    found: list[Condition] = [(lab.plain(TUNED), names, plain)]
    for name, neurons in lab.sets(TUNED).items():
        about = {"silenced": name, "n_neurons": len(neurons)}
        found.append((lab.silenced(TUNED, neurons), names, {**about, "kind": "task", "seed": -1}))
        for seed in range(lab.plan.controls):
            state = lab.silenced(TUNED, neurons.random_like(seed))
            found.append((state, (name,), {**about, "kind": "random", "seed": seed}))
    return found


def cells(lab: Lab) -> list[Cell]:
    """One cell per state."""
    return cells_of(lab, conditions(lab))


def items(lab: Lab) -> pd.DataFrame:
    """All answers, the rows of ``evaluation.deactivation_items``."""
    return items_of(lab, conditions(lab)).assign(ablation="zero")


def tables(lab: Lab) -> Tables:
    """The table, one row per task."""
    return {"table1": deactivation_table(items(lab)).assign(fraction=lab.plan.fraction)}


def evidence(lab: Lab) -> Tables:
    """For C1 and C3."""
    return {"deactivation": items(lab)}


def draw(found: Tables) -> dict[str, Figure]:
    """Draw the bars of the table, where tasks have scores."""
    table = found["table1"].assign(selection="plain")
    return {} if table["original"].isna().any() else {"table1": deactivation_bars(table)}


EXPERIMENT = Experiment(
    "table1", "task neurons silenced, against random ones", cells, tables, evidence, draw,
    tuned=True, trains=False,
)  # fmt: skip
