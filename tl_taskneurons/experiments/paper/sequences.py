"""Table 5 and Figure 4 as part of a reproduction: tasks in a row, with the sizes of its preset.

How long stages take is not among the tables, which must be the same bytes in every run; ``table5``
as a command of its own reports it, with more methods.
"""

from dataclasses import asdict
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tl_taskneurons.continual.method import find_method
from tl_taskneurons.continual.orders import order as tasks_of_order
from tl_taskneurons.experiments.lab.experiment import Experiment, Tables
from tl_taskneurons.experiments.lab.lab import Lab
from tl_taskneurons.experiments.lab.store import Cell, Recipe, digest
from tl_taskneurons.experiments.studies import table5
from tl_taskneurons.plots import forgetting_curves
from tl_taskneurons.tasks.task import tasks_digest


def sizes(lab: Lab) -> table5.Plan:
    """The sizes of the rows, as ``table5`` takes them."""
    plan, rows = lab.plan, lab.plan.rows
    return table5.Plan(
        lab.data, rows.orders, rows.methods, plan.seeds, plan.fraction, rows.steps,
        rows.batch_size, rows.n_train, rows.n_test, plan.shots, plan.max_chars, rows.rates,
    )  # fmt: skip


def cells(lab: Lab) -> list[Cell]:
    """One cell per method, order and seed. Methods that learn the same share a lock."""
    made = []
    for method, order, seed in _conditions(lab):
        lock = digest([_learner(lab, method), order, seed])
        flops = _stage_flops(lab, order) * len(tasks_of_order(order))
        recipe = _row(lab, method, order, seed)
        made.append(lab.store.cell(f"{method} on {order}", recipe, flops, lock=lock))
    return made


def rate_cells(lab: Lab) -> list[Cell]:
    """The work of choosing each method's learning rate on the first order with the first seed."""
    if len(lab.plan.rows.rates) == 1:
        return []
    flops = 4 * _stage_flops(lab, lab.plan.rows.orders[0])
    return [
        lab.store.cell(
            f"learning rate of {method}", _held_out(lab, method, lr), flops,
            lock=digest([_learner(lab, method), "rate", lr]),
        )
        for method in lab.plan.rows.methods
        for lr in _rates(lab, method)
    ]  # fmt: skip


def chosen_rate(lab: Lab, method: str) -> float:
    """The learning rate with the highest held-out score; without a choice, the only one."""
    rates = _rates(lab, method)
    if len(rates) == 1:
        return rates[0]
    return lab.once(("row rate", method), lambda: _best_rate(lab, method, rates))


def _best_rate(lab: Lab, method: str, rates: list[float]) -> float:
    values = [lab.stored_table(_held_out(lab, method, lr))["cl"].iloc[0] for lr in rates]
    return rates[values.index(max(values))]


def stages(lab: Lab) -> pd.DataFrame:
    """All rows by stage: ``method, order, seed, lr, stage, task, cl, fg, bwt, fwt, alone``."""
    frames = [
        lab.stored_table(_row(lab, method, order, seed)).assign(
            method=method, order=order, seed=seed, lr=chosen_rate(lab, method)
        )
        for method, order, seed in _conditions(lab)
    ]
    return pd.concat(frames, ignore_index=True)


def rows(found: pd.DataFrame) -> pd.DataFrame:
    """The last stage of every row."""
    return found.loc[found.groupby(["method", "order", "seed"], sort=False)["stage"].idxmax()]


def tables(lab: Lab) -> Tables:
    """Table 5, and the curves of Figure 4."""
    found = stages(lab)
    return {
        "table5": table5.table(rows(found)),
        "figure4": table5.curves(found.dropna(subset="fg")),
    }


def evidence(lab: Lab) -> Tables:
    """For C9 and C10."""
    found = stages(lab)
    return {"rows": rows(found), "stages": table5.comparable(found)}


def draw(found: Tables) -> dict[str, Figure]:
    """Draw the curves, where a row has two tasks or more."""
    return {"figure4": forgetting_curves(found["figure4"])} if len(found["figure4"]) else {}


def _conditions(lab: Lab) -> list[tuple[str, str, int]]:
    plan = lab.plan
    return [
        (method, order, seed)
        for seed in plan.seeds
        for order in plan.rows.orders
        for method in plan.rows.methods
    ]


def _rates(lab: Lab, method: str) -> list[float]:
    return list(sizes(lab).rates_of(method))


def _learner(lab: Lab, method: str) -> str:
    return repr(find_method(method, lab.plan.fraction).learner)


def _row(lab: Lab, method: str, order: str, seed: int) -> Recipe[pd.DataFrame]:
    lr = chosen_rate(lab, method)

    def compute() -> pd.DataFrame:
        result = table5.run_row(
            lab.base, sizes(lab), method, order, seed, lr, store=lab.store.folder / "pieces"
        )
        last = result.summary.iloc[0]
        # How long it took differs from run to run, so it is no part of a result.
        found = result.stages.drop(columns=["seconds", "peak_mib"])
        return found.assign(bwt=last["bwt"], fwt=last["fwt"], alone=last["alone"])

    return Recipe("rows", _row_needs(lab, method, order, seed, lr), compute)


def _row_needs(lab: Lab, method: str, order: str, seed: int, lr: float) -> dict[str, Any]:
    plan = sizes(lab)
    found = find_method(method, plan.fraction)
    return {
        "model": lab.fingerprint, "method": repr(found), "seed": seed,
        "on": _digest_of(lab, order, seed), "training": asdict(plan.training(lr)),
        "shots": plan.shots,
    }  # fmt: skip


def _held_out(lab: Lab, method: str, lr: float) -> Recipe[pd.DataFrame]:
    plan = sizes(lab)

    def compute() -> pd.DataFrame:
        value = table5.held_out_score(lab.base, plan, method, lr, lab.store.folder / "pieces")
        return pd.DataFrame({"method": [method], "lr": [lr], "cl": [value]})

    needs = _row_needs(lab, method, plan.orders[0], plan.seeds[0], lr)
    return Recipe("row_rates", {**needs, "held out": plan.n_test}, compute)


def _digest_of(lab: Lab, order: str, seed: int) -> str:
    return lab.once(("row", order, seed), lambda: tasks_digest(sizes(lab).tasks(order, seed)))


def _stage_flops(lab: Lab, order: str) -> float:
    plan = lab.plan.rows
    tokens = lab.once(
        ("row tokens", order),
        lambda: [lab.tokens_of(task) for task in sizes(lab).tasks(order, lab.plan.seeds[0])],
    )
    mean = sum(tokens) / len(tokens)
    training = 6 * plan.steps * plan.batch_size
    testing = 2 * plan.n_test * (len(tokens) + 1) * 5  # every task, some labels each
    return lab.n_parameters * mean * (training + testing)


EXPERIMENT = Experiment(
    "table5", "tasks in a row, with Figure 4", cells, tables, evidence, draw, trains=False
)
