"""Where tasks come from: built-in lists, files, folders, tables, the Hugging Face hub."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

from tl_taskneurons.builtin.relations import relation_names, relation_task
from tl_taskneurons.loading.files import file_task, folder_tasks, read_rows
from tl_taskneurons.loading.rows import options_of
from tl_taskneurons.loading.splits import Split
from tl_taskneurons.loading.tables import table_kind, table_tasks
from tl_taskneurons.runtime.errors import (
    InputError,
    InputTypeError,
    MissingFileError,
    did_you_mean,
)
from tl_taskneurons.runtime.options import require_number
from tl_taskneurons.tasks.task import Task, Tasks


class TaskOptions(TypedDict, total=False):
    """What may be said of a task beside its examples.

    Attributes:
        instruction: what to do, in plain words.
        labels: the labels; makes a classification task of rows. Rows give their names or, as
            numbers, their places in this list, all rows alike.
        metric: how answers are judged; by default accuracy with labels, else exact match.
        family: the kind of task.
    """

    instruction: str | None
    labels: Sequence[str] | None
    metric: str | None
    family: str | None


def load_tasks(
    source: Any,
    names: str | Sequence[str] | None = None,
    *,
    limit: int | None = None,
    columns: Mapping[str, str] | None = None,
    test_fraction: float = 1 / 3,
    seed: int = 0,
    **given: Unpack[TaskOptions],
) -> Tasks:
    """Load tasks from wherever they are.

    Args:
        source: one of

            - ``"builtin"`` (word lists, and the ``mini_...`` tasks by name) or ``"mini"`` (the
              tasks of the mini models);
            - a JSONL, JSON, CSV or TSV file, or a list of such files: each is a task named after
              its file, with the fields of ``task_from_dicts`` as columns;
            - a folder: of such files; of ``train`` and ``test`` files, which make one task; or
              with ``tasks.json`` and, for each task, ``NAME/train.jsonl`` and ``NAME/test.jsonl``;
            - rows in memory: a list of dicts, a DataFrame, a data set of ``datasets`` (streams need
              ``limit``), a mapping of splits (``"train"``, ``"test"`` or ``"validation"``) to
              these, such as a ``DatasetDict``, or a mapping of task names to these;
            - ``"hub"`` with names, or ``"hub:NAME"``, for the Hugging Face hub; ``"hub+FOLDER"``
              with names, where ``FOLDER/NAME.jsonl`` (rows with the data set's own columns) or
              ``FOLDER/NAME`` (made by ``save_to_disk``) stands in for the hub.
        names: which tasks; None means all of a folder, all built-in word lists, or the twelve
            mini tasks that the mini models were fine-tuned on. For a file or rows it is the
            name to give the task.
        limit: at most so many examples in each split; without it the hub gives 2,000 and 500.
        columns: the data's names of fields to ours, e.g. ``{"text": "input", "stars": "label"}``.
        test_fraction: the part of the examples that is held out for the test split where the
            source does not say it (a file or rows without ``split``; the built-in lists).
        seed: which examples are held out or drawn. The same seed gives the same tasks.
        **given: ``instruction``, ``labels``, ``metric`` and ``family`` in place of the source's;
            see ``TaskOptions``.

    Returns:
        The tasks, in the order of ``names`` or of the source.

    Raises:
        FileNotFoundError: the path, ``tasks.json`` or a split's file is not there.
        ValueError: an unknown task name (with the nearest names), a path that leads out of its
            folder, or bad content; it names the file, the line and the value.
        TypeError: a field of the wrong type, likewise.
        ConnectionError: the hub cannot be reached.
    """
    require_number("limit", limit, whole=True)
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; give 1 or more, or None for every example.")
    how, options = _how(test_fraction, seed, columns), _known(given)
    if not isinstance(names, str | Sequence | None):
        raise InputTypeError(f"names is {names!r}; give a task's name or a list of them.")
    wanted = (names,) if isinstance(names, str) else None if names is None else tuple(names)
    if wanted == ():
        raise InputError("names of tasks is empty; give at least one, or None for all.")
    if isinstance(source, str | os.PathLike):
        tasks = _at(source, wanted, options, how, limit)
    elif _are_paths(source):
        tasks = _each(source, wanted, options, how, limit)
    else:
        name = None if wanted is None else _single(wanted, "task", "The source")
        tasks = table_tasks(source, name, options, how, limit)
    return Tasks(task.limit(limit, limit) for task in tasks)


def task_from_dicts(
    name: str,
    rows: Iterable[Mapping[str, Any]],
    *,
    columns: Mapping[str, str] | None = None,
    test_fraction: float = 1 / 3,
    seed: int = 0,
    **given: Unpack[TaskOptions],
) -> Task:
    """Make a task of dicts.

    Args:
        name: the task's name.
        rows: dicts with ``input``, ``target`` (or ``label``), and if you wish ``references`` (a
            list of accepted targets), ``wrong`` (a list of wrong answers), ``counterfactual``
            (another input) and ``split`` (``"train"`` or ``"test"``; in all rows or
            none). The first may be a header with ``instruction``, ``labels``, ``metric`` or
            ``family`` instead.
        columns: the rows' names of fields to ours.
        test_fraction: the part of the rows held out for the test split if no row has a ``split``.
        seed: which rows are held out, and the order of both splits then.
        **given: ``instruction``, ``labels`` (by default the sorted labels of the rows, where every
            row has a ``label``), ``metric`` and ``family``; see ``TaskOptions``.

    Raises:
        ValueError: a missing field, an unknown label or split, or no rows; it names the row.
        TypeError: a field of the wrong type; it names the row.
    """
    how = _how(test_fraction, seed, columns)
    if not isinstance(name, str):
        raise InputTypeError(f"A task's name is {name!r}; it must be a string.")
    if not isinstance(rows, Iterable):
        raise InputTypeError(f"rows is {rows!r}; give dicts like {{'input': ..., 'target': ...}}.")
    return table_tasks(list(rows), name, _known(given), how, None)[0]


def _how(test_fraction: float, seed: int, columns: Mapping[str, str] | None) -> Split:
    require_number("test_fraction", test_fraction)
    require_number("seed", seed, whole=True)
    if columns is not None and not isinstance(columns, Mapping):
        raise InputTypeError(f"columns is {columns!r}; give a dict, e.g. {{'text': 'input'}}.")
    if not 0 < test_fraction < 1:
        raise InputError(f"test_fraction is {test_fraction}; it must lie between 0 and 1.")
    return Split(test_fraction, seed, columns)


def _known(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given; unknown ones are refused with the nearest."""
    known = tuple(TaskOptions.__annotations__)
    for key in given:
        if key not in known:
            raise InputTypeError(f"Tasks have no option {key!r}{did_you_mean(key, known)}")
    return {key: value for key, value in given.items() if value is not None}


def _are_paths(source: Any) -> bool:
    if not isinstance(source, Sequence) or table_kind(source) or not len(source):
        return False
    return all(isinstance(one, str | os.PathLike) for one in source)


def _each(
    paths: Sequence[str | os.PathLike[str]], wanted: Sequence[str] | None,
    options: Mapping[str, Any], how: Split, limit: int | None,
) -> list[Task]:  # fmt: skip
    """Load several files, each a task."""
    if wanted is not None and len(wanted) != len(paths):
        raise InputError(
            f"There are {len(paths)} files, but names has {len(wanted)}: {list(wanted)}; give as "
            "many, or None to name tasks after their files."
        )
    named = zip(paths, wanted or [None] * len(paths), strict=True)
    return [
        task
        for path, name in named
        for task in _at(path, None if name is None else (name,), options, how, limit)
    ]


def _at(
    source: str | os.PathLike[str], wanted: Sequence[str] | None, options: Mapping[str, Any],
    how: Split, limit: int | None,
) -> list[Task]:  # fmt: skip
    """Load what a name or a path says."""
    if isinstance(source, str):
        hub = source == "hub" or source.startswith(("hub:", "hub+"))
        if hub or source in ("builtin", "mini"):
            if how.columns:
                raise InputError(
                    f"columns is for data of your own; {source!r} has mappings: leave it out."
                )
            found = _hub(source, wanted, limit, how.seed) if hub else None
            if source == "builtin":
                listed = wanted or relation_names()
                found = [_builtin(n, limit, how.test_fraction, how.seed) for n in listed]
            return [_given(task, options) for task in found or _mini(wanted, limit, how.seed)]
    path = Path(source)
    if path.is_dir():
        return folder_tasks(path, wanted, options, how)
    if path.is_file():
        return [file_task(path, _single(wanted, path.stem, f"The file {path}"), options, how)]
    raise MissingFileError(_no_path(source))


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
        return {"train": [dict(row.fields) for row in read_rows(file)]}
    if (folder / name).is_dir():
        import datasets

        loaded: Any = datasets.load_from_disk(str(folder / name))
        return loaded
    return None


def _given(task: Task, given: Mapping[str, Any]) -> Task:
    """Replace what the caller gave."""
    _, labels, _, _ = options_of(given, f"the arguments for task {task.name!r}")
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
        f"There is no file or folder {str(source)!r} in {Path.cwd()}; give a folder of "
        f"tasks, a JSONL or CSV file, 'builtin', 'mini', 'hub' or 'hub:NAME'.{hint}"
    )
