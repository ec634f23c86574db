"""What all experiments share: the models, the tasks, states of the model, and answers in them.

A state is the model as it is, with neurons silenced, or with something trained. The answers on a
task in a state are stored under all that decides them, so experiments that need the same ones (the
diagonal of Figure 5 and the first point of Figure 6, say) compute them once.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from tl_taskneurons.evaluation.evaluate import evaluate_items
from tl_taskneurons.experiments.lab.records import Records
from tl_taskneurons.experiments.lab.store import Cell, Needs, Recipe, digest
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.attribution import score_neurons
from tl_taskneurons.neurons.interventions import deactivate
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.training.comparisons import finetune_all, finetune_lora
from tl_taskneurons.training.deltas import load_delta
from tl_taskneurons.training.finetune import finetune
from tl_taskneurons.training.settings import Training

BASE, TUNED = "base", "tuned"


@dataclass(frozen=True, eq=False)
class State:
    """A state of a model.

    Attributes:
        label: what it is, for messages.
        needs: all that decides it.
        enter: gives the model in that state, for a while.
        flops: about how many operations it takes to get there.
    """

    label: str
    needs: Needs
    enter: Callable[[], AbstractContextManager[Any]]
    flops: float = 0.0


@dataclass(frozen=True, eq=False)
class Lab(Records):
    """Where experiments get their results: states of the model, and answers in them."""

    def plain(self, which: str = BASE) -> State:
        """The base or the tuned model as it is."""
        if which == BASE or self.tuned == BASE:
            needs = {"model": self.fingerprint}
            return State("plain", needs, lambda: _given(self.base))
        if not isinstance(self.tuned, str):
            needs = {"model": self.once("tuned", lambda: view(self.tuned).fingerprint)}
            return State("plain", needs, lambda: _given(self.tuned))
        return self._together()

    def silenced(self, which: str, neurons: NeuronSet) -> State:
        """The base or tuned model with neurons set to zero."""
        plain = self.plain(which)

        @contextmanager
        def enter() -> Iterator[Any]:
            with plain.enter() as model, deactivate(model, neurons):
                yield model

        needs = {**plain.needs, "silenced": _name_of(neurons)}
        return State(f"silence {neurons.name}", needs, enter)

    def trained(self, names: Sequence[str], neurons: NeuronSet | None, seed: int) -> State:
        """The base model after training neurons (None: all weights) on tasks together."""
        training = self.plan.training(self.lr(all_weights=neurons is None), seed, len(names))
        tasks = [self.tasks[name] for name in names]
        options: dict[str, Any] = {"prompt": self.plan.prompt, "limit": self.plan.n_train}

        @contextmanager
        def enter() -> Iterator[Any]:
            if neurons is None:
                delta = finetune_all(self.base, tasks, None, training, **options)
            else:
                delta = finetune(self.base, tasks, neurons, training, **options)
            with delta.applied(self.base):
                yield self.base

        needs = {
            "model": self.fingerprint,
            "trained": "all weights" if neurons is None else _name_of(neurons),
            "on": [self.facts(name, n_train=self.plan.n_train) for name in names],
            "training": asdict(training), "prompt": asdict(self.plan.prompt),
        }  # fmt: skip
        examples = training.batch_size * (training.steps or 0)
        flops = examples * sum(map(self.tokens, names)) / len(names) * 6 * self.n_parameters
        return State(f"train {'+'.join(names)}", needs, enter, flops)

    def lr(self, *, all_weights: bool = False) -> float:
        """The learning rate chosen on held-out examples; all weights take a third of it."""
        if len(self.plan.rates) == 1:
            return self.plan.rates[0] / (3 if all_weights else 1)
        rate = self.once("rate", self._chosen_rate)
        return rate / 3 if all_weights else rate

    def _chosen_rate(self) -> float:
        chosen = self.rate_table().groupby("lr", as_index=False)["loss"].mean()
        return float(chosen["lr"].to_numpy()[chosen["loss"].to_numpy().argmin()])

    def rate_table(self) -> pd.DataFrame:
        """Held-out losses for each learning rate: ``task, neurons, lr, loss``."""
        return self.once(
            "rates",
            lambda: pd.concat(
                [self.stored_table(rate) for rate in self._rates()], ignore_index=True
            ),
        )

    def rate_cells(self) -> list[Cell]:
        """The work of choosing the learning rate.

        One quarter of the examples of the first classification and the first generation task is
        held out; the rate of lowest mean loss over the task's neurons, as many random ones and all
        neurons wins, so that no share of Figure 2 has a rate chosen for another. Test
        examples are never seen. A plan with a single rate leaves nothing to choose.
        """
        if len(self.plan.rates) == 1:
            return []
        cost = 6 * self.n_parameters * self.plan.steps * self.plan.batch_size
        return [
            self.store.cell("learning rate", rate, cost * self.tokens(rate.needs["task"]))
            for rate in self._rates()
        ]

    def scores(self, which: str = BASE, sample: int = 0) -> dict[str, NeuronScores]:
        """Each task's scores of neurons, on one sample of its training examples."""
        return self.once(
            ("scores", which, sample),
            lambda: {
                name: self.stored_scores(self._score(which, name, sample))
                for name in self.tasks.names
            },
        )

    def sets(self, which: str = BASE) -> dict[str, NeuronSet]:
        """Each task's neurons."""
        scores = self.scores(which)
        return {name: s.top(fraction=self.plan.fraction) for name, s in scores.items()}

    def score_cells(self, which: str, samples: int = 1) -> list[Cell]:
        """The work of finding neurons."""
        cost = 4 * self.n_parameters * self.plan.n_detect
        return [
            self.store.cell(
                f"find {name}", self._score(which, name, sample), cost * self.tokens(name)
            )
            for sample in range(samples)
            for name in self.tasks.names
        ]

    def cell(
        self, state: State, tested: Sequence[str], tables: Mapping[str, Callable] | None = None
    ) -> Cell:
        """The work of getting into a state and answering tasks there.

        Args:
            state: the state.
            tested: names of tasks.
            tables: further tables to make in that state: name to a function of the model.
        """
        extra = tables or {}

        def missing() -> list[str]:
            wanted = [(f"answers/{name}", self._answers(state, name)) for name in tested]
            wanted += [(name, {**state.needs, "table": name}) for name in extra]
            return [name for name, needs in wanted if not self.store.has("states", needs)]

        def run() -> None:
            left = missing()
            start = time.perf_counter()
            with state.enter() as model:
                seconds = time.perf_counter() - start  # getting there counts with the first table
                for name in tested:
                    if f"answers/{name}" in left:
                        start = time.perf_counter()
                        answers = evaluate_items(
                            model, self.tasks[name], prompt=self.plan.prompt,
                            limit=self.plan.n_test, max_new_tokens=self.plan.max_new_tokens,
                        )  # fmt: skip
                        seconds += time.perf_counter() - start
                        self.store.put("states", self._answers(state, name), answers, seconds)
                        seconds = 0.0
                for name, make in extra.items():
                    if name in left:
                        needs = {**state.needs, "table": name}
                        self.store.put("states", needs, make(model), seconds)

        flops = state.flops + sum(map(self._test_flops, tested))
        return Cell(state.label, digest(state.needs), lambda: bool(missing()), run, flops)

    def items(self, state: State, tested: Sequence[str], **columns: Any) -> pd.DataFrame:
        """The answers on tasks in a state, the rows of ``evaluate_items``; computed if missing."""
        cell = self.cell(state, tested)
        if cell.missing():
            cell.run()

        def read() -> pd.DataFrame:
            frames = [self.store.get("states", self._answers(state, name)) for name in tested]
            return pd.concat(frames, ignore_index=True)

        # A figure and the test of a claim ask for the same ones.
        return self.once(("items", digest(state.needs), *tested), read).assign(**columns)

    def table(self, state: State, name: str) -> pd.DataFrame:
        """A further table of a state, which its cell has made."""
        return self.store.get("states", {**state.needs, "table": name})

    def _answers(self, state: State, name: str) -> dict[str, Any]:
        return {
            **state.needs, "answers": self.facts(name, n_test=self.plan.n_test),
            "asked": asdict(self.plan.prompt), "max_new_tokens": self.plan.max_new_tokens,
        }  # fmt: skip

    def _test_flops(self, name: str) -> float:
        task = self.tasks[name]
        passes = max(1, len(task.labels)) if task.is_classification else 2
        return 2 * self.n_parameters * self.tokens(name) * self.plan.n_test * passes

    def _score(self, which: str, name: str, sample: int) -> Recipe[NeuronScores]:
        plain, limit = self.plain(which), self.plan.n_detect

        def compute() -> NeuronScores:
            with plain.enter() as model:
                return score_neurons(
                    model, self.sampled(name, sample), prompt=self.plan.prompt, limit=limit
                )

        needs = {
            **plain.needs, "found on": self.facts(name, n_train=limit, sample=sample),
            "asked": asdict(self.plan.prompt), "method": "grad_act",
        }  # fmt: skip
        return Recipe("scores", needs, compute)

    def _rates(self) -> list[Recipe[pd.DataFrame]]:
        found = []
        firsts = {task.is_classification: task for task in reversed(self.tasks)}
        for task in firsts.values():
            own = self.sets()[task.name]
            for lr in self.plan.rates:
                for kind, neurons in (
                    ("task", own), ("random", own.random_like(0)),
                    ("all", self.scores()[task.name].top(fraction=1.0)),
                ):  # fmt: skip
                    training = replace(
                        self.plan.training(lr, 0), validation=0.25, evaluate_every=self.plan.steps
                    )
                    row = {"task": task.name, "neurons": kind, "lr": lr}

                    def compute(
                        task=task, neurons=neurons, training=training, row=row
                    ) -> pd.DataFrame:
                        delta = finetune(
                            self.base, task, neurons, training, prompt=self.plan.prompt,
                            limit=self.plan.n_train,
                        )  # fmt: skip
                        loss = float(delta.history["validation_loss"].iloc[-1])
                        return pd.DataFrame([{**row, "loss": loss}])

                    needs = {
                        **row, "model": self.fingerprint, "set": _name_of(neurons),
                        "on": self.facts(task.name, n_train=self.plan.n_train),
                        "training": asdict(training), "asked": asdict(self.plan.prompt),
                    }  # fmt: skip
                    found.append(Recipe("rates", needs, compute))
        return found

    def tuned_cells(self) -> list[Cell]:
        """The work of training the base model on all tasks together, where that is asked for."""
        if self.tuned not in ("all", "lora"):
            return []
        file, training = self._tuned_file()
        examples = training.batch_size * (training.steps or 0)
        mean = sum(map(self.tokens, self.tasks.names)) / len(self.tasks)
        return [
            Cell(
                "train on all tasks", file.stem, lambda: not file.exists(), self._train_together,
                6 * self.n_parameters * mean * examples,
            )
        ]  # fmt: skip

    def _together(self) -> State:
        """The base model after training on all tasks together."""
        file, _ = self._tuned_file()

        @contextmanager
        def enter() -> Iterator[Any]:
            if not file.exists():
                self._train_together()
            with load_delta(file).applied(self.base):
                yield self.base

        return State("plain", {"model": file.stem}, enter)

    def _train_together(self) -> None:
        file, training = self._tuned_file()
        train = {"all": finetune_all, "lora": finetune_lora}[self.tuned]
        made = train(
            self.base, list(self.tasks), None, training, prompt=self.plan.prompt,
            limit=self.plan.n_train,
        )  # fmt: skip
        made.save(file)

    def _tuned_file(self) -> tuple[Path, Training]:
        names = self.tasks.names
        training = self.plan.training(self.lr(all_weights=self.tuned == "all"), 0, len(names))
        needs = {
            "model": self.fingerprint, "trained": self.tuned,
            "on": [self.facts(name, n_train=self.plan.n_train) for name in names],
            "training": asdict(training), "prompt": asdict(self.plan.prompt),
        }  # fmt: skip
        return self.store.folder / "models" / f"{digest(needs)}.safetensors", training


@contextmanager
def _given(model: Any) -> Iterator[Any]:
    yield model


def _name_of(neurons: NeuronSet) -> str:
    """A name for exactly these neurons, whatever they are called."""
    return hashlib.sha256(neurons.mask.numpy().tobytes()).hexdigest()[:20]


Condition = tuple[State, Sequence[str], Mapping[str, Any]]
"""A state, the tasks to test in it, and columns that describe it."""


def cells_of(lab: Lab, conditions: Sequence[Condition]) -> list[Cell]:
    """One cell per state."""
    return [lab.cell(state, tested) for state, tested, _ in conditions]


def items_of(lab: Lab, conditions: Sequence[Condition]) -> pd.DataFrame:
    """All answers, with the columns that describe the states."""
    frames = [lab.items(state, tested, **columns) for state, tested, columns in conditions]
    return pd.concat(frames, ignore_index=True)
