"""A model, its tasks, the sizes of a reproduction and the store, with the facts about them."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pandas as pd

from tl_taskneurons.experiments.lab.presets import Plan
from tl_taskneurons.experiments.lab.store import Recipe, Store
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.tasks.prompts import encode
from tl_taskneurons.tasks.task import Task, Tasks, tasks_digest

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Records:
    """A model with its tasks, the sizes of a reproduction, and the store.

    Attributes:
        base: the model whose neurons are trained: a HookedTransformer or TransformerBridge.
        tuned: the model after training on all tasks, or ``"base"``, ``"all"`` or ``"lora"`` (see
            ``presets.Subject``).
        tasks: the tasks.
        plan: the sizes.
        store: where results are.
        data: the source of the tasks; orders of tasks in a row are loaded from it too.
    """

    base: Any
    tuned: Any
    tasks: Tasks
    plan: Plan
    store: Store
    data: str
    _known: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @property
    def n_parameters(self) -> int:
        """Number of weights of the base model."""
        return self.once(
            "size", lambda: sum(parameter.numel() for parameter in self.base.parameters())
        )

    @property
    def fingerprint(self) -> str:
        """The base model's fingerprint; taken once, as nothing here changes the model for good."""
        return self.once("fingerprint", lambda: view(self.base).fingerprint)

    def stored_table(self, recipe: Recipe[pd.DataFrame]) -> pd.DataFrame:
        """Return a table from the store; compute it where it is missing."""
        return self.store.table(recipe)

    def stored_scores(self, recipe: Recipe[NeuronScores]) -> NeuronScores:
        """Return scores from the store; compute them where they are missing."""
        return self.store.scores(recipe)

    def facts(
        self, name: str, *, n_train: int | None = None, n_test: int | None = None, sample: int = 0
    ) -> str:
        """A digest of the examples of a task that something depends on."""

        def compute() -> str:
            task = self.sampled(name, sample) if n_train else self.tasks[name]
            # Demonstrations are drawn from all training examples.
            train = task.train if self.plan.shots else task.train[: n_train or 0]
            return tasks_digest([replace(task, train=train, test=task.test[: n_test or 0])])

        return self.once(("facts", name, n_train, n_test, sample), compute)

    def tokens(self, name: str) -> float:
        """Mean number of tokens of a task's examples, from a few of them."""
        return self.once(("tokens", name), lambda: self.tokens_of(self.tasks[name]))

    def tokens_of(self, task: Task) -> float:
        """Mean number of tokens of a task's examples, from a few of them."""
        items = encode(
            task, self.base.tokenizer, split="train", prompt=self.plan.prompt, limit=16
        ).items
        return sum(map(len, items)) / len(items)

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return what ``compute`` gave the first time that the key was asked for."""
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]

    def sampled(self, name: str, sample: int) -> Task:
        """The task with its training examples turned so that another sample comes first."""
        task = self.tasks[name]
        start = sample * self.plan.n_detect % len(task.train)
        return replace(task, train=task.train[start:] + task.train[:start])
