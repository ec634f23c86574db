"""The paper's Tables 9-11: overlap with the test tasks' neurons, at a fixed share of neurons.

The trained set is drawn at random, partly from the test tasks' neurons and partly from the rest, so
that its size stays the same while its overlap with them goes from low to full. Overlap here is the
part of the trained set that lies in the test tasks' set (of the same size). The trained tasks are
tested too: where their loss falls as much, overlap made training better, not transfer.
"""

import pandas as pd
import torch
from matplotlib.figure import Figure

from tl_taskneurons.experiments.lab import states
from tl_taskneurons.experiments.lab.detection import scores
from tl_taskneurons.experiments.lab.experiment import Experiment, Tables
from tl_taskneurons.experiments.lab.groups import groups_of, interval, union_scores
from tl_taskneurons.experiments.lab.lab import Lab, draw_seed
from tl_taskneurons.experiments.lab.states import Condition
from tl_taskneurons.experiments.paper.figure2 import IN, OUT
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.plots import controlled_overlap_curves
from tl_taskneurons.runtime.errors import InputError


class Tables9To11(Experiment):
    """Transfer against overlap at a fixed share."""

    name = "tables9_11"
    title = "transfer against overlap at a fixed share"

    def conditions(self, lab: Lab) -> list[Condition]:
        """Every drawn set trained on a group's tasks, which are tested with their siblings."""
        found = scores(lab, states.base(lab))
        conditions = []
        for name, group in groups_of(lab.tasks).items():
            wanted = union_scores(found, group.test)
            for share in lab.plan.fixed_shares:
                target = wanted.top(fraction=share)
                for overlap in lab.plan.overlaps:
                    for seed in lab.plan.seeds:
                        drawn = draw_seed("overlap", name, share, overlap, seed)
                        neurons = draw_overlapping(target, overlap, drawn)
                        training = lab.plan.transfer_training(seed, len(group.train))
                        state = states.trained(lab, group.train, neurons, training)
                        columns = {
                            "group": name, "fraction": share, "overlap": overlap, "seed": seed,
                            "lr": training.lr,
                        }  # fmt: skip
                        conditions.append(Condition(state, (*group.train, *group.test), columns))
        return conditions

    def items(self, lab: Lab) -> pd.DataFrame:
        """All answers: with ``group, fraction, overlap, kind`` and ``seed``."""
        trained = {task for group in groups_of(lab.tasks).values() for task in group.train}
        found = super().items(lab)
        return found.assign(kind=found["task"].isin(trained).map({True: IN, False: OUT}))

    def tables(self, lab: Lab) -> Tables:
        """The table, all shares together."""
        return {"tables9_11": table(self.items(lab))}

    def evidence(self, lab: Lab) -> Tables:
        """For C6."""
        return {"controlled": self.items(lab)}

    def draw(self, tables: Tables) -> dict[str, Figure]:
        """Draw the curves of the siblings."""
        found = tables["tables9_11"]
        return {"tables9_11": controlled_overlap_curves(found[found["kind"] == OUT])}


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
        mask[places[torch.randperm(len(places), generator=generator, device="cpu")[:count]]] = True
    info = {"overlaps": target.name, "overlap": overlap, "seed": seed}
    return NeuronSet(
        mask.reshape(target.mask.shape), target.fingerprint, f"{overlap:.0%} of {target.name}", info
    )


def table(items: pd.DataFrame) -> pd.DataFrame:
    """One row per group, kind of tested tasks, share and overlap; losses in nats per token."""
    rows = [
        {
            "train_group": name,
            "test_group": name,
            "kind": kind,
            "fraction": share,
            "overlap": overlap,
            "metric": part["metric"].iloc[0],
            **interval(part),
            **interval(part, "loss"),
            "lr": part["lr"].iloc[0],
        }
        for (name, kind, share, overlap), part in items.groupby(
            ["group", "kind", "fraction", "overlap"], sort=False
        )
    ]
    return pd.DataFrame(rows)
