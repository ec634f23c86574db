"""Tasks as data: examples with an answer, an instruction, and how an answer is judged."""

import hashlib
import json
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

from tl_taskneurons.runtime.errors import InputError, InputTypeError, UnknownNameError, did_you_mean
from tl_taskneurons.runtime.options import require_number
from tl_taskneurons.tasks.example import Example, cut_inputs, strip_texts, stripped_example
from tl_taskneurons.tasks.verbalizers import checked_words

if TYPE_CHECKING:
    from tl_taskneurons.tasks.wording import Prompt

METRICS = ("accuracy", "rougeL", "exact_match", "loss")


@dataclass(frozen=True)
class Task:
    """A named task with a training and a test split.

    White space at the ends of answers (targets, labels, references, wrong answers) is taken away,
    with a warning that counts them, since the form of the prompt says what stands around an
    answer. Plain text, a target without an input, stays as it is.

    Attributes:
        name: the task's name in tables and files.
        train: examples for detection, few-shot demonstrations and training.
        test: examples for evaluation; never used to choose anything.
        instruction: what to do, in plain words; may be empty.
        labels: the labels of a classification task; empty for generation.
        metric: ``"accuracy"``, ``"rougeL"``, ``"exact_match"`` or ``"loss"``.
        family: the kind of task (``"sentiment"``, ``"relation"``, ...), for grouping.
        verbalizers: the words that a label is said in, see ``verbalize``; a label that isn't there
            is said as it is.

    Raises:
        ValueError: for an unknown metric, an empty name, an empty target, or a label that is
            not among the labels.
    """

    name: str
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    instruction: str = ""
    labels: tuple[str, ...] = ()
    metric: str = "accuracy"
    family: str = ""
    verbalizers: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("name", "instruction"):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise InputTypeError(f"A task's {name} is {value!r}; it must be a string.")
        if isinstance(self.labels, str) or not isinstance(self.labels, Sequence):
            raise InputTypeError(f"A task's labels are {self.labels!r}; give a tuple of strings.")
        for examples in (self.train, self.test):
            several = isinstance(examples, Sequence) and not isinstance(examples, str)
            for example in examples if several else [examples]:
                if not isinstance(example, Example):
                    raise InputTypeError(
                        f"A task's examples hold {example!r} ({type(example).__name__}); give "
                        "Examples, or use task_from_dicts."
                    )
        if not self.name:
            raise InputError("A task needs a name; got an empty string.")
        if not self.name.isprintable():
            raise InputError(
                f"The name {self.name!r} holds a control character or half a character; a name "
                "stands in tables and file names, so give it printable characters alone."
            )
        if self.metric not in METRICS:
            raise InputError(
                f"Unknown metric {self.metric!r} of task {self.name!r}; use one of {METRICS}."
            )
        for split, examples in (("train", self.train), ("test", self.test)):
            for i, example in enumerate(examples):
                if not example.target.strip():
                    raise InputError(
                        f"Example {i} of the {split} split of task {self.name!r} has an empty "
                        "target; every example needs an answer."
                    )
        self._strip_answers()
        if self.metric == "accuracy" and len(self.labels) < 2:
            raise InputError(
                f"Task {self.name!r} is judged by accuracy but has {len(self.labels)} labels; "
                "give at least two, or use metric='exact_match' or 'rougeL'."
            )
        if len(set(self.labels)) != len(self.labels):
            raise InputError(f"Task {self.name!r} lists a label twice: {self.labels}.")
        for split, examples in (("train", self.train), ("test", self.test)):
            for i, example in enumerate(examples):
                if self.labels and example.target not in self.labels:
                    raise InputError(
                        f"Example {i} of the {split} split of task {self.name!r} has the unknown "
                        f"label {example.target!r}; use one of the labels {self.labels}."
                    )
        object.__setattr__(self, "verbalizers", checked_words(self, self.verbalizers))

    def _strip_answers(self) -> None:
        """Take white space from the ends of answers, and say of how many."""
        stripped: dict[str, Any] = {}
        changed: list[str] = []
        for split, examples in (("train", self.train), ("test", self.test)):
            stripped[split] = tuple(stripped_example(example, changed) for example in examples)
        stripped["labels"] = strip_texts(self.labels, changed)
        if changed:
            for name, value in stripped.items():
                object.__setattr__(self, name, value)
            warnings.warn(
                f"{len(changed)} answers of task {self.name!r} began or ended with white space, "
                f"which was taken away, as {changed[0]!r} became {changed[0].strip()!r}.",
                UserWarning,
                stacklevel=4,
            )

    def __repr__(self) -> str:
        """Return what fits a line: the name, the sizes, the metric and the labels."""
        labels = ", ".join(map(repr, self.labels[:4])) + (", ..." if len(self.labels) > 4 else "")
        return (
            f"Task({self.name!r}, {len(self.train)} train, {len(self.test)} test, {self.metric}"
            + (f", labels {labels}" if labels else "")
            + ")"
        )

    @property
    def is_classification(self) -> bool:
        """Whether the task has labels."""
        return bool(self.labels)

    def words(self, label: str) -> tuple[str, ...]:
        """Return how a label is said: its verbalizers, the first of which is taught, or itself."""
        return self.verbalizers.get(label, (label,))

    def answer(self, example: Example) -> str:
        """Return the text that an example's prompt is followed by."""
        return self.words(example.target)[0] if self.labels else example.target

    def accepted(self, example: Example) -> tuple[str, ...]:
        """Return every text that counts as the right answer to an example."""
        return self.words(example.target) if self.verbalizers else example.accepted

    def verbalize(self, words: Mapping[str, str | Sequence[str]]) -> "Task":
        """Return the task with labels that are said in other words, or in several.

        A label's probability is the sum of its words', so accuracy asks which label the model
        gives most; the first word stands in demonstrations, and loss and scores are of it.

        Args:
            words: label to its word or words, e.g. ``{"positive": ["great", "good"]}``.

        Raises:
            ValueError: for a label that isn't one of the task's, or a word given twice.
            TypeError: for something else than words.
        """
        return replace(self, verbalizers=checked_words(self, words))

    def split(self, name: str) -> tuple[Example, ...]:
        """Return the examples of ``"train"`` or ``"test"``.

        Raises:
            ValueError: for another name, or when the split is empty.
        """
        if name not in ("train", "test"):
            raise InputError(f"Unknown split {name!r}; use 'train' or 'test'.")
        examples = self.train if name == "train" else self.test
        if not examples:
            raise InputError(
                f"The {name} split of task {self.name!r} is empty; add examples to it or "
                "choose the other split."
            )
        return examples

    def limit(self, n_train: int | None = None, n_test: int | None = None) -> "Task":
        """Return the task with at most the first ``n_train`` and ``n_test`` examples."""
        return replace(self, train=self.train[:n_train], test=self.test[:n_test])

    def shorter(self, max_chars: int | None) -> "Task":
        """Return the task without examples whose input is longer; None keeps all.

        Raises:
            ValueError: when no example of a split is left.
        """
        if max_chars is None:
            return self
        kept = {}
        for split, examples in (("train", self.train), ("test", self.test)):
            kept[split] = tuple(e for e in examples if len(e.input) <= max_chars)
            if examples and not kept[split]:
                shortest = min(len(example.input) for example in examples)
                raise InputError(
                    f"No {split} example of task {self.name!r} has at most {max_chars} characters; "
                    f"the shortest has {shortest}. Allow longer inputs."
                )
        return replace(self, train=kept["train"], test=kept["test"])

    def cut(self, max_chars: int | None) -> "Task":
        """Return the task with longer inputs cut at a word's end; None keeps all as they are.

        Raises:
            ValueError: for less than one character.
        """
        if max_chars is None:
            return self
        require_number("max_chars", max_chars, whole=True, least=1)
        train, test = (
            tuple(cut_inputs(example, max_chars) for example in examples)
            for examples in (self.train, self.test)
        )
        return replace(self, train=train, test=test)

    def show(
        self, model: Any, n: int = 3, *, split: str = "test", prompt: "Prompt | None" = None
    ) -> None:
        """Print exactly what a model reads of the first examples, and which part is scored.

        Args:
            model: a model with a tokenizer, or a tokenizer.
            n: how many examples.
            split: which split.
            prompt: how examples become text.

        Raises:
            ValueError: as for a model that is scored, e.g. when an example does not fit.
        """
        from tl_taskneurons.tasks.show import Prompt, shown

        sys.stdout.write(shown(self, model, n, split, prompt or Prompt()) + "\n")

    @staticmethod
    def from_texts(name: str, texts: Iterable[str]) -> "Task":
        """Make a task of plain texts, whose every token counts as the answer.

        Scores of plain text are a reference to contrast a task with: they show which neurons
        the model needs for any text at all.
        """
        examples = tuple(Example(input="", target=text) for text in texts)
        return Task(name=name, train=examples, test=examples, metric="loss", family="text")


class Tasks(tuple[Task, ...]):
    """A tuple of tasks that also answers to names: ``tasks["sst2"]``."""

    __slots__ = ()

    def __new__(cls, tasks: Task | Iterable[Task] = ()) -> "Tasks":
        """Collect tasks, or one; two tasks of one name raise ValueError."""
        given: Any = (
            tasks if isinstance(tasks, Iterable) and not isinstance(tasks, str) else [tasks]
        )
        self = super().__new__(cls, tuple(given))
        for task in self:
            if not isinstance(task, Task):
                raise InputTypeError(
                    f"Tasks hold tasks, not {str(task)[:60]!r} ({type(task).__name__}); load_tasks "
                    "reads them from names, files and tables."
                )
        names = [task.name for task in self]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"Task names must differ; given twice: {twice}.")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks' names, in order."""
        return tuple(task.name for task in self)

    def __add__(self, other: object) -> "Tasks":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return these tasks and others, a task or several."""
        if isinstance(other, Task):
            return Tasks((*self, other))
        if not isinstance(other, Iterable):
            return NotImplemented
        return Tasks((*self, *other))

    def __radd__(self, other: object) -> "Tasks":
        """Return other tasks and these."""
        return Tasks(()) + other + self

    def __repr__(self) -> str:
        """Return one line a task, of at most twenty."""
        lines = [f"  {task!r}," for task in self[:20]]
        more = [f"  ... and {len(self) - 20} more,"] if len(self) > 20 else []
        return "\n".join(["Tasks(", *lines, *more, ")"]) if len(self) else "Tasks()"

    @overload
    def __getitem__(self, key: str | SupportsIndex) -> Task: ...
    @overload
    def __getitem__(self, key: slice) -> "Tasks": ...
    def __getitem__(self, key: str | SupportsIndex | slice) -> "Task | Tasks":
        """Return a task by position or by name, or a slice of tasks."""
        if isinstance(key, str):
            for task in self:
                if task.name == key:
                    return task
            raise UnknownNameError(f"No task {key!r}{did_you_mean(key, self.names)}")
        if isinstance(key, slice):
            return Tasks(super().__getitem__(key))
        return super().__getitem__(key)


OneTask = Task | Sequence[Task]


def one_task(task: OneTask) -> Task:
    """Return a task, also where it stands alone among ``Tasks``.

    Raises:
        TypeError: for several tasks or none, or something else than a task.
    """
    if isinstance(task, Task):
        return task
    if isinstance(task, Sequence) and not isinstance(task, str) and len(task) == 1:
        return one_task(task[0])
    got = f"{type(task).__name__} ({str(task)[:60]!r})"
    if isinstance(task, Tasks):
        got = f"Tasks of {len(task)}: {', '.join(task.names[:5])}"
    raise InputTypeError(
        f"Expected one task, got {got}; give one of them, as tasks[0] or tasks['NAME'] of what "
        "load_tasks returns."
    )


def tasks_digest(tasks: Sequence[Any]) -> str:
    """Return a short name for these tasks and all their examples."""
    listed = []
    for task in tasks:
        # Not by `asdict`, which copies everything and takes twice as long.
        facts = _facts(task, without_empty=("verbalizers",))
        for split in ("train", "test"):
            facts[split] = [
                _facts(example, without_empty=("wrong", "counterfactual"))
                for example in facts[split]
            ]
        listed.append(facts)
    text = json.dumps(listed, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _facts(of: Any, without_empty: Sequence[str]) -> dict[str, Any]:
    """A dataclass as a dict, without what is empty and no part of what older runs are known by."""
    values = {each.name: getattr(of, each.name) for each in fields(of)}
    return {name: v for name, v in values.items() if v or name not in without_empty}
