"""The paper's Table 1 (and 6): original, random neurons silenced, task neurons silenced.

Neurons are found and silenced in the model that was trained on all tasks, on several samples of
examples, at each share and by each selection of the plan. Random neurons come in both kinds: as
many over all layers (the paper's) and as many in each layer.
"""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tl_taskneurons.evaluation.tables import deactivation_table
from tl_taskneurons.experiments.lab import gates, states, tuned
from tl_taskneurons.experiments.lab.detection import task_sets
from tl_taskneurons.experiments.lab.experiment import Experiment, Tables
from tl_taskneurons.experiments.lab.lab import Lab, control
from tl_taskneurons.experiments.lab.states import Condition
from tl_taskneurons.plots import deactivation_bars

MATCHES = ("total", "layer")
_SETTING = ["selection", "fraction", "sample"]


class Table1(Experiment):
    """Task neurons silenced, against random ones."""

    name = "table1"
    title = "task neurons silenced, against random ones"
    needs_neurons = False  # those of the tuned model are silenced
    needs_tuned = True

    def conditions(self, lab: Lab) -> list[Condition]:
        """The plain model; each task's neurons on all tasks; random ones on the task alone."""
        model, names = tuned.state(lab), lab.silenced
        found = []
        for setting in _settings(lab):
            plain = {"silenced": "", "kind": "none", "match": "", "seed": -1, "n_neurons": 0}
            found.append(Condition(model, names, {**setting, **plain}))
            for name, neurons in task_sets(lab, model, names=names, **setting).items():
                about = {**setting, "silenced": name, "n_neurons": len(neurons)}
                own = {**about, "kind": "task", "match": "", "seed": -1}
                found.append(Condition(states.silenced(model, neurons), names, own))
                for match in MATCHES:
                    for seed in range(lab.plan.controls):
                        random = control(neurons, name, match, seed, setting["sample"])
                        columns = {**about, "kind": "random", "match": match, "seed": seed}
                        state = states.silenced(model, random)
                        found.append(Condition(state, (name,), columns))
        return found

    def tables(self, lab: Lab) -> Tables:
        """One row per task, selection, share, sample and kind of controls."""
        return {"table1": table(self.items(lab))}

    def evidence(self, lab: Lab) -> Tables:
        """For C1 and C3."""
        found = self.items(lab)
        return {"deactivation": found.replace({"selection": {_contrast(lab): "contrastive"}})}

    def gates(self, lab: Lab) -> list[pd.DataFrame]:
        """The tuned model does the tasks better than the base model."""
        answers = states.items(lab, Condition(tuned.state(lab), lab.silenced))
        return [gates.gate(lab, "deactivation", answers)]

    def draw(self, tables: Tables) -> dict[str, Figure]:
        """Draw the bars of the plan's largest share, where tasks have scores."""
        found = tables["table1"]
        if found["original"].isna().any():
            return {}
        first = found[(found["sample"] == 0) & (found["selection"] == "plain")]
        first = first[(first["match"] == "total") & (first["fraction"] == first["fraction"].max())]
        return {"table1": deactivation_bars(first)}


def table(items: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``deactivation_table`` for each setting and kind of controls."""
    tables = []
    for key, part in items.groupby(_SETTING, sort=False):
        for match in MATCHES:
            found = deactivation_table(part[part["match"].isin(["", match])])
            about: dict[str, Any] = dict(zip(_SETTING, key, strict=True))
            tables.append(found.assign(**about, match=match))
    return pd.concat(tables, ignore_index=True)


def _settings(lab: Lab) -> list[dict]:
    plan = lab.plan
    return [
        {"selection": selection, "fraction": fraction, "sample": sample}
        for selection in plan.selections
        for fraction in plan.fractions
        for sample in range(plan.silenced_samples)
    ]


def _contrast(lab: Lab) -> str:
    """The plan's contrastive selection."""
    return next((name for name in lab.plan.selections if name != "plain"), "contrastive")
