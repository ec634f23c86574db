"""States of the model, and answers in them.

A state is the model as it is, with neurons silenced, or with something trained. The answers on a
task in a state are stored under all that decides them, so experiments that need the same ones (the
diagonal of Figure 5 and the first point of Figure 6, say) compute them once.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pandas as pd

from tl_taskneurons.evaluation.evaluate import evaluate_items
from tl_taskneurons.experiments.lab.lab import Lab, name_of
from tl_taskneurons.experiments.lab.store import Key, Result, Unit
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.interventions import deactivate
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.training.comparisons import finetune_all
from tl_taskneurons.training.finetune import finetune
from tl_taskneurons.training.settings import Training

MakeTable = Callable[[Any], pd.DataFrame]


@dataclass(frozen=True, eq=False)
class State:
    """A state of a model.

    Attributes:
        label: what it is, for messages.
        key: all that decides it.
        enter: gives the model in that state, for a while.
        flops: about how many operations it takes to get there.
    """

    label: str
    key: Key
    enter: Callable[[], AbstractContextManager[Any]]
    flops: float = 0.0


@dataclass(frozen=True, eq=False)
class Condition:
    """A state in which tasks are tested.

    Attributes:
        state: the state.
        tested: names of tasks.
        columns: what describes the state in tables.
        loss_only: whether the answers' losses are enough; nothing is generated then.
    """

    state: State
    tested: Sequence[str]
    columns: Mapping[str, Any] = field(default_factory=dict)
    loss_only: bool = False


def base(lab: Lab) -> State:
    """The base model as it is."""
    return State("plain", {"model": lab.fingerprint}, lambda: nullcontext(lab.base))


def given(lab: Lab, model: LanguageModel) -> State:
    """Another model as it is."""
    key = {"model": lab.once(("fingerprint", id(model)), lambda: view(model).fingerprint)}
    return State("plain", key, lambda: nullcontext(model))


def silenced(start: State, neurons: NeuronSet) -> State:
    """A state with neurons set to zero as well."""

    @contextmanager
    def enter() -> Iterator[Any]:
        with start.enter() as model, deactivate(model, neurons):
            yield model

    return State(
        f"silence {neurons.name}", {**start.key, "silenced": name_of(neurons)}, enter, start.flops
    )


def trained(lab: Lab, names: Sequence[str], neurons: NeuronSet | None, training: Training) -> State:
    """The base model after training neurons (None: all weights) on tasks together."""
    tasks = [lab.tasks[name] for name in names]
    options: dict[str, Any] = {"prompt": lab.plan.prompt, "limit": lab.plan.n_train}

    @contextmanager
    def enter() -> Iterator[Any]:
        if neurons is None:
            delta = finetune_all(lab.base, tasks, None, training, **options)
        else:
            delta = finetune(lab.base, tasks, neurons, training, **options)
        with delta.applied(lab.base):
            yield lab.base

    key = {
        "model": lab.fingerprint,
        "trained": "all weights" if neurons is None else name_of(neurons),
        "on": [lab.examples(name, n_train=lab.plan.n_train) for name in names],
        "training": asdict(training),
        "prompt": lab.prompt_key,
    }
    flops = lab.training_flops(list(names), training.batch_size * (training.steps or 0))
    return State(f"train {'+'.join(names)}", key, enter, flops)


def answers_unit(
    lab: Lab, condition: Condition, tables: Mapping[str, MakeTable] | None = None
) -> Unit:
    """The work of getting into a state and answering tasks there.

    Args:
        lab: the lab.
        condition: the state, and which tasks are answered.
        tables: further tables to make in that state: name to a function of the model.
    """
    state = condition.state
    results = {name: _answers(lab, condition, name) for name in condition.tested}
    makers = {name: table_result(state, name, make) for name, make in (tables or {}).items()}

    def run() -> None:
        asked = {**results, **makers}
        left = [name for name, result in asked.items() if not lab.store.has(result)]
        start = time.perf_counter()
        with state.enter() as model:
            for name in left:  # getting there counts with the first table
                if name in results:
                    result, made = results[name], _answer(lab, model, condition, name)
                else:
                    result, made = makers[name], (tables or {})[name](model)
                lab.store.put(result, made, time.perf_counter() - start)
                start = time.perf_counter()

    flops = state.flops + sum(_test_flops(lab, condition, name) for name in condition.tested)
    lock = Result("state", state.key, lambda: None).digest
    files = tuple(lab.store.path(result) for result in (*results.values(), *makers.values()))
    return Unit(state.label, lock, files, run, flops)


def table_result(state: State, name: str, make: MakeTable | None = None) -> Result[pd.DataFrame]:
    """A further table of a state; without ``make`` its unit must have run."""

    def compute() -> pd.DataFrame:
        with state.enter() as model:
            assert make is not None, f"the unit of {state.label!r} has not run"
            return make(model)

    return Result("tables", {**state.key, "table": name}, compute)


def items(lab: Lab, condition: Condition) -> pd.DataFrame:
    """The answers under a condition: the rows of ``evaluate_items`` with its columns."""
    return all_items(lab, [condition])


def all_items(lab: Lab, conditions: Sequence[Condition]) -> pd.DataFrame:
    """The answers under several conditions."""
    frames = [_all_answers(lab, condition) for condition in conditions]
    about = pd.DataFrame([dict(condition.columns) for condition in conditions])
    # At once: thousands of conditions have a few rows each.
    about = about.loc[about.index.repeat([len(frame) for frame in frames])].reset_index(drop=True)
    return pd.concat(frames, ignore_index=True).assign(**{str(name): about[name] for name in about})


def _all_answers(lab: Lab, condition: Condition) -> pd.DataFrame:
    """The answers to all tasks of a condition, without its columns."""
    unit = answers_unit(lab, condition)
    if unit.missing():
        unit.run()
    results = [_answers(lab, condition, name) for name in condition.tested]

    def read() -> pd.DataFrame:
        return pd.concat(map(lab.store.get, results), ignore_index=True)

    # A figure and the test of a claim ask for the same ones.
    return lab.once(("items", *(result.digest for result in results)), read)


def _answers(lab: Lab, condition: Condition, name: str) -> Result[pd.DataFrame]:
    def compute() -> pd.DataFrame:
        with condition.state.enter() as model:
            return _answer(lab, model, condition, name)

    key = {
        **condition.state.key,
        "answers": lab.examples(name, n_test=lab.plan.n_test),
        "asked": lab.prompt_key,
        "max_new_tokens": "loss only" if condition.loss_only else lab.plan.max_new_tokens,
    }
    return Result("answers", key, compute)


def _answer(lab: Lab, model: LanguageModel, condition: Condition, name: str) -> pd.DataFrame:
    task = lab.tasks[name]
    return evaluate_items(
        model,
        replace(task, metric="loss") if condition.loss_only else task,
        prompt=lab.plan.prompt,
        limit=lab.plan.n_test,
        max_new_tokens=lab.plan.max_new_tokens,
    )


def _test_flops(lab: Lab, condition: Condition, name: str) -> float:
    task = lab.tasks[name]
    passes = max(1, len(task.labels)) if task.is_classification else 2
    passes = 1 if condition.loss_only else passes
    return 2 * lab.n_parameters * lab.tokens(task) * lab.plan.n_test * passes
