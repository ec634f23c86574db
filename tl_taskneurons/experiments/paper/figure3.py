"""The paper's Figure 3: similarity of two tasks' neurons' parameters by layer, in tuned models.

The first task of every family is fine-tuned in all weights; in that model its neurons are compared
with those of every sibling, in the three readings. Chance is what random sets with as many neurons
in each layer have there: tasks' neurons crowd in some layers, so it is far from 0. Table 4 uses the
same models.
"""

from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tl_taskneurons.analysis.similarity import READINGS, similarity_over_models
from tl_taskneurons.analysis.similarity_tables import similarity_by_layer
from tl_taskneurons.evaluation.statistics import mean_interval
from tl_taskneurons.experiments.claims.similarity import gaps_by_layer
from tl_taskneurons.experiments.lab import states
from tl_taskneurons.experiments.lab.detection import task_sets
from tl_taskneurons.experiments.lab.experiment import Experiment, Tables
from tl_taskneurons.experiments.lab.groups import groups_of
from tl_taskneurons.experiments.lab.lab import Lab, control, name_of
from tl_taskneurons.experiments.lab.states import Condition, MakeTable, State, Unit
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.plots import sibling_curves
from tl_taskneurons.plots import similarity_by_layer as draw_similarity

CHANCE_DRAWS = 3
_PAIR = ["model", "layer", "part", "task_x", "task_y", "reading"]


class Figure3(Experiment):
    """Similarity of neurons' parameters by layer."""

    name = "figure3"
    title = "similarity of neurons' parameters by layer"

    def conditions(self, lab: Lab) -> list[Condition]:
        """One model per trained task and seed, tested on all siblings."""
        siblings = test_tasks(lab)
        return [
            Condition(
                states.trained(
                    lab, [name], None, lab.plan.transfer_training(seed, all_weights=True)
                ),
                siblings,
                {"model": name, "seed": seed},
            )
            for group in groups_of(lab.tasks).values()
            for name in group.train
            for seed in lab.plan.seeds
        ]

    def units(self, lab: Lab) -> list[Unit]:
        """One unit per model: similarities by layer and over all layers, and answers."""
        return [
            states.answers_unit(lab, condition, self._makers(lab, str(condition.columns["model"])))
            for condition in self.conditions(lab)
        ]

    def similarities(self, lab: Lab, *, by_layer: bool = True) -> pd.DataFrame:
        """The rows of ``similarity_over_models`` with ``chance``, ``siblings`` and ``seed``."""
        lab.store.work([unit for unit in self.units(lab) if unit.missing()])
        found = [
            self._stored(lab, condition.state, condition.columns, by_layer)
            for condition in self.conditions(lab)
        ]
        pairs = {pair for group in groups_of(lab.tasks).values() for pair in group.pairs}
        table = pd.concat(found, ignore_index=True)
        siblings = [pair in pairs for pair in zip(table["task_x"], table["task_y"], strict=True)]
        return table.assign(siblings=siblings)

    def tables(self, lab: Lab) -> Tables:
        """The curves: masked matrices, all weights together, one curve per test task."""
        found = self.similarities(lab)
        curves = similarity_by_layer(found[found["part"] == "all"])
        return {
            "figure3": curves[curves["reading"] == "masked"].reset_index(drop=True),
            "figure3_readings": similarity_by_layer(found, per_task=False),
            "siblings": above_chance(masked(found)),
        }

    def evidence(self, lab: Lab) -> Tables:
        """For C7."""
        return {"similarity": masked(self.similarities(lab))}

    def draw(self, tables: Tables) -> dict[str, Figure]:
        """Draw the curves, all readings, and siblings against other pairs."""
        drawn = {name: draw_similarity(tables[name]) for name in ("figure3", "figure3_readings")}
        above = tables["siblings"]
        return drawn if above.empty else {**drawn, "siblings": sibling_curves(above)}

    def _stored(self, lab: Lab, state: State, columns: Any, by_layer: bool) -> pd.DataFrame:
        name = _table_name(lab, by_layer)
        return lab.store.get(states.table_result(state, name)).assign(seed=columns["seed"])

    def _makers(self, lab: Lab, task: str) -> dict[str, MakeTable]:
        sets = task_sets(lab, states.base(lab))
        return {
            _table_name(lab, by_layer): partial(
                compare, task=task, sets=sets, siblings=test_tasks(lab), by_layer=by_layer
            )
            for by_layer in (True, False)
        }


def test_tasks(lab: Lab) -> list[str]:
    """The siblings of the trained tasks."""
    return [task for group in groups_of(lab.tasks).values() for task in group.test]


def compare(
    model: LanguageModel,
    *,
    task: str,
    sets: dict[str, NeuronSet],
    siblings: list[str],
    by_layer: bool,
) -> pd.DataFrame:
    """A model's similarities in all readings, with those of random sets as ``chance``."""
    tables = []
    for reading in READINGS:
        options: dict[str, Any] = {"reading": reading, "per_layer": by_layer}
        own = similarity_over_models({task: model}, sets, siblings, **options)
        drawn = [
            similarity_over_models({task: model}, _random(sets, seed), siblings, **options)
            for seed in range(CHANCE_DRAWS)
        ]
        means = pd.concat(drawn).groupby(_PAIR, sort=False)["similarity"].mean()
        tables.append(own.join(means.rename("chance"), on=_PAIR))
    found = pd.concat(tables, ignore_index=True)
    return found.astype({"layer": int}) if by_layer else found


def masked(found: pd.DataFrame) -> pd.DataFrame:
    """All weights together, in the reading of masked matrices."""
    return found[(found["part"] == "all") & (found["reading"] == "masked")]


def above_chance(found: pd.DataFrame) -> pd.DataFrame:
    """Similarity beyond chance of siblings, of other pairs, and the difference, by layer (C7).

    Returns:
        ``pairs, layer, similarity, low, high, n_models``: means over models (each the mean of its
        seeds) with 95% intervals over models.
    """
    gaps = gaps_by_layer(found).dropna()
    per_model = gaps.groupby(["model", "layer"]).mean().unstack("model")
    rows = []
    for kind in gaps.columns:
        for layer, values in per_model[kind].iterrows():
            low, high = mean_interval(values.to_numpy()[None])
            rows.append(
                {"pairs": kind, "layer": layer, "similarity": values.mean(), "low": low,
                 "high": high, "n_models": len(values)}
            )  # fmt: skip
    columns = ["pairs", "layer", "similarity", "low", "high", "n_models"]
    return pd.DataFrame(rows, columns=columns)


def _random(sets: dict[str, NeuronSet], seed: int) -> dict[str, NeuronSet]:
    return {name: control(neurons, name, "layer", seed) for name, neurons in sets.items()}


def _table_name(lab: Lab, by_layer: bool) -> str:
    """The name of a table of similarities, by what it depends on beside the model."""
    sets = [name_of(neurons) for neurons in task_sets(lab, states.base(lab)).values()]
    return f"similarity {'by layer' if by_layer else 'overall'}, {','.join(sets)}"
