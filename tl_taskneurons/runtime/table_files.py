"""Tables and JSON on disk: written atomically, with digests that are checked on reading."""

import hashlib
import json
import os
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tl_taskneurons.runtime.atomic import write_atomically
from tl_taskneurons.runtime.digests import KEY, UNSEALED, require_intact, seal
from tl_taskneurons.runtime.errors import FileError, InputError, MissingFileError
from tl_taskneurons.runtime.locks import folder_locked
from tl_taskneurons.runtime.parsing import parse_json

_SUMS = "SHA256SUMS"
# Columns of text, whatever it looks like.
_NAMES = ("set", "selection", "task")
_AGAIN = "delete it and call the same command again to make it anew"
# What spreadsheets take for the beginning of a formula, with apostrophes in front or without.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def write_table(path: str | os.PathLike[str], frame: pd.DataFrame) -> None:
    """Write a table to a parquet file, atomically; the same table gives the same bytes.

    Raises:
        FileError: when it can't be written.
    """
    table = pa.Table.from_pandas(frame, preserve_index=False)

    def write(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, table.schema) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({KEY: UNSEALED})
        seal(temporary)

    write_atomically(path, write)


def read_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a parquet file.

    Raises:
        FileNotFoundError: when there is no such file.
        FileError: when it can't be read.
        ValueError: for a file whose bytes have changed since it was written, or no parquet file.
    """
    source = Path(path)
    if not source.exists():
        raise MissingFileError(f"No table {source}; the command that makes it has not finished.")
    sealed = require_intact(source, _AGAIN)
    try:
        # Thousands of small tables are read; without threads each takes less than half the time.
        with pq.ParquetFile(source) as file:
            if not sealed and KEY.encode() in (file.metadata.metadata or {}):
                raise InputError("its digest can't be read")
            return file.read(use_threads=False).to_pandas(use_threads=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{source} is damaged or no parquet file ({_first_line(error)}); {_AGAIN}."
        ) from error


def write_csv(path: str | os.PathLike[str], frame: pd.DataFrame) -> None:
    """Write a table to a CSV file for readers: four decimals, learning rates to four digits.

    Its digest goes to ``SHA256SUMS`` beside it (``sha256sum -c`` checks it). Text that a
    spreadsheet would take for a formula gets an apostrophe in front, which ``read_csv`` takes away.

    Raises:
        FileError: when it can't be written.
    """
    rates = [column for column in frame.columns if str(column).split("_")[0] == "lr"]
    shown = frame.round({column: 4 for column in frame.columns if column not in rates})
    for column in rates:
        shown[column] = [float(f"{rate:.4g}") for rate in frame[column]]
    shown = shown.map(_plain).rename(columns=_plain)
    target = Path(path)
    content = shown.to_csv(index=False, lineterminator="\n").encode()
    with folder_locked(target.parent):  # the list is every file's
        _list_sum(target, None)  # so that a stop in between leaves no sum of another content
        write_atomically(target, lambda temporary: _write_bytes(temporary, content))
        _list_sum(target, hashlib.sha256(content).hexdigest())


def read_csv(path: str | os.PathLike[str], *, text: bool = False) -> pd.DataFrame:
    """Read a CSV file, and check it where ``SHA256SUMS`` beside it lists it.

    Args:
        path: the file.
        text: whether every column is of text, such as answers, which may be numbers.

    Raises:
        FileNotFoundError: when there is no such file.
        FileError: when it can't be read.
        ValueError: for a file that is not as listed, or no CSV file.
    """
    source = Path(path)
    content = _read_bytes(source)
    listed = _sums(source.parent).get(source.name)
    if listed is not None and hashlib.sha256(content).hexdigest() != listed:
        raise InputError(
            f"{source} is damaged or was changed by hand (its digest is not that in {_SUMS}); "
            f"{_AGAIN}, or take its line out of {source.parent / _SUMS} if the change was meant."
        )
    try:
        # A task may be called "None", "NA" or "01"; what is missing is empty.
        kinds: Any = "str" if text else dict.fromkeys(_NAMES, "str")
        frame = pd.read_csv(BytesIO(content), keep_default_na=False, na_values=[""], dtype=kinds)
    except ValueError as error:
        raise InputError(f"{source} is no CSV file ({_first_line(error)}).") from error
    return frame.map(_meant).rename(columns=_meant)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write JSON with sorted keys, atomically, with a digest in the field ``file_digest``.

    Raises:
        FileError: when it can't be written.
    """
    fields = content if isinstance(content, dict) else {"content": content}
    text = json.dumps(
        {**fields, KEY: UNSEALED}, indent=2, sort_keys=True, ensure_ascii=False
    )  # fmt: skip

    def write(temporary: Path) -> None:
        _write_bytes(temporary, f"{text}\n".encode())
        seal(temporary)

    write_atomically(path, write)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file, as it was given to ``write_json``.

    Raises:
        FileNotFoundError: when there is no such file.
        FileError: when it can't be read.
        ValueError: for a file whose bytes have changed since it was written, or no JSON.
    """
    source = Path(path)
    if not source.exists():
        raise MissingFileError(f"No file {source}.")
    sealed = require_intact(source, _AGAIN)
    try:
        found = parse_json(_read_bytes(source))
    except ValueError as error:
        raise InputError(f"{source} is damaged or not JSON ({error}); {_AGAIN}.") from error
    if not isinstance(found, dict) or KEY not in found:
        return found
    if not sealed:
        raise InputError(f"{source} is damaged (its digest can't be read); {_AGAIN}.")
    del found[KEY]
    return found["content"] if set(found) == {"content"} else found


def stamp(frame: pd.DataFrame, **columns: Any) -> pd.DataFrame:
    """Put columns with one value each before those of a table; columns it has stay as they are."""
    new = {name: value for name, value in columns.items() if name not in frame.columns}
    return frame.assign(**new)[[*new, *frame.columns]]


def _plain(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def _meant(cell: Any) -> Any:
    is_plain = isinstance(cell, str) and cell.startswith("'") and _FORMULA.match(cell)
    return cell[1:] if is_plain else cell


def _sums(folder: Path) -> dict[str, str]:
    """The digests that a folder's ``SHA256SUMS`` lists, by file name."""
    parts = (line.partition("  ") for line in _lines(folder))
    return {name: digest for digest, mark, name in parts if mark}


def _lines(folder: Path) -> list[str]:
    try:
        return (folder / _SUMS).read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(
            f"{folder / _SUMS}, which lists digests, can't be read ({_first_line(error)}); mend or "
            "remove it."
        ) from error


def _list_sum(file: Path, digest: str | None) -> None:
    if digest is None and file.name not in _sums(file.parent):
        return
    # Lines of others stay as they are, whatever they say.
    lines = [line for line in _lines(file.parent) if line.partition("  ")[2] != file.name]
    lines += [] if digest is None else [f"{digest}  {file.name}"]
    lines.sort(key=lambda line: line.partition("  ")[2])
    text = "".join(f"{line}\n" for line in lines)
    write_atomically(file.parent / _SUMS, lambda temporary: _write_bytes(temporary, text.encode()))


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise MissingFileError(f"No file {path}.") from error
    except OSError as error:
        raise FileError(f"{path} can't be read: {error.strerror or error}.") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
