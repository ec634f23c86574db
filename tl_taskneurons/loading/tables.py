"""Tasks from tables in memory: lists of dicts, DataFrames and Hugging Face data sets."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from tl_taskneurons.loading.rows import Row, make_task, row_of
from tl_taskneurons.loading.splits import Split
from tl_taskneurons.runtime.errors import InputError, InputTypeError
from tl_taskneurons.tasks.task import Task

_SPLITS = ("train", "test", "validation", "valid", "dev")


@dataclass(frozen=True)
class _Table:
    """The rows of a table, and the names of its columns of numbered classes."""

    rows: list[Row]
    classes: Mapping[str, tuple[str, ...]]
    has_columns: bool


def table_kind(source: Any) -> str:
    """Return ``"pandas"``, ``"datasets"`` or an empty string, without importing either."""
    module = type(source).__module__.partition(".")[0]
    return module if module in ("pandas", "datasets") and not isinstance(source, Mapping) else ""


def table_tasks(
    source: Any, name: str | None, given: Mapping[str, Any], how: Split, limit: int | None
) -> list[Task]:
    """Make tasks of a table, of its splits by name, or of several tables by name.

    Raises:
        ValueError: a stream without a limit, splits without ``"train"``, or bad rows.
        TypeError: something else than a table.
    """
    if not isinstance(source, Mapping):
        table = _read(source, f"task {name or 'task'!r}", _enough(limit, how))
        return [_made(name or "task", [(None, table)], given, how)]
    if not source:
        raise InputError("The mapping of tables is empty; give {'NAME': rows}.")
    if not set(map(str, source)) <= set(_SPLITS):
        if name is not None:
            raise InputError(
                f"names is {name!r}, but the tables have names already: {[*source]}; leave names "
                "out, or give one of the tables."
            )
        return [
            task
            for key, table in source.items()
            for task in table_tasks(table, str(key), given, how, limit)
        ]
    if "train" not in source:
        raise InputError(f"The splits are {[*source]}; there must be one called 'train'.")
    name = name or "task"
    tested = [split for split in _SPLITS[1:] if split in source]
    if not tested:
        return table_tasks(source["train"], name, given, how, limit)
    train = _read(source["train"], f"split 'train' of task {name!r}", limit)
    for key in tested:
        test = _read(source[key], f"split {key!r} of task {name!r}", limit)
        if not _hidden(test, how.columns or {}):
            return [_made(name, [("train", train), ("test", test)], given, how)]
    raise InputError(
        f"The labels of task {name!r} are hidden (-1) in {tested}, so nothing can be tested on "
        "them; give the rows of 'train' alone, of which a part is held out then."
    )


def _made(
    name: str, tables: Sequence[tuple[str | None, _Table]], given: Mapping[str, Any], how: Split
) -> Task:
    columns = how.columns or {}
    rows, options = [], dict(given)
    for split, table in tables:
        for column, labels in table.classes.items():
            if columns.get(column, column) in ("label", "target"):
                options.setdefault("labels", list(labels))
        for row in table.rows:
            fields = dict(row.fields)
            for column, labels in table.classes.items():
                if fields.get(column) is not None:
                    fields[column] = None if fields[column] < 0 else labels[fields[column]]
            rows.append(Row(row.where, fields if split is None else {**fields, "split": split}))
    tell = not any(table.has_columns for _, table in tables)
    where = f"the rows of task {name!r}"
    return make_task(name, rows, where, options, replace(how, tell=how.tell and tell))


def _hidden(table: _Table, columns: Mapping[str, str]) -> bool:
    """Whether all labels are -1, as in test splits of benchmarks that keep them secret."""
    for column in table.classes:
        if columns.get(column, column) in ("label", "target") and table.rows:
            return all(row.fields.get(column) == -1 for row in table.rows)
    return False


def _enough(limit: int | None, how: Split) -> int | None:
    """How many rows give ``limit`` in both splits."""
    if limit is None:
        return None
    return math.ceil(limit / min(how.test_fraction, 1 - how.test_fraction)) + 1


def _read(source: Any, where: str, most: int | None) -> _Table:
    kind = table_kind(source)
    classes: dict[str, tuple[str, ...]] = {}
    if kind == "pandas":
        if not hasattr(source, "to_dict") or not hasattr(source, "columns"):
            raise InputTypeError(f"{where} is a {type(source).__name__}; give a DataFrame.")
        source = [
            {str(k): _cell(str(k), v) for k, v in row.items()} for row in source.to_dict("records")
        ]
    elif kind == "datasets":
        features = getattr(source, "features", None) or {}
        classes = {
            column: tuple(feature.names)
            for column, feature in features.items()
            if type(feature).__name__ == "ClassLabel"
        }
        if not hasattr(source, "__len__"):
            if most is None:
                raise InputError(
                    f"{where} is a stream of rows that may have no end; say how many to take with "
                    "limit=..."
                )
            source = islice(source.with_format(None), most)
        else:
            source = source.with_format(None)
    elif isinstance(source, str | bytes) or not isinstance(source, Iterable):
        raise InputTypeError(
            f"{where} is {str(source)[:80]!r} ({type(source).__name__}); give a list of dicts, a "
            "DataFrame or a data set."
        )
    rows = [row_of(f"row {i} of {where}", row) for i, row in enumerate(source)]
    plain = [Row(r.where, {k: _plain(v) for k, v in r.fields.items()}) for r in rows]
    return _Table(plain, classes, bool(kind))


def _cell(column: str, value: Any) -> Any:
    """A cell of a DataFrame; an empty one is no value, but is told of where a list must be."""
    empty = value is None or (not hasattr(value, "__len__") and value != value)
    return None if empty and column not in ("references", "wrong") else value


def _plain(value: Any) -> Any:
    """Numbers and lists of NumPy and torch as Python's own."""
    return value.tolist() if hasattr(value, "tolist") else value
