"""From rows with an input and an answer to a task: fields, labels, splits, and what is refused."""

import difflib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from tl_taskneurons.runtime.errors import InputError, InputTypeError, did_you_mean
from tl_taskneurons.tasks.task import METRICS, Example, Task

FIELDS = ("input", "target", "label", "references", "wrong", "counterfactual", "split")
HEADER = ("instruction", "labels", "metric", "family")
ONE_LINE = '{"input": "...", "target": "..."}'


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


@dataclass(frozen=True)
class Row:
    """One row and where it stands, for error messages."""

    where: str
    fields: Mapping[str, Any]


def renamed(rows: Sequence[Row], columns: Mapping[str, str] | None, where: str) -> list[Row]:
    """Give fields our names.

    Args:
        rows: the rows.
        columns: the data's name of a field to ours, e.g. ``{"text": "input"}``.
        where: what the rows are of, for messages.

    Raises:
        ValueError: a name of ours that isn't, or a column that isn't there.
    """
    if not columns:
        return list(rows)
    present = list(dict.fromkeys(key for row in rows for key in row.fields))
    for old, new in columns.items():
        if new not in FIELDS:
            raise InputError(
                f"columns says that {old!r} is {new!r}, no field of ours{did_you_mean(new, FIELDS)}"
                " It maps the data's names to ours, as {'text': 'input', 'category': 'label'}."
            )
        if present and old not in present:
            raise InputError(f"There is no column {old!r} in {where}{did_you_mean(old, present)}")
    ours = set(columns.values())
    return [
        Row(
            row.where,
            {k: v for k, v in row.fields.items() if k not in columns and k not in ours}
            | {new: row.fields[old] for old, new in columns.items() if old in row.fields},
        )
        for row in rows
    ]


def _unread(rows: Sequence[Row]) -> list[str]:
    """Refuse fields that are nearly ours, and return others that nothing reads.

    Raises:
        ValueError: naming the first row with such a field.
    """
    unread: dict[str, None] = {}
    for row in rows:
        for key in row.fields:
            if key in FIELDS or key in unread:
                continue
            near = difflib.get_close_matches(str(key), FIELDS, n=1, cutoff=0.75)
            if near and near[0] not in row.fields:
                raise InputError(
                    f"{row.where} has an unknown field {key!r}; did you mean {near[0]!r}? "
                    f"Known: {', '.join(FIELDS)}."
                )
            unread[key] = None
    return list(unread)


def make_task(
    name: str,
    rows: Sequence[Row],
    where: str,
    options: Mapping[str, Any],
    split: Split,
) -> Task:
    """Make a task of rows, the first of which may be a header."""
    if rows and _is_header(rows[0]):
        options, rows = {**rows[0].fields, **options}, rows[1:]
    if not rows:
        raise InputError(f"Task {name!r} is empty: no example in {where}; add {ONE_LINE}.")
    rows = renamed(rows, split.columns, where)
    unread = _unread(rows)
    instruction, labels, metric, family = options_of(options, where)
    without = [row for row in rows if row.fields.get("label") is None]
    if 0 < len(without) < len(rows) and not labels:
        raise InputError(
            f"{without[0].where} has no 'label', but others have; give it to all, or give the "
            "task's labels (labels=[...])."
        )
    if not labels and not without:
        found = sorted({_answer(row, "label", ()).strip() for row in rows}, key=_by_number)
        labels = tuple(found)
        if len(found) < 2:
            raise InputError(
                f"Every label in {where} is {found[0]!r}, but classification needs at least two: "
                "list them all (labels=[...]), or write 'target' instead of 'label'."
            )
    metric = metric or ("accuracy" if labels else "exact_match")
    examples = [_example(row, labels, metric) for row in rows]
    train, test = _two_splits(rows, examples, where, split)
    if unread and split.tell:
        warnings.warn(
            f"The fields {unread} in {where} are not read; known: {', '.join(FIELDS)}.",
            UserWarning,
            stacklevel=4,
        )
    return Task(name, tuple(train), tuple(test), instruction, labels, metric, family)


def _is_header(row: Row) -> bool:
    # A row with an answer is rather an example whose input was forgotten.
    if {"input", "target", "label"} & set(row.fields) or not {*HEADER} & set(row.fields):
        return False
    for key in row.fields:
        if key not in HEADER:
            raise InputError(
                f"{row.where}: a header has no field {key!r}{did_you_mean(key, HEADER)}"
            )
    return True


def options_of(options: Mapping[str, Any], where: str) -> tuple[str, tuple[str, ...], str, str]:
    """Check what a header, ``tasks.json`` or the caller says of a task."""
    for key in ("instruction", "metric", "family"):
        value = options.get(key)
        if value is not None and not isinstance(value, str):
            raise InputTypeError(f"The {key} in {where} is {value!r}; it must be a string.")
    metric, labels = options.get("metric") or "", options.get("labels") or ()
    if metric and metric not in METRICS:
        raise InputError(f"Unknown metric {metric!r} in {where}{did_you_mean(metric, METRICS)}")
    if not isinstance(labels, list | tuple) or not all(isinstance(one, str) for one in labels):
        raise InputTypeError(f"The labels in {where} are {labels!r}; give a list of strings.")
    return options.get("instruction") or "", tuple(labels), metric, options.get("family") or ""


def _two_splits(
    rows: Sequence[Row], examples: list[Example], where: str, how: Split
) -> tuple[list[Example], list[Example]]:
    splits = [row.fields.get("split") for row in rows]
    for row, split in zip(rows, splits, strict=True):
        if split not in (None, "train", "test"):
            raise InputError(f"{row.where}: unknown split {split!r}; write 'train' or 'test'.")
    if any(splits) and None in splits:
        where = rows[splits.index(None)].where
        raise InputError(f"{where} has no 'split', but others have; give it to all or none.")
    if any(splits):
        train = [e for e, split in zip(examples, splits, strict=True) if split == "train"]
        test = [e for e, split in zip(examples, splits, strict=True) if split == "test"]
        return _unseen(train, test, where), test
    if len(examples) < 2:
        raise InputError(
            f"There is one example in {where}, too few to hold one out for the test split; add "
            "examples, or write 'split': 'test' into it."
        )
    Random(how.seed).shuffle(examples)
    n_test = min(max(1, round(len(examples) * how.test_fraction)), len(examples) - 1)
    train, test = examples[n_test:], examples[:n_test]
    if {(e.input, e.target) for e in train} == {(e.input, e.target) for e in test}:
        raise InputError(
            f"All examples in {where} are the same ({examples[0].input!r}), so none can be held "
            "out for the test split; add others."
        )
    return _unseen(train, test, where), test


def _unseen(train: list[Example], test: list[Example], where: str) -> list[Example]:
    """Leave examples out of train that are in test as well, and say how many."""
    asked = {(e.input, e.target) for e in test}
    kept = [e for e in train if (e.input, e.target) not in asked]
    n = len(train) - len(kept)
    if n:
        what = "were left out of train" if kept else "were kept, or nothing would be left"
        warnings.warn(
            f"{n} of {len(train)} train examples in {where} are in the test split as well and "
            f"{what}: what is measured on seen examples is memory.",
            UserWarning,
            stacklevel=5,
        )
    return kept or train


def _by_number(label: str) -> tuple[int, str]:
    """Sort numbers as such, before and after words as text."""
    return (int(label) if label.isdecimal() else 0, label)


def _example(row: Row, labels: Sequence[str], metric: str) -> Example:
    fields = row.fields
    if fields.get("input") is None:
        raise InputError(f"{row.where} has no 'input', only {[*fields]}; write it like {ONE_LINE}.")
    text = _text(row, "input")
    if not text.strip() and metric != "loss":
        raise InputError(f"{row.where}: 'input' is {text!r}; every example needs an input.")
    label = None if fields.get("label") is None else _answer(row, "label", labels)
    target = label if fields.get("target") is None else _answer(row, "target", labels)
    if target is None:
        raise InputError(
            f"{row.where} has no 'target' and no 'label', only {[*fields]}; write it like "
            f"{ONE_LINE}."
        )
    if not target.strip():
        raise InputError(f"{row.where}: the target is {target!r}; every example needs an answer.")
    if labels:
        if label not in (None, target):
            raise InputError(
                f"{row.where}: label {label!r} and target {target!r} differ; keep one of them."
            )
        if target.strip() not in [one.strip() for one in labels]:
            raise InputError(f"{row.where}: unknown label {target!r}{did_you_mean(target, labels)}")
        return _made(row, text, target, label=target, **_contrasts(row, target))
    references = _texts(row, "references")
    # The target is an accepted answer whether or not the list repeats it.
    if references and target not in references:
        references = [target, *references]
    return _made(row, text, target, references=tuple(references), **_contrasts(row, target))


def _made(row: Row, text: str, target: str, **fields: Any) -> Example:
    try:
        return Example(text, target, **fields)
    except InputError as error:
        raise InputError(f"{row.where}: {error}") from error


def _answer(row: Row, field: str, labels: Sequence[str]) -> str:
    """Read a target or label; a number is the place of a label in the list, or its own name."""
    value = row.fields[field]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, float) and math.isnan(value):
        raise InputError(f"{row.where}: {field!r} is NaN, an empty cell; fill it, or drop the row.")
    if not isinstance(value, int | float):
        return _text(row, field)
    if not labels or str(value) in labels or isinstance(value, bool | float):
        return str(value)
    if not 0 <= value < len(labels):
        raise InputError(
            f"{row.where}: the {field} is {value}, but the labels are numbered from 0 to "
            f"{len(labels) - 1}: {list(labels)}."
        )
    return labels[value]


def _contrasts(row: Row, target: str) -> dict[str, Any]:
    """Read what an example is compared with: wrong answers and another input."""
    wrong = _texts(row, "wrong")
    if target in wrong:
        raise InputError(f"{row.where}: the target {target!r} is among the 'wrong' answers.")
    other = None if row.fields.get("counterfactual") is None else _text(row, "counterfactual")
    return {"wrong": tuple(wrong), "counterfactual": other}


def _texts(row: Row, field: str) -> list[str]:
    texts = row.fields.get(field) or []
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise InputTypeError(f"{row.where}: {field!r} is {texts!r}; give a list of strings.")
    if not all(text.strip() for text in texts):
        one = "a reference" if field == "references" else "an answer"
        raise InputError(f"{row.where}: {one} in {texts!r} is empty; fill or delete it.")
    return list(texts)


def _text(row: Row, field: str) -> str:
    value = row.fields[field]
    if not isinstance(value, str):
        raise InputTypeError(
            f"{row.where}: {field!r} is {value!r} ({type(value).__name__}); it must be a string."
        )
    return value


def row_of(where: str, fields: Any) -> Row:
    """Return a row; raise TypeError for what has no fields."""
    if not isinstance(fields, Mapping):
        raise InputTypeError(f"{where} is {fields!r}; it must be an object like {ONE_LINE}.")
    return Row(where, fields)
