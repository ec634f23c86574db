"""How examples are divided into train and test, so that no input is in both."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any

from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.tasks.task import Example

_TOLD_APART = 16  # of fewer examples the order may be chance


@dataclass(frozen=True)
class Split:
    """How rows are read and divided.

    Attributes:
        test_fraction: the part held out for the test split where rows don't say their split.
        seed: which are held out.
        columns: the data's names of fields to ours.
        tell: whether fields that nothing reads are told of; tables often have more columns.
    """

    test_fraction: float = 1 / 3
    seed: int = 0
    columns: Mapping[str, str] | None = None
    tell: bool = True


def two_splits(
    examples: Sequence[Example], named: Sequence[tuple[str, Any]], where: str, how: Split
) -> tuple[list[Example], list[Example]]:
    """Divide examples into train and test: by what their rows say, or else by drawing inputs.

    Args:
        examples: all of them.
        named: of each example where it stands, for messages, and its split, or None.
        where: what they are of, for messages.
        how: how much is held out, and by which seed.

    Raises:
        ValueError: for unknown splits, splits of some rows only, or too few examples to hold out.
    """
    splits = [split for _, split in named]
    for at, split in named:
        if split not in (None, "train", "test"):
            raise InputError(f"{at}: unknown split {split!r}; write 'train' or 'test'.")
    if any(splits) and None in splits:
        at = named[splits.index(None)][0]
        raise InputError(f"{at} has no 'split', but others have; give it to all or none.")
    if any(splits):
        train = [e for e, split in zip(examples, splits, strict=True) if split == "train"]
        test = [e for e, split in zip(examples, splits, strict=True) if split == "test"]
        _tell_of_order({"train": train, "test": test}, where)
        return _unseen(train, test, where), test
    if len(examples) < 2:
        raise InputError(
            f"There is one example in {where}, too few to hold one out for the test split; add "
            "examples, or write 'split': 'test' into it."
        )
    train, test = _held_out(examples, how)
    if {(e.input, e.target) for e in train} == {(e.input, e.target) for e in test}:
        raise InputError(
            f"All examples in {where} are the same ({examples[0].input!r}), so none can be held "
            "out for the test split; add others."
        )
    return train, test


def _held_out(examples: Sequence[Example], how: Split) -> tuple[list[Example], list[Example]]:
    """Draw whole inputs for the test split; several answers to one may be examples of their own."""
    alike: dict[tuple[str, str], list[Example]] = {}
    for example in examples:
        alike.setdefault(_asked(example), []).append(example)
    # With a single input there are only its answers to divide.
    groups = list(alike.values()) if len(alike) > 1 else [[example] for example in examples]
    Random(how.seed).shuffle(groups)
    n_test = min(max(1, round(len(examples) * how.test_fraction)), len(examples) - 1)
    test: list[Example] = []
    while len(test) < n_test and len(groups) > 1:
        test += groups.pop(0)
    return [example for group in groups for example in group], test


def _unseen(train: list[Example], test: list[Example], where: str) -> list[Example]:
    """Leave examples out of train whose input is in test as well, and say how many."""
    asked = set(map(_asked, test))
    kept = [e for e in train if _asked(e) not in asked]
    n = len(train) - len(kept)
    if n:
        what = "were left out of train" if kept else "were kept, or nothing would be left"
        warnings.warn(
            f"{n} of {len(train)} train examples in {where} have an input of the test split and "
            f"{what}: what is measured on seen examples is memory.",
            UserWarning,
            stacklevel=5,
        )
    return kept or train


def _tell_of_order(splits: Mapping[str, list[Example]], where: str) -> None:
    """Warn of examples that are sorted by label, of which a limit takes one label alone."""
    for split, examples in splits.items():
        labels = [example.label for example in examples]
        changes = sum(a != b for a, b in pairwise(labels))
        if len(examples) >= _TOLD_APART and 0 < changes == len(set(labels)) - 1:
            warnings.warn(
                f"The {split} examples in {where} are sorted by label, and a limit takes the "
                "first ones, so it may leave labels out; shuffle the rows.",
                UserWarning,
                stacklevel=5,
            )


def _asked(example: Example) -> tuple[str, str]:
    """What tells examples apart: the input, of plain text the text; blanks around it don't."""
    text = example.input.strip()
    return text, "" if text else example.target.strip()
