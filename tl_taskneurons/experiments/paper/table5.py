"""The paper's Table 5 and Figure 4: ways to learn tasks in a row, trained to the same depth.

Every method trains every order with every seed, with the learning rate and the updates that
``row_budgets`` chose for it on single tasks. What is retained (FG) has the score by guessing taken
away, so that a method that learnt nothing retains nothing; ``fg_paper`` is the paper's, with it.
Examples are drawn anew for each seed.

How long stages take is not among the tables, which must be the same bytes in every run; the store
notes the seconds of each row beside it.
"""

from collections.abc import Iterator
from dataclasses import asdict

import pandas as pd
from matplotlib.figure import Figure

from tl_taskneurons.continual import matrix
from tl_taskneurons.continual.method import find_method
from tl_taskneurons.continual.orders import order as tasks_of_order
from tl_taskneurons.continual.sequence import run_sequence
from tl_taskneurons.evaluation.statistics import clustered
from tl_taskneurons.experiments.lab import gates, primer
from tl_taskneurons.experiments.lab.experiment import Experiment, Tables
from tl_taskneurons.experiments.lab.lab import Lab
from tl_taskneurons.experiments.lab.store import Key, Result, Unit, digest
from tl_taskneurons.experiments.paper import row_budgets, row_start
from tl_taskneurons.experiments.paper.row_budgets import Budget, budget, order_tasks, row_seeds
from tl_taskneurons.plots import forgetting_curves
from tl_taskneurons.tasks.task import Tasks, tasks_digest
from tl_taskneurons.training.settings import Training


class Table5(Experiment):
    """Tasks in a row, with Figure 4."""

    name = "table5"
    title = "tasks in a row, with Figure 4"
    needs_neurons = False  # each method finds those of its tasks

    def units(self, lab: Lab) -> list[Unit]:
        """One per method, order, seed and kind of instructions; what learns alike shares a lock."""
        rows = [
            lab.store.unit(
                f"{about['method']} on {about['order']}",
                row,
                _row_flops(lab, about["order"], about["updates"]),
                lock=digest([_learner(lab, about["method"]), about["order"], about["seed"]]),
            )
            for row, about in self._rows(lab)
        ]
        return [*row_start.units(lab), *rows]

    def stages(self, lab: Lab) -> pd.DataFrame:
        """All rows by stage.

        Columns ``method, order, seed, instructions, lr, updates, reached, stage, task, cl, fg,
        fg_paper, bwt, fwt, alone``.
        """
        frames = [lab.store.get(row).assign(**about) for row, about in self._rows(lab)]
        return pd.concat(frames, ignore_index=True)

    def tables(self, lab: Lab) -> Tables:
        """Table 5, the curves of Figure 4, the choice of rates, and what is known beforehand."""
        found = self.stages(lab)
        return {
            "table5": table(last_stages(found)),
            "figure4": curves(found),
            "table5_rates": row_budgets.table(lab),
            "table5_start": row_start.table(lab),
        }

    def evidence(self, lab: Lab) -> Tables:
        """For C9 and C10, of the first kind of instructions."""
        found = self.stages(lab)
        main = found[found["instructions"] == lab.plan.sequences.instructions[0]]
        return {"rows": last_stages(main), "stages": main}

    def draw(self, tables: Tables) -> dict[str, Figure]:
        """Draw the curves of the first kind of instructions, where a row has two tasks or more."""
        found = tables["figure4"]
        if found.empty:
            return {}
        main = found[found["instructions"] == found["instructions"].iloc[0]]
        return {"figure4": forgetting_curves(main)}

    def _rows(self, lab: Lab) -> Iterator[tuple[Result[pd.DataFrame], dict]]:
        sizes = lab.plan.sequences
        for instructions in sizes.instructions:
            for seed in row_seeds(lab):
                for order in sizes.orders:
                    for method in sizes.methods:
                        chosen = budget(lab, method, instructions)
                        about = {
                            "method": method, "order": order, "seed": seed,
                            "instructions": instructions, **asdict(chosen),
                        }  # fmt: skip
                        tasks = order_tasks(lab, order, seed, instructions)
                        yield _row(lab, method, tasks, chosen, seed), about


def last_stages(found: pd.DataFrame) -> pd.DataFrame:
    """The last stage of every row."""
    keys = ["method", "order", "seed", "instructions"]
    return found.loc[found.groupby(keys, sort=False)["stage"].idxmax()]


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the means of each method by order, and over all orders (``order`` is ``"all"``).

    Rows of one seed share tasks and items, so intervals are over seeds: a method's value for a seed
    is its mean over the orders.

    Returns:
        ``instructions, method, order, lr, updates, reached, rows, seeds``, then ``cl, cl_low,
        cl_high`` and likewise ``fg``, then ``fg_paper, bwt, fwt, alone``. Intervals are at 95%.
    """
    found = []
    for (instructions, method), own in rows.groupby(["instructions", "method"], sort=False):
        for order, group in [*own.groupby("order", sort=False), ("all", own)]:
            line = {
                "instructions": instructions,
                "method": method,
                "order": order,
                **{name: group[name].iloc[0] for name in ("lr", "updates", "reached")},
                "rows": len(group),
                "seeds": group["seed"].nunique(),
            }
            for name in ("cl", "fg"):
                line |= _mean_over_seeds(group, name)
            found.append(line | {name: group[name].mean() for name in _MEANS})
    return pd.DataFrame(found)


_MEANS = ("fg_paper", "bwt", "fwt", "alone")


def curves(stages: pd.DataFrame) -> pd.DataFrame:
    """Return what is retained at each stage (Figure 4).

    Returns:
        ``instructions, method, stage, fg, fg_low, fg_high`` from the second stage on; the ends of
        intervals are named ``low`` and ``high``.
    """
    keys = ["instructions", "method", "stage"]
    later = stages[stages["stage"] > 1]
    # Means over other seeds than those of the other methods would not compare with theirs.
    later = later[~later["fg"].isna().groupby([later[key] for key in keys]).transform("any")]
    found = [
        {**dict(zip(keys, key, strict=True)), **_mean_over_seeds(group, "fg")}
        for key, group in later.groupby(keys, sort=False)
    ]
    renamed = {"fg_low": "low", "fg_high": "high"}
    columns = [*keys, "fg", "fg_low", "fg_high"]
    return pd.DataFrame(found, columns=columns).rename(columns=renamed)


def _mean_over_seeds(rows: pd.DataFrame, name: str) -> dict[str, float]:
    if rows[name].isna().any():
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"), float("nan"))
    found = clustered(rows[name], rows["seed"])
    return {name: float(rows[name].mean()), f"{name}_low": found.low, f"{name}_high": found.high}


def _learner(lab: Lab, method: str) -> str:
    sizes = lab.plan.sequences
    return repr(find_method(method, lab.plan.fraction, sizes.score_limit).learner)


def _row(lab: Lab, method: str, tasks: Tasks, chosen: Budget, seed: int) -> Result[pd.DataFrame]:
    """One row of tasks: ``stage, task, cl, fg, fg_paper, n_parameters, bwt, fwt, alone``."""
    sizes, start = lab.plan.sequences, primer.state(lab)
    training = chosen.training(sizes.batch_size, seed)

    def compute() -> pd.DataFrame:
        with start.enter() as model:
            result = run_sequence(
                model,
                tasks,
                method,
                training,
                fraction=lab.plan.fraction,
                score_limit=sizes.score_limit,
                seed=seed,
                prompt=lab.plan.prompt,
                store=lab.store.folder / "pieces",
            )
        last = result.summary.iloc[0]
        found = result.stages.drop(columns=["seconds", "peak_mib"])
        alone = result.alone.set_index("task")["value"].loc[list(result.order)]
        chance = [gates.floor(tasks[name]) for name in result.order]
        above = matrix.stage_table(result.matrix.to_numpy()[:, 1:], alone, chance)["fg"]
        return found.rename(columns={"fg": "fg_paper"}).assign(
            fg=above.to_numpy(), bwt=last["bwt"], fwt=last["fwt"], alone=last["alone"]
        )

    found = find_method(method, lab.plan.fraction, sizes.score_limit)
    return Result("rows", _key(lab, repr(found), tasks, training), compute)


def _key(lab: Lab, method: str, tasks: Tasks, training: Training) -> Key:
    return {
        **primer.state(lab).key,
        "method": method,
        "on": lab.once(("row", id(tasks)), lambda: (tasks, tasks_digest(tasks)))[1],
        "training": asdict(training),
        "asked": lab.prompt_key,
    }


def _row_flops(lab: Lab, order: str, updates: int) -> float:
    sizes = lab.plan.sequences
    tasks = order_tasks(lab, order, row_seeds(lab)[0], sizes.instructions[0])
    mean = sum(map(lab.tokens, tasks)) / len(tasks)
    training = 6 * updates * sizes.batch_size
    testing = 2 * sizes.n_test * (len(tasks) + 1) * 5  # every task, some labels each
    return lab.n_parameters * mean * (training + testing) * len(tasks_of_order(order))
