"""The paper's Table 5 and Figure 4: ways to learn tasks in a row, all with the same budget.

Every method trains every order with every seed, each stage on as many examples in as many steps.
Learning rates are chosen by what a method learns of single tasks, never by how a row ends: each
task of the first order is trained alone, and tested on training examples that are held out, at a
seed that no reported row has. Tasks that are drawn (mini) are drawn anew for each seed.

How long stages take is not among the tables, which must be the same bytes in every run; the store
notes the seconds of each row beside it.
"""

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from tl_taskneurons.continual.method import find_method
from tl_taskneurons.continual.orders import order as tasks_of_order
from tl_taskneurons.continual.sequence import run_sequence
from tl_taskneurons.evaluation.statistics import clustered
from tl_taskneurons.experiments.lab.experiment import Experiment, Tables
from tl_taskneurons.experiments.lab.lab import Lab
from tl_taskneurons.experiments.lab.presets import hub_limit
from tl_taskneurons.experiments.lab.rates import SEED
from tl_taskneurons.experiments.lab.search import RateSearch, stand_in
from tl_taskneurons.experiments.lab.store import Key, Result, Unit, digest
from tl_taskneurons.loading.tasks import load_tasks
from tl_taskneurons.plots import forgetting_curves
from tl_taskneurons.tasks.task import Tasks, tasks_digest
from tl_taskneurons.training.settings import Training

# Learners that train all weights, which take smaller steps than neurons and adapters.
ALL_WEIGHTS = ("WeightLearner", "JointLearner")
# The same for all tasks; of words that the miniature's models know.
NEUTRAL_INSTRUCTION = "Choose the class."


class Table5(Experiment):
    """Tasks in a row, with Figure 4."""

    name = "table5"
    title = "tasks in a row, with Figure 4"

    def units(self, lab: Lab) -> list[Unit]:
        """One per method, order, seed and kind of instructions; what learns alike shares a lock."""
        return [
            lab.store.unit(
                f"{about['method']} on {about['order']}",
                row,
                _stage_flops(lab, about["order"]) * len(tasks_of_order(about["order"])),
                lock=digest([_learner(lab, about["method"]), about["order"], about["seed"]]),
            )
            for row, about in self._rows(lab)
        ]

    def stages(self, lab: Lab) -> pd.DataFrame:
        """All rows by stage.

        Columns ``method, order, seed, instructions, lr, stage, task, cl, fg, bwt, fwt, alone``.
        """
        frames = [lab.store.get(row).assign(**about) for row, about in self._rows(lab)]
        return pd.concat(frames, ignore_index=True)

    def tables(self, lab: Lab) -> Tables:
        """Table 5, the curves of Figure 4, and the choice of rates."""
        found = self.stages(lab)
        return {
            "table5": table(last_stages(found)),
            "figure4": curves(found.dropna(subset="fg")),
            "table5_rates": rate_table(lab),
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
            for seed in lab.plan.seeds:
                for order in sizes.orders:
                    for method in sizes.methods:
                        lr = chosen_rate(lab, method, instructions)
                        about = {
                            "method": method, "order": order, "seed": seed,
                            "instructions": instructions, "lr": lr,
                        }  # fmt: skip
                        tasks = order_tasks(lab, order, seed, instructions)
                        yield _row(lab, method, tasks, _training(lab, lr, seed)), about


def order_tasks(lab: Lab, order: str, seed: int, instructions: str) -> Tasks:
    """Load the tasks of an order: training, then test and held-out examples apart from it."""

    def load() -> Tasks:
        sizes = lab.plan.sequences
        n_train = sizes.n_train + sizes.n_test
        most = hub_limit(lab.data, n_train)
        loaded = load_tasks(lab.data, tasks_of_order(order), seed=seed, limit=most)
        tasks = [task.shorter(lab.plan.max_chars).limit(n_train, sizes.n_test) for task in loaded]
        if instructions == "neutral":
            tasks = [replace(task, instruction=NEUTRAL_INSTRUCTION) for task in tasks]
        return Tasks(tasks)

    return lab.once(("order", order, seed, instructions), load)


def rates_of(lab: Lab, method: str) -> tuple[float, ...]:
    """The grid of learning rates for a method; all weights take a third of each."""
    sizes = lab.plan.sequences
    if method in dict(sizes.given_rates):
        return (dict(sizes.given_rates)[method],)
    kind = type(find_method(method).learner).__name__
    return tuple(rate / 3 if kind in ALL_WEIGHTS else rate for rate in sizes.rates)


def chosen_rate(lab: Lab, method: str, instructions: str) -> float:
    """The rate of lowest held-out loss over single tasks; methods that learn alike share it."""
    key = ("sequence rate", _learner(lab, method), rates_of(lab, method), instructions)
    return lab.once(key, rate_search(lab, method, instructions).best)


def rate_search(lab: Lab, method: str, instructions: str) -> RateSearch:
    """The choice of a method's rate."""
    grid = rates_of(lab, method)
    order = lab.plan.sequences.orders[0]

    def results(lr: float) -> list[tuple[Result[pd.DataFrame], float]]:
        tasks = order_tasks(lab, order, SEED, instructions)
        flops = _stage_flops(lab, order)
        return [(_alone(lab, method, tasks, name, lr, grid), flops) for name in tasks.names]

    return RateSearch(lab.store, grid, results)


def rate_searches(lab: Lab) -> list[RateSearch]:
    """The choices that the rows need."""
    return [rate_search(lab, method, each) for method, each in _methods(lab)]


def rate_table(lab: Lab) -> pd.DataFrame:
    """Held-out losses: ``method, instructions, lr, loss, chosen, at_edge``; nats per token."""
    rows = [
        {"method": method, "instructions": instructions, **row}
        for method, instructions in _methods(lab)
        for row in rate_search(lab, method, instructions).rows()
    ]
    columns = ["method", "instructions", "lr", "loss", "chosen", "at_edge"]
    return pd.DataFrame(rows, columns=columns)


def last_stages(found: pd.DataFrame) -> pd.DataFrame:
    """The last stage of every row."""
    keys = ["method", "order", "seed", "instructions"]
    return found.loc[found.groupby(keys, sort=False)["stage"].idxmax()]


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the means of each method by order, and over all orders (``order`` is ``"all"``).

    Rows of one seed share tasks and items, so intervals are over seeds: a method's value for a seed
    is its mean over the orders.

    Returns:
        ``instructions, method, order, lr, rows, seeds``, then ``cl, cl_low, cl_high`` and likewise
        ``fg``, then ``bwt, fwt, alone``. Intervals are at 95%.
    """
    found = []
    for (instructions, method), own in rows.groupby(["instructions", "method"], sort=False):
        for order, group in [*own.groupby("order", sort=False), ("all", own)]:
            line = {
                "instructions": instructions,
                "method": method,
                "order": order,
                "lr": group["lr"].iloc[0],
                "rows": len(group),
                "seeds": group["seed"].nunique(),
            }
            for name in ("cl", "fg"):
                line |= _mean_over_seeds(group, name)
            found.append(line | {name: group[name].mean() for name in ("bwt", "fwt", "alone")})
    return pd.DataFrame(found)


def curves(stages: pd.DataFrame) -> pd.DataFrame:
    """Return what is retained at each stage (Figure 4).

    Returns:
        ``instructions, method, stage, fg, fg_low, fg_high`` from the second stage on; the ends of
        intervals are named ``low`` and ``high``.
    """
    later = stages[stages["stage"] > 1].dropna(subset="fg")
    keys = ["instructions", "method", "stage"]
    found = [
        {**dict(zip(keys, key, strict=True)), **_mean_over_seeds(group, "fg")}
        for key, group in later.groupby(keys, sort=False)
    ]
    renamed = {"fg_low": "low", "fg_high": "high"}
    columns = [*keys, "fg", "fg_low", "fg_high"]
    return pd.DataFrame(found, columns=columns).rename(columns=renamed)


def _mean_over_seeds(rows: pd.DataFrame, name: str) -> dict[str, float]:
    found = clustered(rows[name], rows["seed"])
    return {name: float(rows[name].mean()), f"{name}_low": found.low, f"{name}_high": found.high}


def _methods(lab: Lab) -> list[tuple[str, str]]:
    sizes = lab.plan.sequences
    return [(method, each) for each in sizes.instructions for method in sizes.methods]


def _learner(lab: Lab, method: str) -> str:
    sizes = lab.plan.sequences
    return repr(find_method(method, lab.plan.fraction, sizes.score_limit).learner)


def _training(lab: Lab, lr: float, seed: int) -> Training:
    sizes = lab.plan.sequences
    return Training(lr=lr, steps=sizes.steps, batch_size=sizes.batch_size, seed=seed)


def _row(lab: Lab, method: str, tasks: Tasks, training: Training) -> Result[pd.DataFrame]:
    """One row of tasks: ``stage, task, cl, fg, n_parameters, bwt, fwt, alone``."""
    sizes = lab.plan.sequences

    def compute() -> pd.DataFrame:
        result = run_sequence(
            lab.base,
            tasks,
            method,
            training,
            fraction=lab.plan.fraction,
            score_limit=sizes.score_limit,
            seed=training.seed,
            prompt=lab.plan.prompt,
            limit=sizes.n_train,
            test_limit=sizes.n_test,
            store=lab.store.folder / "pieces",
        )
        last = result.summary.iloc[0]
        found = result.stages.drop(columns=["seconds", "peak_mib"])
        return found.assign(
            bwt=last["bwt"], fwt=last["fwt"], alone=last["alone"], loss=result.alone["loss"].mean()
        )

    found = find_method(method, lab.plan.fraction, sizes.score_limit)
    return Result("rows", _key(lab, repr(found), tasks, training), compute)


def _alone(
    lab: Lab, method: str, tasks: Tasks, name: str, lr: float, grid: tuple[float, ...]
) -> Result[pd.DataFrame]:
    """The loss of one task trained alone, on training examples that are held out."""
    sizes = lab.plan.sequences
    task = tasks[name]
    kept = replace(task, train=task.train[: -sizes.n_test], test=task.train[-sizes.n_test :])
    training = _training(lab, lr, SEED)
    row = _row(lab, method, Tasks([kept]), training)
    key = _key(lab, _learner(lab, method), Tasks([kept]), training)
    return Result("row_rates", key, row.compute, stand_in=partial(stand_in, grid, lr))


def _key(lab: Lab, method: str, tasks: Tasks, training: Training) -> Key:
    sizes = lab.plan.sequences
    return {
        "model": lab.fingerprint,
        "method": method,
        "on": lab.once(("row", id(tasks)), lambda: (tasks, tasks_digest(tasks)))[1],
        "examples": [sizes.n_train, sizes.n_test],
        "training": asdict(training),
        "asked": lab.prompt_key,
    }


def _stage_flops(lab: Lab, order: str) -> float:
    sizes = lab.plan.sequences
    tasks = order_tasks(lab, order, lab.plan.seeds[0], sizes.instructions[0])
    mean = sum(map(lab.tokens, tasks)) / len(tasks)
    training = 6 * sizes.steps * sizes.batch_size
    testing = 2 * sizes.n_test * (len(tasks) + 1) * 5  # every task, some labels each
    return lab.n_parameters * mean * (training + testing)
