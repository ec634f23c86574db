"""Tables and JSON on disk: written atomically, stamped with what made them."""

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from tl_taskneurons.runtime.atomic import write_atomically
from tl_taskneurons.runtime.errors import InputError, MissingFileError


def write_table(path: str | os.PathLike[str], frame: pd.DataFrame) -> None:
    """Write a table to a parquet file, atomically; the same table gives the same bytes."""
    write_atomically(path, lambda temporary: frame.to_parquet(temporary, index=False))


def write_csv(path: str | os.PathLike[str], frame: pd.DataFrame) -> None:
    """Write a table to a CSV file for readers: four decimals, learning rates to four digits."""
    rates = [column for column in frame.columns if column == "lr"]
    shown = frame.round({column: 4 for column in frame.columns if column not in rates})
    for column in rates:
        shown[column] = [float(f"{rate:.4g}") for rate in frame[column]]
    write_atomically(path, lambda temporary: shown.to_csv(temporary, index=False))


def read_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a parquet file.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a file that is damaged or no parquet file.
    """
    source = Path(path)
    if not source.is_file():
        raise MissingFileError(f"No table {source}; the command that makes it has not finished.")
    try:
        # Thousands of small tables are read; without threads each takes less than half the time.
        with pq.ParquetFile(source) as file:
            return file.read(use_threads=False).to_pandas(use_threads=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{source} is damaged or no parquet file ({_first_line(error)}); delete it and call "
            "the same command again to make it anew."
        ) from error


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write JSON with sorted keys, atomically."""
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a damaged file.
    """
    source = Path(path)
    if not source.is_file():
        raise MissingFileError(f"No file {source}.")
    try:
        return json.loads(source.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{source} is damaged or not JSON ({error}); delete it, or the folder."
        ) from error


def stamp(frame: pd.DataFrame, **columns: Any) -> pd.DataFrame:
    """Put columns with one value each before those of a table; columns it has stay as they are."""
    new = {name: value for name, value in columns.items() if name not in frame.columns}
    return frame.assign(**new)[[*new, *frame.columns]]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
