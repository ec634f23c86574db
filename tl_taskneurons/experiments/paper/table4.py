"""The paper's Table 4: does similarity of parameters go with transfer, over the tuned models?"""

import pandas as pd

from tl_taskneurons.analysis.similarity_tables import similarity_transfer
from tl_taskneurons.experiments.lab import gates
from tl_taskneurons.experiments.lab.experiment import Tables
from tl_taskneurons.experiments.lab.groups import groups_of
from tl_taskneurons.experiments.lab.lab import Lab
from tl_taskneurons.experiments.paper.figure3 import Figure3, masked


class Table4(Figure3):
    """Similarity against transfer, in the models of Figure 3."""

    name = "table4"
    title = "similarity against transfer"

    def tables(self, lab: Lab) -> Tables:
        """Correlations over the models for each test task, all weights together."""
        found = self.similarities(lab, by_layer=False)
        return {"table4": similarity_transfer(found[found["part"] == "all"], transfer(self, lab))}

    def evidence(self, lab: Lab) -> Tables:
        """For C8."""
        overall = masked(self.similarities(lab, by_layer=False))
        return {"similarity_overall": overall, "transfer": transfer(self, lab)}

    def gates(self, lab: Lab) -> list[pd.DataFrame]:
        """Each sibling gains from the model that was trained on its own family's task."""
        found = self.items(lab)
        pairs = {pair for group in groups_of(lab.tasks).values() for pair in group.pairs}
        own = [pair in pairs for pair in zip(found["model"], found["task"], strict=True)]
        return [gates.gate(lab, "transfer", found[own])]

    def draw(self, tables: Tables) -> dict:  # noqa: ARG002
        """No figure."""
        return {}


def transfer(experiment: Figure3, lab: Lab) -> pd.DataFrame:
    """How well each model does the siblings, means over seeds: ``model, task, value, type``.

    ``value`` is minus the loss, in nats per token.
    """
    means = -experiment.items(lab).groupby(["model", "task"], sort=False)["loss"].mean()
    found = means.rename("value").reset_index()
    types = {task: kind for kind, group in groups_of(lab.tasks).items() for task in group.train}
    return found.assign(type=found["model"].map(types))
