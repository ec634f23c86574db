"""What a search for neurons is asked: what is silenced how, and which examples say so."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from tl_taskneurons.models.positions import Positions, check_positions
from tl_taskneurons.neurons.ablation import check_ablation
from tl_taskneurons.neurons.metrics import find_metric
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.options import require_kind, require_number
from tl_taskneurons.tasks.prompts import Prompt
from tl_taskneurons.tasks.task import Task, Tasks

# Fewer examples than this say too little, whether of one draw of demonstrations or as the only ones
# that effects are taken on.
FEWEST = 4
# Examples (a task's test split), and the form of their prompts.
Part = tuple[Task, Prompt]


@dataclass(frozen=True)
class Question:
    """What is silenced, how, and on which examples effects are taken and measured.

    Attributes:
        metric: what signed effects are of: a name of ``METRICS`` or a function; anything but
            ``"loss"`` is also what the goal is measured in.
        ablation: as in ``deactivate``; ``"mean"`` takes the means over the task's examples.
        positions: as in ``deactivate``.
        prompt: how examples become text; where tasks differ in it, by task name.
        n_score: training examples that effects are taken on, out of twice as many: those that the
            model still does.
        n_held: further training examples that the goal is measured on.
        n_spared: training examples of each other task that harm is measured on.
        draws: the task's examples, those for effects and those for the goal, are spread over so
            many draws of demonstrations, or the set would be one of this one prompt; with prompts
            that have no demonstrations it plays no part.
        layers: only neurons of these layers are candidates; None stands for all.
    """

    metric: str | Callable[..., Any] = "loss"
    ablation: str | Tensor = "zero"
    positions: Positions = "all"
    prompt: Prompt | Mapping[str, Prompt] = Prompt()
    n_score: int = 24
    n_held: int = 64
    n_spared: int = 32
    draws: int = 3
    layers: Sequence[int] | None = None

    def __post_init__(self) -> None:
        for name in ("n_score", "n_held", "n_spared", "draws"):
            require_number(name, getattr(self, name), whole=True, least=1, optional=False)
        require_kind(
            "prompt", self.prompt, Prompt | Mapping, "give Prompt(shots=..., template=...)"
        )
        find_metric(self.metric)
        check_ablation(self.ablation)
        check_positions(self.positions)

    def prompt_of(self, task: Task) -> Prompt:
        """How a task's examples become text.

        Raises:
            ValueError: for a task that none is given for.
        """
        if isinstance(self.prompt, Prompt):
            return self.prompt
        if task.name not in self.prompt:
            raise InputError(
                f"Question has prompts by task name, but none for {task.name!r}; give one."
            )
        return self.prompt[task.name]


def halves(task: Task, question: Question, n_held: int | None = None) -> tuple[Task, Task]:
    """Cut a task's training examples: one part to take effects on, one to measure on.

    The second part is the test split of the task that is returned; its demonstrations come from
    the rest. The task's own test split is in neither.

    Raises:
        ValueError: for fewer than four training examples.
    """
    examples, n_score = task.train, question.n_score
    n_held = question.n_held if n_held is None else n_held
    if len(examples) < 4:
        raise InputError(
            f"Task {task.name!r} has {len(examples)} training examples; the search needs at least "
            "4, to take effects on some and to measure on others."
        )
    if len(examples) < n_score + n_held:
        n_score = min(n_score, len(examples) // 2)
    held = examples[n_score : n_score + n_held]
    rest = (*examples[:n_score], *examples[n_score + len(held) :])
    return replace(task, train=examples[:n_score]), replace(task, train=rest, test=held)


def spread(task: Task, prompt: Prompt, draws: int) -> list[Part]:
    """Spread a task's test examples over draws of demonstrations, four at least to each."""
    n = max(1, min(draws if prompt.shots else 1, len(task.test) // FEWEST))
    return [
        (replace(task, test=task.test[k::n]), replace(prompt, seed=prompt.seed + k))
        for k in range(n)
    ]


def others_of(task: Task, others: Task | Iterable[Task]) -> Tasks:
    """Return the tasks that must not be harmed.

    Raises:
        ValueError: without any, or with the task itself among them.
    """
    listed = Tasks([others] if isinstance(others, Task) else others)
    if not listed:
        raise InputError(
            "There are no others, so nothing says what must not be harmed; give tasks, or plain "
            "text: Task.from_texts(name, texts)."
        )
    if task.name in listed.names:
        raise InputError(f"Task {task.name!r} is among the others, which must not be harmed.")
    return listed
