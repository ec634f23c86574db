r"""The paper's Table 5 and Figure 4: ways to learn tasks in a row, all with the same budget.

Every method trains every order with every seed, each stage on as many examples in as many steps.
A method's learning rate is chosen on the first order with the first seed, by the mean score after
the last stage on held-out training examples; the test split is never used for it. On a large model
a shorter row (``--choose-on``, ``--choose-steps``) makes the choice cheaper. Tasks that are drawn
(mini) are drawn anew for each seed.

    python -m tl_taskneurons.experiments.studies.table5 --out runs/table5 \
        --csv figures/table5_all-methods.csv
    python -m tl_taskneurons.experiments.studies.table5 --model smollm2-135m --data DATA \
        --orders order1 \
        --methods seq-ft,seq-lora,o-lora,ncft,w-ncft,routed,per-task --seeds 0 --train 200 \
        --steps 25 --test 24 --max-chars 200 --score-limit 24 --rates 3e-4 1e-3 3e-3 \
        --choose-on dbpedia,amazon --choose-steps 12 --out runs/table5-smollm2
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from tl_taskneurons.continual.learners import Setting, StageResult
from tl_taskneurons.continual.method import find_method
from tl_taskneurons.continual.methods import METHODS
from tl_taskneurons.continual.orders import order as tasks_of_order
from tl_taskneurons.continual.scoring import score_history
from tl_taskneurons.continual.sequence import SequenceResult, run_sequence
from tl_taskneurons.continual.storage import StageStore
from tl_taskneurons.evaluation.statistics import clustered
from tl_taskneurons.experiments.claims.units import C10, c9, c10
from tl_taskneurons.experiments.claims.verdicts import frame
from tl_taskneurons.experiments.lab.presets import hub_limit
from tl_taskneurons.loading.models import load_model
from tl_taskneurons.loading.tasks import load_tasks
from tl_taskneurons.models.view import view
from tl_taskneurons.runtime.progress import Progress
from tl_taskneurons.runtime.run_folder import RunFolder
from tl_taskneurons.runtime.table_files import write_csv, write_table
from tl_taskneurons.tasks.prompts import Prompt
from tl_taskneurons.tasks.task import Tasks
from tl_taskneurons.training.settings import Training

# Learners that train all weights, which take smaller steps than neurons and adapters.
WEIGHTS = ("WeightLearner", "JointLearner")

# What is tried for each kind of learner.
LEARNING_RATES = {
    "NeuronLearner": (1e-3, 3e-3, 1e-2, 3e-2),
    "LoraLearner": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "OrthogonalLearner": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "WeightLearner": (3e-4, 1e-3, 3e-3),
    "JointLearner": (3e-4, 1e-3, 3e-3),
}


@dataclass(frozen=True)
class Plan:
    """The sizes of the experiment.

    Attributes:
        data: where tasks come from, for ``load_tasks``.
        orders: names of orders.
        methods: names of methods.
        seeds: of examples, starts and, where tasks are drawn, of the tasks.
        fraction: share of the neurons that a task gets.
        steps: updates of a stage.
        batch_size: examples of an update.
        n_train: training examples of a task.
        n_test: test examples of a task, and held-out training examples for the choice of rates.
        shots: demonstrations in a prompt.
        max_chars: examples with a longer input are left out; None keeps all.
        rates: learning rates to choose from, a third of these where all weights are trained; None
            is ``LEARNING_RATES``.
        choose_on: the row of tasks that rates are chosen on; None is the first order.
        choose_steps: updates of a stage there; None is ``steps``.
        given_rates: methods and the learning rates that they get without a choice.
        score_limit: neurons are chosen by the scores of at most so many training examples.
    """

    data: str = "mini"
    orders: tuple[str, ...] = ("mini1", "mini2", "mini3")
    methods: tuple[str, ...] = tuple(METHODS)
    seeds: tuple[int, ...] = (0, 1, 2)
    fraction: float = 0.10
    steps: int = 150
    batch_size: int = 8
    n_train: int = 600
    n_test: int = 40
    shots: int = 0
    max_chars: int | None = None
    rates: tuple[float, ...] | None = None
    choose_on: str | None = None
    choose_steps: int | None = None
    given_rates: tuple[tuple[str, float], ...] = ()
    score_limit: int = 100

    @property
    def choice(self) -> "Plan":
        """The same plan with the row that rates are chosen on as its first."""
        order, steps = self.choose_on or self.orders[0], self.choose_steps or self.steps
        return replace(self, orders=(order,), steps=steps)

    def rates_of(self, method: str) -> tuple[float, ...]:
        """The learning rates that a method is tried with."""
        if method in dict(self.given_rates):
            return (dict(self.given_rates)[method],)
        kind = type(find_method(method).learner).__name__
        if self.rates is None:
            return LEARNING_RATES[kind]
        return tuple(rate / 3 if kind in WEIGHTS else rate for rate in self.rates)

    def training(self, lr: float) -> Training:
        """How a stage is trained."""
        return Training(lr=lr, steps=self.steps, batch_size=self.batch_size)

    def tasks(self, order: str, seed: int) -> Tasks:
        """Load the tasks of an order: training, then test and held-out examples apart from it."""
        most = hub_limit(self.data, self.n_train + self.n_test)
        tasks = load_tasks(self.data, tasks_of_order(order), seed=seed, limit=most)
        return Tasks(
            task.shorter(self.max_chars).limit(self.n_train + self.n_test, self.n_test)
            for task in tasks
        )


@dataclass(frozen=True)
class Experiment:
    """A model, sizes and the folder that results go to."""

    model: Any
    plan: Plan
    folder: RunFolder

    def choose_lr(self, method: str) -> float:
        """Choose a method's learning rate on the plan's row for that, with the first seed."""
        rates = self.plan.rates_of(method)
        if len(rates) == 1:
            return rates[0]
        frame = self.folder.unit(
            f"choose/{method}",
            lambda: pd.DataFrame([{"lr": lr, "cl": self._held_out(method, lr)} for lr in rates]),
        )
        return float(frame["lr"].iloc[frame["cl"].argmax()])

    def row(self, method: str, order: str, seed: int, lr: float) -> SequenceResult:
        """Run a method on an order."""
        return run_row(
            self.model, self.plan, method, order, seed, lr, store=self.folder.file("pieces"),
            folder=self.folder.file("rows", f"{method}-{order}-{seed}"),
        )  # fmt: skip

    def _held_out(self, name: str, lr: float) -> float:
        return held_out_score(self.model, self.plan.choice, name, lr, self.folder.file("pieces"))


def run_row(
    model: Any, plan: Plan, method: str, order: str, seed: int, lr: float, *, store: Path,
    folder: Path | None = None,
) -> SequenceResult:  # fmt: skip
    """Run a method on an order with a seed; stages that ``store`` has are taken from there."""
    return run_sequence(
        model, plan.tasks(order, seed), method, plan.training(lr), fraction=plan.fraction,
        score_limit=plan.score_limit, seed=seed, prompt=Prompt(shots=plan.shots),
        limit=plan.n_train, test_limit=plan.n_test, folder=folder, store=store,
    )  # fmt: skip


def held_out_score(model: Any, plan: Plan, name: str, lr: float, store: Path) -> float:
    """The mean score of all tasks after the last stage, on held-out training examples.

    It is that of the first order with the first seed.
    """
    method = find_method(name, plan.fraction, plan.score_limit)
    tasks = [
        replace(task, train=task.train[: -plan.n_test], test=task.train[-plan.n_test :])
        for task in plan.tasks(plan.orders[0], plan.seeds[0])
    ]
    training = replace(plan.training(lr), seed=plan.seeds[0])
    setting = Setting(view(model), Tasks(tasks), training, Prompt(shots=plan.shots))
    stages = StageStore(store)
    history: list[StageResult] = []
    for task in tasks:
        history.append(stages.learn(setting, method.learner, method.before(history), task.name))
    scores = score_history(setting, method, history, setting.tasks.names)
    return float(scores["value"].mean())


def run(experiment: Experiment, progress: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Run all rows; return one line per row, and one per row and stage."""
    plan = experiment.plan
    cells = [
        (method, order, seed)
        for seed in plan.seeds
        for order in plan.orders
        for method in plan.methods
    ]
    rows, stages = [], []
    for method, order, seed in Progress("table 5", shown=progress).over(cells):
        lr = experiment.choose_lr(method)
        result = experiment.row(method, order, seed, lr)
        label = {"order": order, "seed": seed, "lr": lr}
        rows.append(result.summary.assign(**label))
        stages.append(result.stages.assign(method=method, **label))
    return pd.concat(rows, ignore_index=True), pd.concat(stages, ignore_index=True)


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the means of each method by order, and over all orders (``order`` is ``"all"``).

    Returns:
        ``method, order, lr, rows, seeds``, ``cl, cl_low, cl_high`` and likewise ``fg``, then ``bwt,
        fwt, alone, seconds``. Intervals are over seeds: rows of one seed share tasks and items, so
        that several orders, above all identical rows, are no further evidence.
    """
    found = []
    for method, own in rows.groupby("method", sort=False):
        for order, group in [*own.groupby("order"), ("all", own)]:
            line = {
                "method": method,
                "order": order,
                "lr": group["lr"].iloc[0],
                "rows": len(group),
                "seeds": group["seed"].nunique(),
            }
            for name in ("cl", "fg"):
                mean, low, high, _ = clustered(group[name], group["seed"])
                line |= {name: mean, f"{name}_low": low, f"{name}_high": high}
            for name in ("bwt", "fwt", "alone", "seconds"):
                if name in group:
                    line[name] = group[name].mean()
            found.append(line)
    return pd.DataFrame(found)


def curves(stages: pd.DataFrame) -> pd.DataFrame:
    """Return what is retained at each stage: ``method, stage, fg, low, high`` (Figure 4).

    A row without FG at a stage (see ``comparable``) doesn't count there.
    """
    found = []
    later = stages[stages["stage"] > 1].dropna(subset="fg")
    for (method, stage), group in later.groupby(["method", "stage"], sort=False):
        mean, low, high, _ = clustered(group["fg"], group["seed"])
        found.append({"method": method, "stage": stage, "fg": mean, "low": low, "high": high})
    return pd.DataFrame(found, columns=["method", "stage", "fg", "low", "high"])


def comparable(stages: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of tasks in which the methods of C10 have something to forget throughout.

    FG is a share of what a task alone reaches, so there is none at the first stage, nor where a
    task alone scores 0, as after few updates of an adapter; a row with such a task is left out for
    all methods.
    """
    asked = {name for pair in C10 for name in pair}
    later = stages[(stages["stage"] > 1) & stages["method"].isin(asked)]
    undefined = later["fg"].isna().groupby([later["order"], later["seed"]]).transform("any")
    return later[~undefined].reset_index(drop=True)


def claims(rows: pd.DataFrame, stages: pd.DataFrame) -> pd.DataFrame:
    """Test C9 and C10: the columns of ``verdicts.frame``, one line each."""
    return frame([c9(rows), c10(comparable(stages))])


def _given_rate(text: str) -> tuple[str, float]:
    """Read ``METHOD=RATE``."""
    name, _, rate = text.partition("=")
    try:
        value = float(rate)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not METHOD=RATE with a rate above 0, as in ncft=3e-4"
        )
    try:
        return find_method(name).name, value
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the experiment from the command line."""
    plan = Plan()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini-llama-base", help="name, hub id or folder")
    parser.add_argument("--data", default=plan.data, help="source of the tasks, see load_tasks")
    parser.add_argument("--orders", default=",".join(plan.orders), help="with commas between")
    parser.add_argument("--methods", default=",".join(plan.methods), help="with commas between")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(plan.seeds))
    parser.add_argument("--fraction", type=float, default=plan.fraction)
    parser.add_argument("--score-limit", type=int, default=plan.score_limit,
                        help="training examples that neurons are chosen by")  # fmt: skip
    parser.add_argument("--steps", type=int, default=plan.steps, help="updates of a stage")
    parser.add_argument("--batch-size", type=int, default=plan.batch_size)
    parser.add_argument("--train", type=int, default=plan.n_train, help="train examples per task")
    parser.add_argument("--test", type=int, default=plan.n_test, help="test examples per task")
    parser.add_argument("--shots", type=int, default=plan.shots)
    parser.add_argument("--max-chars", type=int, help="leave out examples with a longer input")
    parser.add_argument(
        "--rates", type=float, nargs="+",
        help="learning rates to choose from (all weights take a third); one is no choice",
    )  # fmt: skip
    parser.add_argument("--choose-on", metavar="TASKS", help="row that rates are chosen on, with "
                        "commas between; by default the first order")  # fmt: skip
    parser.add_argument("--choose-steps", type=int, help="updates of a stage there")
    parser.add_argument("--rate", type=_given_rate, action="append", metavar="METHOD=RATE",
                        help="a method's learning rate, which then isn't chosen")  # fmt: skip
    parser.add_argument("--out", default="runs/table5", help="a stopped run goes on there")
    parser.add_argument(
        "--csv",
        type=Path,
        help="also write the table here (table5_NAME.csv), and figure4_NAME.csv and "
        "table5_claims_NAME.csv beside it",
    )
    given = parser.parse_args(arguments)
    plan = Plan(
        given.data, tuple(given.orders.split(",")), tuple(given.methods.split(",")),
        tuple(given.seeds), given.fraction, given.steps, given.batch_size, given.train, given.test,
        given.shots, given.max_chars, None if given.rates is None else tuple(given.rates),
        given.choose_on, given.choose_steps, tuple(given.rate or ()),
        given.score_limit,
    )  # fmt: skip
    if given.csv is not None:
        given.csv.parent.mkdir(parents=True, exist_ok=True)
    model = load_model(given.model)
    changeable = ("out", "csv", "data", "methods", "seeds", "orders", "rate")
    stated = {key: value for key, value in vars(given).items() if key not in changeable}
    # Rates are chosen on the first order and seed, so these are part of what defines a run.
    stated |= {"first_order": plan.choice.orders[0], "first_seed": plan.seeds[0]}
    with RunFolder.open(Path(given.out), stated, kind="table5") as folder:
        folder.confirm(fingerprint=view(model).fingerprint)
        rows, stages = run(Experiment(model, plan, folder), progress=True)
        tables = {
            "table": table(rows), "curves": curves(stages), "claims": claims(rows, stages),
            "rows": rows, "stages": stages,
        }  # fmt: skip
        for name, frame in tables.items():
            write_table(folder.file(f"{name}.parquet"), frame.assign(model=given.model))
        if given.csv is not None:
            for name in ("table", "curves", "claims"):
                stem = given.csv.stem.removeprefix("table5")
                start = {"table": "table5", "curves": "figure4", "claims": "table5_claims"}[name]
                stamped = tables[name].assign(model=given.model)
                write_csv(given.csv.with_stem(start + stem), stamped)
        folder.finish()


if __name__ == "__main__":
    main()
