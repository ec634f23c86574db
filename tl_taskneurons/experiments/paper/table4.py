"""The paper's Table 4: does similarity of parameters go with transfer, over the tuned models?"""

import pandas as pd

from tl_taskneurons.analysis.similarity_tables import similarity_transfer
from tl_taskneurons.experiments.lab.experiment import Experiment, Tables
from tl_taskneurons.experiments.lab.lab import Lab
from tl_taskneurons.experiments.paper import figure3


def transfer(lab: Lab) -> pd.DataFrame:
    """Scores of every tuned model on the siblings, means over seeds: ``model, task, value``."""
    frames = [
        lab.items(state, figure3.test_tasks(lab), model=name, seed=seed)
        for state, name, seed in figure3.conditions(lab)
    ]
    items = pd.concat(frames, ignore_index=True)
    means = items.groupby(["model", "task"], sort=False)["score"].mean()
    return means.rename("value").reset_index()


def similarities(lab: Lab) -> pd.DataFrame:
    """Similarities over all layers, in all readings."""
    return figure3.similarities(lab, "overall")


def tables(lab: Lab) -> Tables:
    """Correlations over the models for each test task, all weights together."""
    found = similarities(lab)
    return {"table4": similarity_transfer(found[found["part"] == "all"], transfer(lab))}


def evidence(lab: Lab) -> Tables:
    """For C8."""
    found = similarities(lab)
    chosen = found[(found["part"] == "all") & (found["reading"] == "masked")]
    return {"similarity_overall": chosen, "transfer": transfer(lab)}


EXPERIMENT = Experiment("table4", "similarity against transfer", figure3.cells, tables, evidence)
