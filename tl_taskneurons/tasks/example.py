"""One item of a task."""

from dataclasses import dataclass, replace
from typing import Any

from tl_taskneurons.runtime.errors import InputError, InputTypeError


@dataclass(frozen=True)
class Example:
    """One item of a task.

    Attributes:
        input: the content alone, without the instruction.
        target: the text to produce; for classification one of the task's labels.
        label: the label of a classification example, else None.
        references: accepted answers of a generation example beside the target.
        wrong: answers that the example's target is compared with, e.g. by the metric
            ``"logit_diff"``; for classification, empty means all other labels.
        counterfactual: another input, e.g. with the other name or number, whose activations can
            take the place of this one's (``ablation="counterfactual"``).
    """

    input: str
    target: str
    label: str | None = None
    references: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    counterfactual: str | None = None

    def __post_init__(self) -> None:
        for field in ("input", "target"):
            _require_text(field, getattr(self, field))
        for field in ("label", "counterfactual"):
            if getattr(self, field) is not None:
                _require_text(field, getattr(self, field))
        for field in ("references", "wrong"):
            texts = getattr(self, field)
            if not isinstance(texts, list | tuple):
                raise InputTypeError(
                    f"An example's {field} are {texts!r}; give a tuple of strings."
                )
            for text in texts:
                _require_text(field, text)
            object.__setattr__(self, field, tuple(texts))

    @property
    def accepted(self) -> tuple[str, ...]:
        """Every accepted answer: the references, and the target whether or not they repeat it."""
        repeated = self.target in self.references
        return self.references if repeated else (self.target, *self.references)


def beginning(text: str, most: int) -> str:
    """At most so many characters, ended where a word does unless the first one is longer."""
    if len(text) <= most:
        return text
    head = text[:most]
    if head[-1].isspace() or text[most].isspace():
        return head.rstrip()
    words = head.rsplit(maxsplit=1)
    return words[0] if len(words) > 1 else head


def stripped_example(example: Example, changed: list[str]) -> Example:
    """An example with bare answers; those that were not are added to ``changed``."""
    if not example.input:  # plain text
        return example
    answers = (example.target, example.label or "", *example.references, *example.wrong)
    if all(text == text.strip() for text in answers):
        return example
    return replace(
        example,
        target=strip_texts((example.target,), changed)[0],
        label=None if example.label is None else example.label.strip(),
        references=strip_texts(example.references, changed),
        wrong=strip_texts(example.wrong, changed),
    )


def strip_texts(texts: tuple[str, ...], changed: list[str]) -> tuple[str, ...]:
    """Bare texts; those that were not are added to ``changed``."""
    changed += [text for text in texts if text != text.strip()]
    return tuple(text.strip() for text in texts)


def _require_text(field: str, value: Any) -> None:
    if not isinstance(value, str):
        raise InputTypeError(
            f"An example's {field} is {value!r} ({type(value).__name__}); it must be a string."
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"An example's {field} holds half a character ({value[error.start]!r} at position "
            f"{error.start} of {value[:80]!r}), a lone surrogate that no tokenizer can read; read "
            "its source as UTF-8, or delete it."
        ) from error


def cut_inputs(example: Example, most: int) -> Example:
    """Cut the input, and the counterfactual input, to their beginnings."""
    other = example.counterfactual
    return replace(
        example,
        input=beginning(example.input, most),
        counterfactual=None if other is None else beginning(other, most),
    )
