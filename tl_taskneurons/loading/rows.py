"""From rows with an input and an answer to a task: fields, labels, splits, and what is refused."""

import difflib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tl_taskneurons.loading.splits import Split, two_splits
from tl_taskneurons.runtime.errors import InputError, InputTypeError, did_you_mean
from tl_taskneurons.tasks.task import METRICS, Example, Task

FIELDS = ("input", "target", "label", "references", "wrong", "counterfactual", "split")
HEADER = ("instruction", "labels", "metric", "family")
ONE_LINE = '{"input": "...", "target": "..."}'


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
        same = [other for other, field in columns.items() if field == new]
        if len(same) > 1:
            raise InputError(
                f"columns makes {new!r} of {same}; one column can be a field: join them."
            )
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
    if rows and _is_header(rows[0], split.columns or {}):
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
        found = sorted({_answer(row, "label").strip() for row in rows}, key=_by_number)
        labels = tuple(found)
        if len(found) < 2:
            raise InputError(
                f"Every label in {where} is {found[0]!r}, but classification needs at least two: "
                "list them all (labels=[...]), or write 'target' instead of 'label'."
            )
    metric = metric or ("accuracy" if labels else "exact_match")
    rows = _with_names(rows, labels, where)
    examples = [_example(row, labels, metric) for row in rows]
    named = [(row.where, row.fields.get("split")) for row in rows]
    train, test = two_splits(examples, named, where, split)
    if unread and split.tell:
        warnings.warn(
            f"The fields {unread} in {where} are not read; known: {', '.join(FIELDS)}.",
            UserWarning,
            stacklevel=4,
        )
    return Task(name, tuple(train), tuple(test), instruction, labels, metric, family)


def _is_header(row: Row, columns: Mapping[str, str]) -> bool:
    # A row with an answer is rather an example whose input was forgotten.
    examples = {"input", "target", "label", *columns}
    if examples & set(row.fields) or not {*HEADER} & set(row.fields):
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
    label = None if fields.get("label") is None else _answer(row, "label")
    target = label if fields.get("target") is None else _answer(row, "target")
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


def _with_names(rows: Sequence[Row], labels: Sequence[str], where: str) -> Sequence[Row]:
    """Write numbers as the labels that they mean: names or places in the list, in all rows alike.

    Raises:
        ValueError: for numbers that could be either, or places that aren't.
    """
    as_text = not any(label.strip().isdecimal() for label in labels)
    found = {
        (k, field): number
        for k, row in enumerate(rows)
        for field in ("target", "label")
        if labels and (number := _number(row.fields.get(field), as_text)) is not None
    }
    numbers = sorted(set(found.values()))
    named = all(str(number) in labels for number in numbers)
    placed = all(0 <= number < len(labels) for number in numbers)
    if named and placed and any(labels[number] != str(number) for number in numbers):
        raise InputError(
            f"The labels in {where} are the numbers {numbers}, which are names in {list(labels)} "
            "and places in it as well; write names as text, or give other names in labels."
        )
    if named:
        return rows
    filled = [dict(row.fields) for row in rows]
    for (k, field), number in found.items():
        if not 0 <= number < len(labels):
            raise InputError(
                f"{rows[k].where}: the {field} is {number}, but the labels are numbered from 0 to "
                f"{len(labels) - 1}: {list(labels)}."
            )
        filled[k][field] = labels[number]
    return [Row(row.where, fields) for row, fields in zip(rows, filled, strict=True)]


def _number(value: Any, as_text: bool) -> int | None:
    """A whole number, in a table of text (CSV) also as text."""
    if isinstance(value, str) and as_text and value.strip().isdecimal():
        return int(value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return int(value) if whole or (isinstance(value, float) and value.is_integer()) else None


def _answer(row: Row, field: str) -> str:
    """Read a target or label; a number is written as one."""
    value = row.fields[field]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, float) and math.isnan(value):
        raise InputError(f"{row.where}: {field!r} is NaN, an empty cell; fill it, or drop the row.")
    return str(value) if isinstance(value, int | float) else _text(row, field)


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
