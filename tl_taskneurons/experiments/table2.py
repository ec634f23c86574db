r"""The paper's Table 2 and Figure 5 (c, d): zero-shot, random or task neurons trained.

Every task is trained alone, in its own top neurons and in random ones (as many in each layer), and
tested on itself; after training its own neurons it is tested on all tasks, for the matrix.

    python -m tl_taskneurons.experiments.table2 --model mini-llama-base --out runs/table2
    python -m tl_taskneurons.experiments.table2 --model smollm2-135m --data DATA \
        --tasks sst2,agnews,sciq --steps 30 --batch-size 8 --out runs/table2-smollm2
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from tl_taskneurons.experiments.trained import (
    Experiment,
    interval,
    open_experiment,
    publish,
    seed_rows,
)
from tl_taskneurons.summaries import bootstrap


def run(experiment: Experiment) -> pd.DataFrame:
    """Train and test; rows per example, with ``trained``, ``neurons`` and ``seed``."""
    plan, tasks = experiment.plan, experiment.tasks.names
    sets = {name: s.top(fraction=plan.fraction) for name, s in experiment.scores().items()}
    cells = []
    for seed in plan.seeds:
        for name in tasks:
            for kind in ("task", "random"):
                neurons = sets[name] if kind == "task" else sets[name].random_like(seed)
                tested = tasks if kind == "task" else (name,)

                def cell(
                    name=name, kind=kind, neurons=neurons, tested=tested, seed=seed
                ) -> pd.DataFrame:
                    unit = f"{kind}/{name}-{seed}"
                    frame = experiment.cell(unit, neurons, [name], tested, seed)
                    return frame.assign(trained=name, neurons=kind)

                cells.append(cell)
    return experiment.over("table 2", cells)


def table(plain: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """One row per task: zero-shot, train-random, train-task, and the gain of task over random.

    ``excess`` is task minus random; its interval resamples seeds and items in pairs. Losses in nats
    per token.
    """
    rows = []
    for task, base in plain.groupby("task", sort=False):
        own = items[(items["trained"] == task) & (items["task"] == task)]
        chosen, random = (own[own["neurons"] == kind] for kind in ("task", "random"))
        low, high = bootstrap(seed_rows(chosen) - seed_rows(random))
        row = {
            "task": task, "metric": base["metric"].iloc[0], "zero_shot": base["score"].mean(),
            "excess": chosen["score"].mean() - random["score"].mean(), "excess_low": low,
            "excess_high": high, "loss_zero_shot": base["loss"].mean(),
            "loss_random": random["loss"].mean(), "loss_task": chosen["loss"].mean(),
            "n": len(base),
        }  # fmt: skip
        for kind, group in (("random", random), ("task", chosen)):
            found = interval(group)
            row |= {
                f"train_{kind}": found["score"], f"train_{kind}_low": found["low"],
                f"train_{kind}_high": found["high"],
            }  # fmt: skip
        rows.append(row)
    return pd.DataFrame(rows)


def matrix(plain: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Change on every task when each task's neurons are trained: rows ``trained``, ``task``.

    ``change`` (of the metric, 0 to 1) and ``loss_change`` (nats per token) are trained minus
    zero-shot, averaged over seeds and items.
    """
    base = {str(task): part.sort_values("item") for task, part in plain.groupby("task")}
    rows = []
    own = items[items["neurons"] == "task"]
    for key, group in own.groupby(["trained", "task"], sort=False):
        trained, task = (str(name) for name in key)
        row = {"trained": trained, "task": task, "metric": group["metric"].iloc[0]}
        for column, prefix in (("score", ""), ("loss", "loss_")):
            before = base[task][column].to_numpy()
            change = seed_rows(group, column) - before
            low, high = bootstrap(change)
            row |= {
                f"{prefix}change": float(np.mean(change)), f"{prefix}low": low,
                f"{prefix}high": high,
            }  # fmt: skip
        rows.append(row | {"n": len(base[task])})
    return pd.DataFrame(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the experiment from the command line."""
    experiment, given = open_experiment("table2", __doc__, arguments)
    plain, items = experiment.plain(), run(experiment)
    publish(experiment, given, table=table(plain, items), matrix=matrix(plain, items))


if __name__ == "__main__":
    main()
