"""The paper's Figures 2 and 6: more and more of the neurons are trained.

Figure 2 trains the first task of every family together, classification and generation apart, in
the top share of the neurons by their scores on these tasks, and tests on the same tasks
(specialization) and on their siblings (generalization, within and across the two types).
``--alone`` trains one task at a time instead (Figure 6).

    python -m tl_taskneurons.experiments.figure2 --model mini-llama-base --out runs/figure2
    python -m tl_taskneurons.experiments.figure2 --alone --out runs/figure6
"""

import argparse
import sys
from collections.abc import Sequence

import pandas as pd

from tl_taskneurons.experiments.trained import (
    Experiment,
    groups_of,
    interval,
    open_experiment,
    publish,
    union_scores,
)

FRACTIONS = (0.1, 0.3, 0.5, 0.7, 1.0)


def run_groups(experiment: Experiment, fractions: Sequence[float] = FRACTIONS) -> pd.DataFrame:
    """Train each group at each share; one row per group, tested group, kind and share."""
    groups = groups_of(experiment.tasks)
    scores = experiment.scores()
    cells = []
    for name, group in groups.items():
        union = union_scores(scores, group["train"])
        tested = [
            *group["train"], *(task for other in groups.values() for task in other["test"])
        ]  # fmt: skip
        for fraction in fractions:
            for seed in experiment.plan.seeds:

                def cell(
                    name=name, group=group, union=union, tested=tested, fraction=fraction, seed=seed
                ) -> pd.DataFrame:
                    unit = f"{name}/{fraction:g}-{seed}"
                    neurons = union.top(fraction=fraction)
                    frame = experiment.cell(unit, neurons, group["train"], tested, seed)
                    return frame.assign(train_group=name, fraction=fraction)

                cells.append(cell)
    items = experiment.over("figure 2", cells)
    rows = []
    for key, part in items.groupby(["train_group", "fraction"], sort=False):
        name, fraction = str(key[0]), key[1]
        sides = [(name, "in-domain", groups[name]["train"])]
        sides += [(other, "out-of-domain", group["test"]) for other, group in groups.items()]
        for other, kind, tasks in sides:
            chosen = part[part["task"].isin(tasks)]
            rows.append(
                {"train_group": name, "test_group": other, "kind": kind, "fraction": fraction,
                 "metric": chosen["metric"].iloc[0], **interval(chosen),
                 "loss": chosen["loss"].mean()}
            )  # fmt: skip
    return pd.DataFrame(rows)


def run_alone(experiment: Experiment, fractions: Sequence[float] = FRACTIONS) -> pd.DataFrame:
    """Train the first task of each family alone; test it and its sibling."""
    scores = experiment.scores()
    pairs = [
        pair
        for group in groups_of(experiment.tasks).values()
        for pair in zip(group["train"], group["test"], strict=True)
    ]
    cells = []
    for trained, sibling in pairs:
        for fraction in fractions:
            for seed in experiment.plan.seeds:

                def cell(
                    trained=trained, sibling=sibling, fraction=fraction, seed=seed
                ) -> pd.DataFrame:
                    unit = f"{trained}/{fraction:g}-{seed}"
                    neurons = scores[trained].top(fraction=fraction)
                    frame = experiment.cell(unit, neurons, [trained], [trained, sibling], seed)
                    return frame.assign(trained=trained, fraction=fraction)

                cells.append(cell)
    items = experiment.over("figure 6", cells)
    rows = [
        {"task": trained, "tested": task, "fraction": fraction,
         "kind": "in-domain" if task == trained else "out-of-domain",
         "metric": part["metric"].iloc[0], **interval(part), "loss": part["loss"].mean()}
        for (trained, fraction, task), part in items.groupby(
            ["trained", "fraction", "task"], sort=False
        )
    ]  # fmt: skip
    return pd.DataFrame(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the experiment from the command line."""
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--alone", action="store_true")
    chosen, rest = first.parse_known_args(sys.argv[1:] if arguments is None else list(arguments))
    name = "figure6" if chosen.alone else "figure2"
    experiment, given = open_experiment(name, __doc__, rest)
    run = run_alone if chosen.alone else run_groups
    publish(experiment, given, table=run(experiment))


if __name__ == "__main__":
    main()
