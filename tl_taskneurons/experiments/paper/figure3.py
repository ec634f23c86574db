"""The paper's Figure 3: similarity of two tasks' neurons' parameters by layer, in tuned models.

The first task of every family is fine-tuned in all weights; in that model its neurons are compared
with those of every sibling, in the three readings. Table 4 uses the same models.
"""

from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tl_taskneurons.analysis.similarity import READINGS, similarity_over_models
from tl_taskneurons.analysis.similarity_tables import similarity_by_layer
from tl_taskneurons.experiments.lab.experiment import Experiment, Tables
from tl_taskneurons.experiments.lab.groups import groups_of
from tl_taskneurons.experiments.lab.lab import Lab, State
from tl_taskneurons.experiments.lab.store import Cell
from tl_taskneurons.plots import similarity_by_layer as draw_similarity


def trained_tasks(lab: Lab) -> list[str]:
    """The first task of each family."""
    return [task for group in groups_of(lab.tasks).values() for task in group["train"]]


def test_tasks(lab: Lab) -> list[str]:
    """Their siblings."""
    return [task for group in groups_of(lab.tasks).values() for task in group["test"]]


def conditions(lab: Lab) -> list[tuple[State, str, int]]:
    """Every fully fine-tuned model with its task and seed."""
    return [
        (lab.trained([name], None, seed), name, seed)
        for name in trained_tasks(lab)
        for seed in lab.plan.seeds
    ]


def cells(lab: Lab) -> list[Cell]:
    """One cell per model: similarities by layer and over all layers, and answers on siblings."""
    sets, siblings = lab.sets(), test_tasks(lab)

    def compare(model: Any, name: str, per_layer: bool) -> pd.DataFrame:
        tables = [
            similarity_over_models(
                {name: model}, sets, siblings, reading=reading, per_layer=per_layer
            )
            for reading in READINGS
        ]
        found = pd.concat(tables, ignore_index=True)
        return found.astype({"layer": int}) if per_layer else found

    return [
        lab.cell(
            state, siblings,
            {_name(lab, "by layer"): partial(compare, name=name, per_layer=True),
             _name(lab, "overall"): partial(compare, name=name, per_layer=False)},
        )
        for state, name, _ in conditions(lab)
    ]  # fmt: skip


def similarities(lab: Lab, which: str = "by layer") -> pd.DataFrame:
    """The rows of ``similarity_over_models`` with ``seed``; ``which`` may be ``"overall"``."""
    lab.store.work([cell for cell in cells(lab) if cell.missing()])
    frames = [
        lab.table(state, _name(lab, which)).assign(seed=seed) for state, _, seed in conditions(lab)
    ]
    return pd.concat(frames, ignore_index=True)


def tables(lab: Lab) -> Tables:
    """The curves: masked matrices, all weights together, one curve per test task."""
    found = similarities(lab)
    curves = similarity_by_layer(found[found["part"] == "all"])
    return {"figure3": curves[curves["reading"] == "masked"].reset_index(drop=True),
            "figure3_readings": similarity_by_layer(found, per_task=False)}  # fmt: skip


def evidence(lab: Lab) -> Tables:
    """For C7."""
    found = similarities(lab)
    return {"similarity": found[(found["part"] == "all") & (found["reading"] == "masked")]}


def draw(found: Tables) -> dict[str, Figure]:
    """Draw the curves, and all readings."""
    return {name: draw_similarity(table) for name, table in found.items()}


def _name(lab: Lab, which: str) -> str:
    """The name of a table of similarities, by what it depends on beside the model."""
    found_on = ",".join(lab.facts(task, n_train=lab.plan.n_detect) for task in lab.tasks.names)
    return f"similarity {which}, {lab.plan.fraction:g}, {found_on}"


EXPERIMENT = Experiment(
    "figure3", "similarity of neurons' parameters by layer", cells, tables, evidence, draw
)
