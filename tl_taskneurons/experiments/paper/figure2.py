"""The paper's Figure 2: three tasks trained together in a growing share of their neurons.

The first task of every family is trained, classification and generation apart, in the top share of
the neurons by their scores on these tasks together, and tested on the same tasks (specialization)
and on their siblings (generalization, within and across the two types).
"""

import pandas as pd
from matplotlib.figure import Figure

from tl_taskneurons.experiments.lab.experiment import Experiment, Tables
from tl_taskneurons.experiments.lab.groups import groups_of, interval, union_scores
from tl_taskneurons.experiments.lab.lab import Condition, Lab, cells_of
from tl_taskneurons.experiments.lab.store import Cell
from tl_taskneurons.plots import share_curves


def conditions(lab: Lab) -> list[Condition]:
    """Every trained state with the tasks that are tested in it and what describes it."""
    groups, scores = groups_of(lab.tasks), lab.scores()
    found = []
    for name, group in groups.items():
        union = union_scores(scores, group["train"])
        siblings = tuple(task for other in groups.values() for task in other["test"])
        for fraction in lab.plan.shares:
            for seed in lab.plan.seeds:
                state = lab.trained(group["train"], union.top(fraction=fraction), seed)
                about = {"train_group": name, "fraction": fraction, "seed": seed}
                found.append((state, (*group["train"], *siblings), about))
    return found


def cells(lab: Lab) -> list[Cell]:
    """One cell per trained state."""
    return cells_of(lab, conditions(lab))


def items(lab: Lab) -> pd.DataFrame:
    """All answers: with ``train_group, test_group, kind, fraction`` and ``seed``."""
    groups = groups_of(lab.tasks)
    group_of = {
        task: name for name, group in groups.items() for side in group.values() for task in side
    }
    frames = []
    for state, tested, columns in conditions(lab):
        frame = lab.items(state, tested, **columns)
        trained = frame["task"].isin(groups[str(columns["train_group"])]["train"])
        frames.append(
            frame.assign(
                test_group=frame["task"].map(group_of),
                kind=trained.map({True: "in-domain", False: "out-of-domain"}),
            )
        )
    return pd.concat(frames, ignore_index=True)


def table(items: pd.DataFrame) -> pd.DataFrame:
    """One row per trained group, tested group, kind and share."""
    keys = ["train_group", "test_group", "kind", "fraction"]
    rows = [
        {**dict(zip(keys, key, strict=True)), "metric": part["metric"].iloc[0], **interval(part),
         "loss": part["loss"].mean()}
        for key, part in items.groupby(keys, sort=False)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def tables(lab: Lab) -> Tables:
    """The table behind the figure."""
    return {"figure2": table(items(lab)).assign(lr=lab.lr())}


def evidence(lab: Lab) -> Tables:
    """For C4."""
    return {"together": items(lab)}


def draw(found: Tables) -> dict[str, Figure]:
    """Draw the curves."""
    return {"figure2": share_curves(found["figure2"])}


EXPERIMENT = Experiment(
    "figure2", "a growing share of neurons, tasks trained together", cells, tables, evidence, draw
)
