"""How each method in a row is trained: its learning rate and number of updates.

Both are chosen by what a method learns of single tasks, never by how a row ends: each task of the
first order is trained alone, at a seed that no reported row has, and watched on training examples
that are held out. The rate is the one with the lowest loss at the end. Where the plan has a goal,
the updates are the fewest after which the mean loss is there, so that methods are compared at the
same depth of learning; rates are constant, so that a run is a curve over updates.
"""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import pandas as pd

from tl_taskneurons.continual.learners import Learner, Setting
from tl_taskneurons.continual.method import find_method
from tl_taskneurons.continual.orders import order as tasks_of_order
from tl_taskneurons.experiments.lab import primer
from tl_taskneurons.experiments.lab.lab import Lab
from tl_taskneurons.experiments.lab.presets import hub_limit
from tl_taskneurons.experiments.lab.rates import SEED
from tl_taskneurons.experiments.lab.search import RateSearch, stand_in
from tl_taskneurons.experiments.lab.store import Result, Unit
from tl_taskneurons.loading.tasks import load_tasks
from tl_taskneurons.models.view import view
from tl_taskneurons.tasks.task import Task, Tasks, tasks_digest
from tl_taskneurons.training.settings import Training


class SharedExamplesWarning(UserWarning):
    """Seeds share examples, so what differs between seeds is less than between new examples."""


# Learners that train all weights, which take smaller steps than neurons and adapters.
ALL_WEIGHTS = ("WeightLearner", "JointLearner")
# The same for all tasks; of words that the miniature's models know.
NEUTRAL_INSTRUCTION = "Choose the class."
HELD_OUT = 0.1


@dataclass(frozen=True)
class Budget:
    """How a method is trained at each stage.

    Attributes:
        lr: learning rate, constant.
        updates: how many.
        reached: whether the plan's goal was reached with them; True without a goal.
    """

    lr: float
    updates: int
    reached: bool

    def training(self, batch_size: int, seed: int) -> Training:
        """The settings of a stage."""
        return Training(
            lr=self.lr, steps=self.updates, batch_size=batch_size, schedule="constant", warmup=0.0,
            seed=seed,
        )  # fmt: skip


def row_seeds(lab: Lab) -> tuple[int, ...]:
    """The seeds of rows."""
    return lab.plan.sequences.seeds or lab.plan.seeds


def order_tasks(lab: Lab, order: str, seed: int, instructions: str) -> Tasks:
    """Load the tasks of an order, cut to the plan's sizes."""

    def load() -> Tasks:
        sizes = lab.plan.sequences
        most = hub_limit(lab.data, sizes.n_train)
        loaded = load_tasks(lab.data, tasks_of_order(order), seed=seed, limit=most)
        tasks = [lab.plan.fitted(task) for task in loaded]
        if not _drawn(lab.data):
            for task in tasks if seed in row_seeds(lab) else ():
                _tell_shared(lab, task)
            tasks = [_turned(task, seed * sizes.n_train, seed * sizes.n_test) for task in tasks]
        tasks = [task.limit(sizes.n_train, sizes.n_test) for task in tasks]
        if instructions == "neutral":
            tasks = [replace(task, instruction=NEUTRAL_INSTRUCTION) for task in tasks]
        return Tasks(tasks)

    return lab.once(("order", order, seed, instructions), load)


def _drawn(data: str) -> bool:
    """Whether a source draws its examples by the seed; a folder gives the same for each."""
    return data in ("mini", "builtin", "hub") or data.startswith(("hub:", "hub+"))


def _turned(task: Task, train: int, test: int) -> Task:
    """The task with its examples turned, so that others come first."""
    train, test = train % max(1, len(task.train)), test % max(1, len(task.test))
    return replace(
        task,
        train=task.train[train:] + task.train[:train],
        test=task.test[test:] + task.test[:test],
    )


def _tell_shared(lab: Lab, task: Task) -> None:
    """Warn where a folder has too few examples for each seed to take others."""
    sizes, n_seeds = lab.plan.sequences, len(row_seeds(lab))
    wanted = {"training": sizes.n_train, "test": sizes.n_test}
    there = {"training": len(task.train), "test": len(task.test)}
    short = [
        f"{there[kind]} {kind} examples for {n_seeds} seeds of {n}"
        for kind, n in wanted.items()
        if there[kind] < n_seeds * n
    ]
    if not short:
        return
    most = lab.plan.max_chars
    length = "" if most is None else f" of at most {most} characters"
    longer = "" if most is None else "longer inputs (--max-chars) or "
    warnings.warn(
        f"{task.name!r} has {' and '.join(short)}{length}: seeds share examples, so intervals over "
        f"seeds are too narrow for new examples. Give more, or allow {longer}fewer of each seed "
        "(--row-train, --row-test).",
        SharedExamplesWarning,
        stacklevel=2,
    )


def learner_of(lab: Lab, method: str) -> Learner:
    """What learns a single task; methods that learn it alike share their budget."""
    sizes = lab.plan.sequences
    return find_method(method, lab.plan.fraction, sizes.score_limit).learner.first


def rates_of(lab: Lab, method: str) -> tuple[float, ...]:
    """The grid of learning rates for a method; all weights take a third of each."""
    sizes = lab.plan.sequences
    if method in dict(sizes.given_rates):
        return (dict(sizes.given_rates)[method],)
    kind = type(learner_of(lab, method)).__name__
    return tuple(rate / 3 if kind in ALL_WEIGHTS else rate for rate in sizes.rates)


def budget(lab: Lab, method: str, instructions: str) -> Budget:
    """A method's rate and updates."""
    key = ("budget", repr(learner_of(lab, method)), rates_of(lab, method), instructions)
    return lab.once(key, partial(_budget, lab, method, instructions))


def _budget(lab: Lab, method: str, instructions: str) -> Budget:
    sizes = lab.plan.sequences
    if sizes.goal is None:
        return Budget(rate_search(lab, method, instructions).best(), sizes.steps, reached=True)
    lr, losses = _learning(lab, method, instructions)
    goal = _common(lab, instructions) if sizes.goal == "common" else sizes.goal
    there = losses.index[losses <= goal]
    return Budget(lr, int(there[0]) if len(there) else sizes.steps, reached=len(there) > 0)


def _learning(lab: Lab, method: str, instructions: str) -> tuple[float, pd.Series]:
    """A method's rate, and its held-out losses (nats per token, mean over tasks) by updates."""
    search = rate_search(lab, method, instructions)
    lr = search.best()
    frames = [lab.store.get(result) for result, _ in search.results(lr)]
    return lr, pd.concat(frames).groupby("updates")["loss"].mean()


def _common(lab: Lab, instructions: str) -> float:
    """The lowest held-out loss (nats per token) that every method of the plan reaches."""
    names = lab.plan.sequences.methods
    return max(float(_learning(lab, name, instructions)[1].min()) for name in names)


def rate_search(lab: Lab, method: str, instructions: str) -> RateSearch:
    """The choice of a method's rate."""
    sizes, grid = lab.plan.sequences, rates_of(lab, method)

    def results(lr: float) -> list[tuple[Result[pd.DataFrame], float]]:
        tasks = order_tasks(lab, sizes.orders[0], SEED, instructions)
        per_update = 6 * lab.n_parameters * sizes.batch_size * (1 + _looks(lab, tasks))
        return [
            (_curve(lab, method, task, lr, grid), per_update * sizes.steps * lab.tokens(task))
            for task in tasks
        ]

    return RateSearch(lab.store, grid, results, curves=sizes.goal is not None)


def rate_searches(lab: Lab) -> list[RateSearch]:
    """The choices that the rows need."""
    return [rate_search(lab, method, each) for method, each in methods(lab)]


def preparation(lab: Lab) -> list[Unit]:
    """What must be there before rates are chosen."""
    return primer.units(lab)


def table(lab: Lab) -> pd.DataFrame:
    """Held-out losses at the end: ``method, instructions, lr, loss, chosen, at_edge, updates``.

    Losses are nats per token; ``updates`` and whether the goal was ``reached`` are the budget's.
    """
    rows = []
    for method, instructions in methods(lab):
        found = budget(lab, method, instructions)
        about = {"method": method, "instructions": instructions}
        after = {"updates": found.updates, "reached": found.reached}
        search = rate_search(lab, method, instructions)
        rows += [{**about, **row, **after} for row in search.rows()]
    columns = [
        "method", "instructions", "lr", "loss", "chosen", "at_edge", "updates", "reached",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def methods(lab: Lab) -> list[tuple[str, str]]:
    """Every method with every kind of instructions."""
    sizes = lab.plan.sequences
    return [(method, each) for each in sizes.instructions for method in sizes.methods]


def _curve(
    lab: Lab, method: str, task: Task, lr: float, grid: Sequence[float]
) -> Result[pd.DataFrame]:
    """The held-out losses of one task trained alone: ``updates, loss`` (nats per token)."""
    sizes, start = lab.plan.sequences, primer.state(lab)
    every = min(sizes.look_every, sizes.steps)
    training = replace(
        Budget(lr, sizes.steps, reached=True).training(sizes.batch_size, SEED),
        validation=HELD_OUT,
        evaluate_every=every,
    )
    learner = learner_of(lab, method)

    def compute() -> pd.DataFrame:
        with start.enter() as model:
            setting = Setting(view(model), Tasks([task]), training, lab.plan.prompt)
            history = learner.learn(setting, (), task).delta.history
        looks = history.dropna(subset="validation_loss")
        return pd.DataFrame(
            {"updates": looks["step"].to_numpy(), "loss": looks["validation_loss"].to_numpy()}
        )

    key = {
        **start.key,
        "learner": repr(learner),
        "on": tasks_digest([replace(task, test=())]),
        "training": asdict(training),
        "asked": lab.prompt_key,
    }
    unknown = lambda: stand_in(grid, lr).assign(updates=sizes.steps)  # noqa: E731
    return Result("curves", key, compute, stand_in=unknown)


def _looks(lab: Lab, tasks: Tasks) -> float:
    """The work of looking at held-out examples, in updates per update."""
    sizes = lab.plan.sequences
    held_out = HELD_OUT * sum(len(task.train) for task in tasks) / len(tasks)
    return held_out / (3 * sizes.look_every * sizes.batch_size)
