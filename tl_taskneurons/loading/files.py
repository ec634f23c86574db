"""Tasks from files: JSONL, CSV and TSV files, folders of them, folders with ``tasks.json``."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tl_taskneurons.loading.rows import ONE_LINE, Row, make_task, row_of
from tl_taskneurons.loading.splits import Split
from tl_taskneurons.runtime.errors import (
    InputError,
    InputTypeError,
    MissingFileError,
    did_you_mean,
)
from tl_taskneurons.runtime.parsing import JSONError, parse_json
from tl_taskneurons.tasks.task import Task

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
_SPLITS = {"train": "train", "test": "test", "validation": "test", "valid": "test", "dev": "test"}


def file_task(path: Path, name: str, given: Mapping[str, Any], how: Split) -> Task:
    """Make a task of one file."""
    return make_task(name, read_rows(path), str(path), given, _told(path, how))


def read_rows(path: Path) -> list[Row]:
    """Read a JSONL file, a JSON list of objects, or a CSV or TSV file with a header line."""
    if path.suffix.lower() in (".csv", ".tsv"):
        return _read_csv(path)
    text = _utf8(path)
    if text.lstrip().startswith("["):
        return [row_of(f"{path}, entry {i}", row) for i, row in enumerate(_json(text, str(path)))]
    # Lines end at \n only: other line separators may stand inside a string.
    lines = enumerate(text.split("\n"), start=1)
    return [
        row_of(f"{path}, line {number}", _json(line, f"{path}, line {number}"))
        for number, line in lines
        if line.strip()
    ]


def _read_csv(path: Path) -> list[Row]:
    """Read a table of text; an empty cell is no value, and lists are JSON or parted by ``|``."""
    text = _utf8(path)
    head = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=head.count) if path.suffix.lower() == ".csv" else "\t"
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    try:
        for cells in reader:
            where = f"{path}, line {reader.line_num}"
            if None in cells:
                raise InputError(
                    f"{where} has more cells than the {len(reader.fieldnames or ())} columns "
                    f"{reader.fieldnames}; put texts that hold {delimiter!r} in double quotes."
                )
            fields: dict[str, Any] = {key: cell for key, cell in cells.items() if cell}
            for key in {"references", "wrong"} & set(fields):
                cell = fields[key]
                fields[key] = _json(cell, where) if cell.startswith("[") else cell.split("|")
            rows.append(Row(where, fields))
    except csv.Error as error:
        raise InputError(
            f"{path} is not CSV from line {reader.line_num + 1} on ({error}); write a quote inside "
            "a quoted text twice."
        ) from error
    return rows


def _told(path: Path, how: Split) -> Split:
    return replace(how, tell=how.tell and path.suffix.lower() not in (".csv", ".tsv"))


def _json(text: str, where: str) -> Any:
    try:
        return parse_json(text)
    except JSONError as error:
        raise InputError(
            f"{where} is not JSON ({error}): {text.strip()[:80]!r}; in a JSONL file every line is "
            f"one object like {ONE_LINE}."
        ) from error


def _utf8(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(
            f"{path} is not UTF-8 text (byte {error.start} is {byte:#04x}); save it as UTF-8."
        ) from error


def folder_tasks(
    folder: Path, wanted: Sequence[str] | None, given: Mapping[str, Any], how: Split
) -> list[Task]:
    """Read the tasks of a folder: those of its ``tasks.json``, or one of each file."""
    if (folder / "tasks.json").is_file():
        return _indexed(folder, wanted, given, how)
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        held = sorted(p.name for p in folder.iterdir())[:8]
        raise MissingFileError(
            f"The folder {folder} has no tasks.json and no file of {', '.join(SUFFIXES)}; it holds "
            f"{held}. Give a folder of such files, each a task; or one with train.jsonl and "
            'test.jsonl, a task; or tasks.json with {"NAME": {"instruction": "...", '
            '"labels": ["...", "..."]}} and NAME/train.jsonl, NAME/test.jsonl.'
        )
    for path in files:
        _require_inside(path, folder)
    named: dict[str, Path] = {}
    for path in files:
        if path.stem in named:
            raise InputError(
                f"{folder} holds {named[path.stem].name} and {path.name}, two files of one name, "
                "and each would be a task or a split; take one away or rename it."
            )
        named[path.stem] = path
    if "train" in named and set(named) <= set(_SPLITS):
        name = folder.resolve().name if wanted is None else wanted[0]
        if wanted is not None and len(wanted) > 1:
            raise InputError(f"The folder {folder} holds one task, but names has {wanted}.")
        test = next((split for split in _SPLITS if split != "train" and split in named), None)
        if test is None:
            return [file_task(named["train"], name, given, how)]
        return [_from_splits(name, named["train"], named[test], str(folder), given, how)]
    for name in wanted or ():
        if name not in named:
            raise InputError(f"No task {name!r} in {folder}{did_you_mean(name, tuple(named))}")
    return [file_task(named[name], name, given, how) for name in wanted or named]


def _indexed(
    folder: Path, wanted: Sequence[str] | None, given: Mapping[str, Any], how: Split
) -> list[Task]:
    index = folder / "tasks.json"
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
        train, test = (folder / name / f"{split}.jsonl" for split in ("train", "test"))
        for path in (train, test):
            _require_inside(path, folder)
            if not path.is_file():
                raise MissingFileError(
                    f"Task {name!r} of {index} needs {path}, which is not there."
                )
        where = f"task {name!r} of {index}"
        tasks.append(_from_splits(name, train, test, where, {**known[name], **given}, how))
    return tasks


def _from_splits(
    name: str, train: Path, test: Path, where: str, options: Mapping[str, Any], how: Split
) -> Task:
    rows = []
    for split, path in (("train", train), ("test", test)):
        read = read_rows(path)
        if not read:
            raise InputError(f"{path} is empty; add lines like {ONE_LINE}.")
        rows += [Row(row.where, {**row.fields, "split": split}) for row in read]
    return make_task(name, rows, where, options, _told(train, how))


def _require_inside(path: Path, folder: Path) -> None:
    """Raise ValueError for a path that leads out of the folder that was given."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{path} leads out of the folder {folder}, to {path.resolve()}; only files inside it "
            "are read. Copy the file into the folder, or give its own folder."
        )
