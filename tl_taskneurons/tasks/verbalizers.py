"""The words in which a task's labels are said."""

from collections.abc import Mapping, Sequence
from typing import Any

from tl_taskneurons.runtime.errors import InputError, InputTypeError, did_you_mean


def checked_words(task: Any, given: Any) -> dict[str, tuple[str, ...]]:
    """Return verbalizers as tuples of words.

    Args:
        task: the task, for its labels.
        given: label to its word or words.

    Raises:
        TypeError: for something else than words by label.
        ValueError: for an unknown label, no word, or a word that two labels have.
    """
    if not isinstance(given, Mapping):
        raise InputTypeError(
            f"The verbalizers of task {task.name!r} are {given!r}; give label to words, as "
            "{'positive': ['great', 'good']}."
        )
    words: dict[str, tuple[str, ...]] = {}
    for label, said in given.items():
        if label not in task.labels:
            known = did_you_mean(str(label), task.labels) if task.labels else "; it has none."
            raise InputError(f"Task {task.name!r} has no label {label!r} to verbalize{known}")
        listed = (said,) if isinstance(said, str) else said
        if not isinstance(listed, Sequence) or not all(isinstance(one, str) for one in listed):
            raise InputTypeError(
                f"Label {label!r} of task {task.name!r} is said as {said!r}; give a word or a list "
                "of words."
            )
        words[label] = tuple(one.strip() for one in listed)
        if not words[label] or not all(words[label]):
            raise InputError(
                f"Label {label!r} of task {task.name!r} is said as {said!r}; give at least one "
                "word, none of them empty."
            )
    owner: dict[str, str] = {}
    for label in task.labels:
        for word in words.get(label, (label,)):
            if word in owner:
                raise InputError(
                    f"{word!r} says {owner[word]!r} and {label!r} in task {task.name!r}; give each "
                    "label words of its own."
                )
            if words:
                owner[word] = label
    return words
