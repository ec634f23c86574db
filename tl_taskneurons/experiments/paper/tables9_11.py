"""The paper's Tables 9-11: overlap with the test tasks' neurons, at a fixed share of neurons.

The trained set is drawn at random, partly from the test tasks' neurons and partly from the rest, so
that its size stays the same while its overlap with them goes from low to full. Overlap here is the
part of the trained set that lies in the test tasks' set (of the same size).
"""

import pandas as pd
import torch
from matplotlib.figure import Figure

from tl_taskneurons.experiments.lab.experiment import Experiment, Tables
from tl_taskneurons.experiments.lab.groups import groups_of, interval, union_scores
from tl_taskneurons.experiments.lab.lab import Condition, Lab, cells_of, items_of
from tl_taskneurons.experiments.lab.store import Cell
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.plots import controlled_overlap_curves
from tl_taskneurons.runtime.errors import InputError


def draw_overlapping(target: NeuronSet, overlap: float, seed: int) -> NeuronSet:
    """Draw as many neurons as a set has, a given part of them from within the set.

    Args:
        target: the set to overlap with.
        overlap: the part, from 0 to 1, that lies in ``target`` (rounded to whole neurons).
        seed: of the draw.

    Raises:
        ValueError: for an overlap outside 0 to 1, or too few neurons outside the set.
    """
    if not 0 <= overlap <= 1:
        raise InputError(f"overlap is {overlap}; it is a part of the set, from 0 to 1.")
    inside = round(overlap * len(target))
    outside = len(target) - inside
    room = target.mask.numel() - len(target)
    if outside > room:
        least = 1 - room / len(target)
        raise InputError(
            f"{len(target)} neurons with an overlap of {overlap:.0%} need {outside} outside "
            f"{target.name!r}, but there are {room}; the overlap must be at least {least:.0%}."
        )
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros_like(target.mask).flatten()
    members = target.mask.flatten()
    for pool, count in ((members.nonzero(), inside), ((~members).nonzero(), outside)):
        places = pool.flatten()
        mask[places[torch.randperm(len(places), generator=generator)[:count]]] = True
    info = {"overlaps": target.name, "overlap": overlap, "seed": seed}
    return NeuronSet(
        mask.reshape(target.mask.shape), target.fingerprint, f"{overlap:.0%} of {target.name}", info
    )


def conditions(lab: Lab) -> list[Condition]:
    """Every drawn set trained on a group's tasks, with the siblings that are tested."""
    scores = lab.scores()
    found = []
    for name, group in groups_of(lab.tasks).items():
        wanted = union_scores(scores, group["test"])
        for share in lab.plan.fixed_shares:
            target = wanted.top(fraction=share)
            for overlap in lab.plan.overlaps:
                for seed in lab.plan.seeds:
                    neurons = draw_overlapping(target, overlap, seed)
                    state = lab.trained(group["train"], neurons, seed)
                    about = {"group": name, "fraction": share, "overlap": overlap, "seed": seed}
                    found.append((state, group["test"], about))
    return found


def cells(lab: Lab) -> list[Cell]:
    """One cell per trained state."""
    return cells_of(lab, conditions(lab))


def items(lab: Lab) -> pd.DataFrame:
    """All answers: with ``group, fraction, overlap`` and ``seed``."""
    return items_of(lab, conditions(lab))


def table(items: pd.DataFrame) -> pd.DataFrame:
    """One row per group, share and overlap."""
    rows = [
        {"train_group": name, "test_group": name, "fraction": share, "overlap": overlap,
         "metric": part["metric"].iloc[0], **interval(part), "loss": part["loss"].mean()}
        for (name, share, overlap), part in items.groupby(
            ["group", "fraction", "overlap"], sort=False
        )
    ]  # fmt: skip
    return pd.DataFrame(rows)


def tables(lab: Lab) -> Tables:
    """The table, all shares together."""
    return {"tables9_11": table(items(lab)).assign(lr=lab.lr())}


def evidence(lab: Lab) -> Tables:
    """For C6."""
    return {"controlled": items(lab)}


def draw(found: Tables) -> dict[str, Figure]:
    """Draw the curves."""
    return {"tables9_11": controlled_overlap_curves(found["tables9_11"])}


EXPERIMENT = Experiment(
    "tables9_11", "transfer against overlap at a fixed share", cells, tables, evidence, draw
)
