"""Where tasks come from: built-in lists, folders, one JSONL file, dicts, the Hugging Face hub."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from tl_taskneurons.builtin.relations import relation_names, relation_task
from tl_taskneurons.runtime.errors import (
    InputError,
    InputTypeError,
    MissingFileError,
    did_you_mean,
)
from tl_taskneurons.tasks.task import METRICS, Example, Task, Tasks

_HEADER = ("instruction", "labels", "metric", "family")
_ONE_LINE = '{"input": "...", "target": "..."}'


@dataclass(frozen=True)
class _Row:
    """One row and where it stands, for error messages."""

    where: str
    fields: Mapping[str, Any]


def load_tasks(
    source: str | os.PathLike[str] | Sequence[Mapping[str, Any]],
    names: str | Sequence[str] | None = None,
    *,
    limit: int | None = None,
    instruction: str | None = None,
    labels: Sequence[str] | None = None,
    metric: str | None = None,
    test_fraction: float = 1 / 3,
    seed: int = 0,
) -> Tasks:
    """Load tasks from wherever they are.

    Args:
        source: ``"builtin"`` (word lists, and the ``mini_...`` tasks by name); ``"mini"`` (the
            tasks of the mini models); a folder with
            ``tasks.json`` and, for each task, ``NAME/train.jsonl`` and ``NAME/test.jsonl``; one
            JSONL file, which becomes a task named after the file; a list of dicts with the same
            fields; ``"hub"`` with names, or ``"hub:NAME"``, for the Hugging Face hub;
            ``"hub+FOLDER"`` with names, where ``FOLDER/NAME.jsonl`` (rows with the data set's own
            columns) or ``FOLDER/NAME`` (made by ``save_to_disk``) stands in for the hub.
        names: which tasks; None means all of a folder, all built-in word lists, or the twelve
            mini tasks that the mini models were fine-tuned on. For a file or a list it is the
            name to give the task.
        limit: at most so many examples in each split; without it the hub gives 2,000 and 500.
        instruction: replaces the instruction of the source.
        labels: replaces the labels of the source; makes a file or list a classification task.
        metric: replaces the metric of the source.
        test_fraction: the part of the examples that is held out for the test split where the
            source does not say it (a file or list without ``split``; the built-in lists).
        seed: which examples are held out or drawn. The same seed gives the same tasks.

    Returns:
        The tasks, in the order of ``names`` or of the source.

    Raises:
        FileNotFoundError: the path, ``tasks.json`` or a split's file is not there.
        ValueError: an unknown task name (with the nearest names), or bad content; it names the
            file, the line and the value.
        TypeError: a field of the wrong type, likewise.
        ConnectionError: the hub cannot be reached.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; give 1 or more, or None for every example.")
    if not 0 < test_fraction < 1:
        raise InputError(f"test_fraction is {test_fraction}; it must lie between 0 and 1.")
    wanted = (names,) if isinstance(names, str) else None if names is None else tuple(names)
    if wanted == ():
        raise InputError("names is empty; give at least one task name, or None for all.")
    given = {"instruction": instruction, "labels": labels, "metric": metric}
    given = {key: value for key, value in given.items() if value is not None}
    if not isinstance(source, str | os.PathLike):
        name = _single(wanted, "task", "A list of dicts")
        tasks = [task_from_dicts(name, source, test_fraction=test_fraction, seed=seed, **given)]
    elif source == "builtin":
        found = wanted or relation_names()
        tasks = [_given(_builtin(n, limit, test_fraction, seed), given) for n in found]
    elif source == "mini":
        tasks = [_given(task, given) for task in _mini(wanted, limit, seed)]
    elif isinstance(source, str) and (source == "hub" or source.startswith(("hub:", "hub+"))):
        tasks = [_given(task, given) for task in _hub(source, wanted, limit, seed)]
    elif Path(source).is_dir():
        tasks = _folder(Path(source), wanted, given)
    elif Path(source).is_file():
        path = Path(source)
        name = _single(wanted, path.stem, f"The file {path}")
        tasks = [_make(name, _read(path), str(path), given, test_fraction, seed)]
    else:
        raise MissingFileError(_no_path(source))
    return Tasks(task.limit(limit, limit) for task in tasks)


def task_from_dicts(
    name: str,
    rows: Iterable[Mapping[str, Any]],
    *,
    instruction: str | None = None,
    labels: Sequence[str] | None = None,
    metric: str | None = None,
    family: str | None = None,
    test_fraction: float = 1 / 3,
    seed: int = 0,
) -> Task:
    """Make a task of dicts.

    Args:
        name: the task's name.
        rows: dicts with ``input``, ``target`` (or ``label``), and if you wish ``references`` (a
            list of accepted targets), ``wrong`` (a list of wrong answers), ``counterfactual``
            (another input) and ``split`` (``"train"`` or ``"test"``; in all rows or
            none). The first may be a header with ``instruction``, ``labels``, ``metric`` or
            ``family`` instead.
        instruction: what to do, in plain words.
        labels: the labels of a classification task; if None and every row has a ``label``, the
            sorted labels of the rows.
        metric: how answers are judged; if None, accuracy with labels, else exact match.
        family: the kind of task.
        test_fraction: the part of the rows held out for the test split if no row has a ``split``.
        seed: which rows are held out, and the order of both splits then.

    Raises:
        ValueError: a missing field, an unknown label or split, or no rows; it names the row.
        TypeError: a field of the wrong type; it names the row.
    """
    given = {"instruction": instruction, "labels": labels, "metric": metric, "family": family}
    given = {key: value for key, value in given.items() if value is not None}
    where = f"the rows of task {name!r}"
    listed = [_row(f"row {i} of task {name!r}", row) for i, row in enumerate(rows)]
    return _make(name, listed, where, given, test_fraction, seed)


def _make(
    name: str,
    rows: Sequence[_Row],
    where: str,
    options: Mapping[str, Any],
    test_fraction: float,
    seed: int,
) -> Task:
    """Make a task of rows, the first of which may be a header."""
    if rows and _is_header(rows[0]):
        options, rows = {**rows[0].fields, **options}, rows[1:]
    if not rows:
        raise InputError(f"Task {name!r} is empty: no example in {where}; add {_ONE_LINE}.")
    instruction, labels, metric, family = _options(options, where)
    without = [row for row in rows if row.fields.get("label") is None]
    if 0 < len(without) < len(rows) and not labels:
        raise InputError(
            f"{without[0].where} has no 'label', but others have; give it to all, or give the "
            "task's labels (labels=[...])."
        )
    if not labels and not without:
        found = sorted({_text(row, "label") for row in rows})
        labels = tuple(found)
        if len(found) < 2:
            raise InputError(
                f"Every label in {where} is {found[0]!r}, but classification needs at least two: "
                "list them all (labels=[...]), or write 'target' instead of 'label'."
            )
    metric = metric or ("accuracy" if labels else "exact_match")
    examples = [_example(row, labels, metric) for row in rows]
    train, test = _two_splits(rows, examples, where, test_fraction, seed)
    return Task(name, tuple(train), tuple(test), instruction, labels, metric, family)


def _is_header(row: _Row) -> bool:
    # A row with an answer is rather an example whose input was forgotten.
    if {"input", "target", "label"} & set(row.fields) or not {*_HEADER} & set(row.fields):
        return False
    for key in row.fields:
        if key not in _HEADER:
            raise InputError(
                f"{row.where}: a header has no field {key!r}{did_you_mean(key, _HEADER)}"
            )
    return True


def _options(options: Mapping[str, Any], where: str) -> tuple[str, tuple[str, ...], str, str]:
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
    rows: Sequence[_Row], examples: list[Example], where: str, test_fraction: float, seed: int
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
        return train, [e for e, split in zip(examples, splits, strict=True) if split == "test"]
    if len(examples) < 2:
        raise InputError(
            f"There is one example in {where}, too few to hold one out for the test split; add "
            "examples, or write 'split': 'test' into it."
        )
    Random(seed).shuffle(examples)
    n_test = min(max(1, round(len(examples) * test_fraction)), len(examples) - 1)
    return examples[n_test:], examples[:n_test]


def _example(row: _Row, labels: Sequence[str], metric: str) -> Example:
    fields = row.fields
    if fields.get("input") is None:
        raise InputError(
            f"{row.where} has no 'input', only {[*fields]}; write it like {_ONE_LINE}."
        )
    text = _text(row, "input")
    if not text.strip() and metric != "loss":
        raise InputError(f"{row.where}: 'input' is {text!r}; every example needs an input.")
    label = None if fields.get("label") is None else _text(row, "label")
    target = label if fields.get("target") is None else _text(row, "target")
    if target is None:
        raise InputError(
            f"{row.where} has no 'target' and no 'label', only {[*fields]}; write it like "
            f"{_ONE_LINE}."
        )
    if not target.strip():
        raise InputError(f"{row.where}: the target is {target!r}; every example needs an answer.")
    if labels:
        if label not in (None, target):
            raise InputError(
                f"{row.where}: label {label!r} and target {target!r} differ; keep one of them."
            )
        if target not in labels:
            raise InputError(f"{row.where}: unknown label {target!r}{did_you_mean(target, labels)}")
        return Example(text, target, label=target, **_contrasts(row, target))
    references = _texts(row, "references")
    # The target is an accepted answer whether or not the list repeats it.
    if references and target not in references:
        references = [target, *references]
    return Example(text, target, references=tuple(references), **_contrasts(row, target))


def _contrasts(row: _Row, target: str) -> dict[str, Any]:
    """Read what an example is compared with: wrong answers and another input."""
    wrong = _texts(row, "wrong")
    if target in wrong:
        raise InputError(f"{row.where}: the target {target!r} is among the 'wrong' answers.")
    other = None if row.fields.get("counterfactual") is None else _text(row, "counterfactual")
    return {"wrong": tuple(wrong), "counterfactual": other}


def _texts(row: _Row, field: str) -> list[str]:
    texts = row.fields.get(field) or []
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise InputTypeError(f"{row.where}: {field!r} is {texts!r}; give a list of strings.")
    if not all(text.strip() for text in texts):
        one = "a reference" if field == "references" else "an answer"
        raise InputError(f"{row.where}: {one} in {texts!r} is empty; fill or delete it.")
    return list(texts)


def _text(row: _Row, field: str) -> str:
    value = row.fields[field]
    if not isinstance(value, str):
        raise InputTypeError(
            f"{row.where}: {field!r} is {value!r} ({type(value).__name__}); it must be a string."
        )
    return value


def _row(where: str, fields: Any) -> _Row:
    if not isinstance(fields, Mapping):
        raise InputTypeError(f"{where} is {fields!r}; it must be an object like {_ONE_LINE}.")
    return _Row(where, fields)


def _read(path: Path) -> list[_Row]:
    """Read a JSONL file; empty lines are passed over."""
    # Lines end at \n only: other line separators may stand inside a string.
    lines = enumerate(_utf8(path).split("\n"), start=1)
    return [
        _row(f"{path}, line {number}", _json(line, f"{path}, line {number}"))
        for number, line in lines
        if line.strip()
    ]


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where} is not JSON ({error}): {text.strip()[:80]!r}; in a JSONL file every line is "
            f"one object like {_ONE_LINE}."
        ) from error


def _utf8(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(
            f"{path} is not UTF-8 text (byte {error.start} is {byte:#04x}); save it as UTF-8."
        ) from error


def _folder(folder: Path, wanted: Sequence[str] | None, given: Mapping[str, Any]) -> list[Task]:
    """Read tasks from a folder with ``tasks.json``."""
    index = folder / "tasks.json"
    if not index.is_file():
        raise MissingFileError(
            f"The folder {folder} has no tasks.json, which says what tasks it holds: "
            '{"NAME": {"instruction": "...", "labels": ["...", "..."], "metric": "accuracy"}}. '
            "To read a single JSONL file, give its path."
        )
    known = _json(_utf8(index), str(index))
    if not isinstance(known, dict) or not known:
        raise InputError(f"{index} must map task names to objects, but holds {str(known)[:80]}.")
    tasks = []
    for name in wanted or known:
        if name not in known:
            raise InputError(f"No task {name!r} in {index}{did_you_mean(name, tuple(known))}")
        if not isinstance(known[name], dict):
            raise InputTypeError(
                f"{index}: task {name!r} is {known[name]!r}; it must be an object."
            )
        rows = []
        for split in ("train", "test"):
            path = folder / name / f"{split}.jsonl"
            if not path.is_file():
                raise MissingFileError(
                    f"Task {name!r} of {index} needs {path}, which is not there."
                )
            read = _read(path)
            if not read:
                raise InputError(f"{path} is empty; add lines like {_ONE_LINE}.")
            rows += [_Row(row.where, {**row.fields, "split": split}) for row in read]
        where = f"task {name!r} of {index}"
        tasks.append(_make(name, rows, where, {**known[name], **given}, 0.5, 0))
    return tasks


def _builtin(name: str, limit: int | None, test_fraction: float, seed: int) -> Task:
    if name in relation_names():
        task = relation_task(name, seed=seed)
        n_test = round((len(task.train) + len(task.test)) * test_fraction)
        return task if n_test == len(task.test) else relation_task(name, n_test=n_test, seed=seed)
    # The grammars of the mini tasks are loaded only for those who ask for them.
    from tl_taskneurons.builtin.mini import mini_names

    if name not in mini_names():
        known = (*relation_names(), *mini_names())
        raise InputError(f"No built-in task {name!r}{did_you_mean(name, known)}")
    return _mini((name,), limit, seed)[0]


def _mini(wanted: Sequence[str] | None, limit: int | None, seed: int) -> list[Task]:
    from tl_taskneurons.builtin.mini import mini_task
    from tl_taskneurons.builtin.mini.recipes import TWELVE

    most = 2000 if limit is None else min(limit, 2000)
    return [
        mini_task(name, n_train=most, n_test=min(most, 200), seed=seed) for name in wanted or TWELVE
    ]


def _hub(source: str, wanted: Sequence[str] | None, limit: int | None, seed: int) -> list[Task]:
    from tl_taskneurons.loading.hub_tasks import hub_task, hub_task_names

    hub, _, here = source.partition("+")
    one = hub.removeprefix("hub").removeprefix(":")
    if bool(one) == (wanted is not None):
        raise InputError(
            f"source is {source!r} and names is {wanted}: write 'hub' and names, or 'hub:NAME'. "
            f"Known: {', '.join(hub_task_names())}."
        )
    if here and not Path(here).is_dir():
        raise MissingFileError(
            f"There is no folder {here!r}, which {source!r} names; make it, or write 'hub'."
        )
    n_train, n_test = limit or 2000, min(limit or 500, 500)
    return [
        hub_task(
            name, dataset=_local_splits(Path(here), name) if here else None, n_train=n_train,
            n_test=n_test, seed=seed,
        )
        for name in wanted or (one,)
    ]  # fmt: skip


def _local_splits(folder: Path, name: str) -> Mapping[Any, Any] | None:
    """A data set's splits from a folder; None where it isn't there."""
    file = folder / f"{name}.jsonl"
    if file.is_file():
        return {"train": [dict(row.fields) for row in _read(file)]}
    if (folder / name).is_dir():
        import datasets

        loaded: Any = datasets.load_from_disk(str(folder / name))
        return loaded
    return None


def _given(task: Task, given: Mapping[str, Any]) -> Task:
    """Replace what the caller gave."""
    _, labels, _, _ = _options(given, f"the arguments for task {task.name!r}")
    return replace(task, **{**given, "labels": labels} if labels else given)


def _single(wanted: Sequence[str] | None, default: str, what: str) -> str:
    if wanted is None:
        return default
    if len(wanted) > 1:
        raise InputError(f"{what} holds one task, but names has {len(wanted)}: {wanted}; give one.")
    return wanted[0]


def _no_path(source: str | os.PathLike[str]) -> str:
    hint = ""
    if str(source) in relation_names() or str(source).startswith("mini_"):
        hint = f" For the built-in task write load_tasks('builtin', {str(source)!r})."
    return (
        f"There is no file or folder {str(source)!r} in {Path.cwd()}; give a folder with "
        f"tasks.json, a JSONL file, 'builtin', 'mini', 'hub' or 'hub:NAME'.{hint}"
    )
