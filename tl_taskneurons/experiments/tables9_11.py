"""The paper's Tables 9-11: overlap with the test tasks' neurons, at a fixed share of neurons.

The trained set is drawn at random, partly from the test tasks' neurons and partly from the rest, so
that its size stays the same while its overlap with them goes from low to full. Overlap here is the
part of the trained set that lies in the test tasks' set (of the same size).

    python -m tl_taskneurons.experiments.tables9_11 --model mini-llama-base --out runs/tables9_11
"""

from collections.abc import Sequence

import pandas as pd
import torch

from tl_taskneurons.experiments.trained import (
    Experiment,
    groups_of,
    interval,
    open_experiment,
    publish,
    union_scores,
)
from tl_taskneurons.neurons import NeuronSet

SHARES = (0.1, 0.3, 0.5)
OVERLAPS = (0.1, 0.4, 0.7, 1.0)


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
        raise ValueError(f"overlap is {overlap}; it is a part of the set, from 0 to 1.")
    inside = round(overlap * len(target))
    outside = len(target) - inside
    room = target.mask.numel() - len(target)
    if outside > room:
        least = 1 - room / len(target)
        raise ValueError(
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


def run(
    experiment: Experiment,
    shares: Sequence[float] = SHARES,
    overlaps: Sequence[float] = OVERLAPS,
) -> pd.DataFrame:
    """Train drawn sets on each group's training tasks and test on its siblings."""
    scores = experiment.scores()
    cells = []
    for name, group in groups_of(experiment.tasks).items():
        wanted = union_scores(scores, group["test"])
        for share in shares:
            for overlap in overlaps:
                for seed in experiment.plan.seeds:

                    def cell(
                        name=name, group=group, wanted=wanted, share=share, overlap=overlap,
                        seed=seed,
                    ) -> pd.DataFrame:  # fmt: skip
                        unit = f"{name}/{share:g}-{overlap:g}-{seed}"
                        neurons = draw_overlapping(wanted.top(fraction=share), overlap, seed)
                        frame = experiment.cell(unit, neurons, group["train"], group["test"], seed)
                        return frame.assign(group=name, fraction=share, overlap=overlap)

                    cells.append(cell)
    items = experiment.over("tables 9-11", cells)
    rows = [
        {"train_group": name, "test_group": name, "fraction": share, "overlap": overlap,
         "metric": part["metric"].iloc[0], **interval(part), "loss": part["loss"].mean()}
        for (name, share, overlap), part in items.groupby(
            ["group", "fraction", "overlap"], sort=False
        )
    ]  # fmt: skip
    return pd.DataFrame(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the experiment from the command line."""
    experiment, given = open_experiment("tables9_11", __doc__, arguments)
    publish(experiment, given, table=run(experiment))


if __name__ == "__main__":
    main()
