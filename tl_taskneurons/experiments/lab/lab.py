"""A laboratory: a model, its tasks, the sizes and the store, with what is known of them."""

from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import torch

from tl_taskneurons.experiments.lab.plan import Plan
from tl_taskneurons.experiments.lab.store import SCORES, Key, Result, Store, digest
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.tasks.prompts import encode
from tl_taskneurons.tasks.task import Task, Tasks, tasks_digest

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Lab:
    """What all experiments of a reproduction share.

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

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return what ``compute`` gave the first time that the key was asked for."""
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]

    @property
    def n_parameters(self) -> int:
        """Number of weights of the base model."""
        return self.once("size", lambda: sum(p.numel() for p in self.base.parameters()))

    @property
    def silenced(self) -> tuple[str, ...]:
        """Names of the tasks of the tuned model."""
        return self.plan.silenced_tasks or tuple(self.tasks.names)

    @property
    def fingerprint(self) -> str:
        """The base model's fingerprint; taken once, as nothing here changes the model for good."""
        return self.once("fingerprint", lambda: view(self.base).fingerprint)

    @property
    def shape(self) -> tuple[int, int]:
        """Layers, and neurons in each."""
        return self.once("shape", lambda: view(self.base).shape)

    def sampled(self, name: str, sample: int) -> Task:
        """The task with its training examples turned so that another sample comes first."""
        task = self.tasks[name]
        start = sample * self.plan.n_detect % len(task.train)
        return replace(task, train=task.train[start:] + task.train[:start])

    def examples(self, name: str, *, n_train: int = 0, n_test: int = 0, sample: int = 0) -> str:
        """A digest of the examples of a task that something depends on."""

        def compute() -> str:
            task = self.sampled(name, sample) if n_train else self.tasks[name]
            # Demonstrations are drawn from all training examples.
            train = task.train if self.plan.shots else task.train[:n_train]
            return tasks_digest([replace(task, train=train, test=task.test[:n_test])])

        return self.once(("examples", name, n_train, n_test, sample), compute)

    def tokens(self, task: Task) -> float:
        """Mean number of tokens of a task's examples, from a few of them."""

        def compute() -> float:
            prompt = self.plan.prompt
            items = encode(task, self.base.tokenizer, split="train", prompt=prompt, limit=16).items
            return sum(map(len, items)) / len(items)

        return self.once(("tokens", task.name), compute)

    def training_flops(self, names: "tuple[str, ...] | list[str]", examples: int) -> float:
        """About how many operations it takes to train on so many examples of tasks."""
        mean = sum(self.tokens(self.tasks[name]) for name in names) / len(names)
        return 6 * self.n_parameters * mean * examples

    @property
    def prompt_key(self) -> Key:
        """The form of the prompts, as part of a result's key."""
        return asdict(self.plan.prompt)


def draw_seed(*what: Any) -> int:
    """A seed of its own for each thing that is drawn, so that no two draws are alike."""
    return int(digest(list(what))[:12], 16)


def control(neurons: NeuronSet, task: str, match: str, seed: int, sample: int = 0) -> NeuronSet:
    """Random neurons in place of a task's, drawn independently for each task, sample and seed.

    Args:
        neurons: the task's.
        task: its name.
        match: ``"total"`` draws as many over all layers (the paper's), ``"layer"`` as many in each.
        seed: of the draw.
        sample: of examples that the task's neurons were found on.
    """
    matching: Any = match
    return neurons.random_like(draw_seed("control", task, match, seed, sample), match=matching)


def name_of(neurons: NeuronSet) -> str:
    """A name for exactly these neurons, whatever they are called."""
    return digest(neurons.mask.flatten().nonzero().flatten().tolist())


def random_scores(lab: Lab, key: Key) -> NeuronScores:
    """Scores in place of those that a plan of work can't know yet."""
    generator = torch.Generator().manual_seed(draw_seed(dict(key)))
    values = torch.rand(lab.shape, generator=generator, dtype=torch.float32, device="cpu")
    return NeuronScores(values, lab.fingerprint, "unknown", "random")


def scores_result(lab: Lab, key: Key, compute: Callable[[], NeuronScores]) -> Result[NeuronScores]:
    """Scores of neurons as a result of the store."""
    return Result("scores", key, compute, SCORES, stand_in=lambda: random_scores(lab, key))
