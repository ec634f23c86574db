"""What a run folder holds for its page. Reads JSON, parquet, CSV and PNG; nothing is unpickled."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from tl_taskneurons.runtime.atomic import below
from tl_taskneurons.runtime.errors import InputError, MissingFileError
from tl_taskneurons.runtime.table_files import read_csv, read_json, read_table

T = TypeVar("T")

ANSWERS = "_generations"  # how the tables of answers end
_PNG = b"\x89PNG\r\n\x1a\n"
_DETECTED = ("neurons", "layers")
_DEACTIVATED = ("deactivation_table", "deactivation_matrix", "deactivation_items")


@dataclass(frozen=True)
class Contents:
    """What was found in a run folder.

    Attributes:
        path: the folder.
        run: the content of ``run.json``; empty where it is missing or damaged.
        tables: every table of the folder by file name without ending, small ones first.
        figures: every PNG by file name without ending.
        unfinished: why the run counts as unfinished, in sentences; empty for a finished one.
        damaged: files that could not be read, with the cause.
    """

    path: Path
    run: dict[str, Any]
    tables: dict[str, pd.DataFrame]
    figures: dict[str, bytes]
    unfinished: tuple[str, ...]
    damaged: tuple[str, ...]

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the run's commands."""
        return self.run.get("arguments", {})

    @property
    def facts(self) -> dict[str, Any]:
        """What the run found out about its model and tasks."""
        return self.run.get("facts", {})


def read_folder(path: str | os.PathLike[str]) -> Contents:
    """Read a run folder, as far as it can be read.

    Raises:
        FileNotFoundError: when there is no such folder, or it holds no run, table or figure.
        NotADirectoryError: for a file.
    """
    folder = Path(path)
    if not folder.exists():
        raise MissingFileError(
            f"No folder {folder}; give the folder that detect or deactivate wrote (--out)."
        )
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; give the folder of a run.")
    damaged: list[str] = []
    run = None
    if is_own(folder, folder / "run.json"):
        run = attempt(read_json, folder / "run.json", damaged)
    if not isinstance(run, dict):
        run = {}
    tables = {
        file.stem: table
        for pattern, read in (("*.csv", _read_csv), ("*.parquet", read_table))  # the last counts
        for file in _own(folder, pattern, damaged)
        if (table := attempt(read, file, damaged)) is not None
    }
    figures = {
        file.stem: content
        for file in _own(folder, "*.png", damaged)
        if (content := attempt(_read_png, file, damaged)) is not None
    }
    if not (run or tables or figures or damaged):
        raise MissingFileError(
            f"{folder} holds no run.json, no table and no figure, so there is nothing to show; "
            "give the folder that detect or deactivate wrote (--out)."
        )
    by_size = sorted(tables.items(), key=lambda pair: (len(pair[1]), pair[0]))
    return Contents(
        folder, run, dict(by_size), figures, _unfinished(folder, run, tables), tuple(damaged)
    )


def _read_csv(file: Path) -> pd.DataFrame:
    return read_csv(file, text=file.stem.endswith(ANSWERS))


def is_own(folder: Path, file: Path) -> bool:
    """Whether a file is a regular file that lies in the folder: no link, pipe or device."""
    is_inside = file.parent.resolve().is_relative_to(folder.resolve())
    return is_inside and not file.is_symlink() and file.is_file()


def _own(folder: Path, pattern: str, damaged: list[str]) -> list[Path]:
    """The folder's own files; others are named among the damaged ones."""
    files = sorted(folder.glob(pattern))
    damaged += [
        f"{file.name} is no regular file of this folder (a link, say), so it is left out."
        for file in files
        if not is_own(folder, file)
    ]
    return [file for file in files if is_own(folder, file)]


def _read_png(file: Path) -> bytes:
    content = file.read_bytes()
    if not content.startswith(_PNG):
        raise InputError("it is no PNG picture.")
    return content


def _unfinished(
    folder: Path, run: dict[str, Any], tables: dict[str, pd.DataFrame]
) -> tuple[str, ...]:
    if not run:
        return ("run.json is missing or damaged: what made these files, and whether all are there, "
                "is unknown.",)  # fmt: skip
    reasons = []
    status = run.get("status", "unknown")
    if status != "finished":
        n_units = sum(file.suffix == ".parquet" for file in below(folder / "units"))
        reasons.append(
            f"The run's status is {status!r}, with {n_units} units of work done; call the same "
            "command again to go on where it stopped."
        )
    arguments = run.get("arguments", {})
    expected = (_DETECTED if "selections" in arguments else ()) + (
        _DEACTIVATED if "controls" in arguments else ()
    )
    missing = [f"{name}.parquet" for name in expected if name not in tables]
    if missing:
        reasons.append(f"Missing: {', '.join(missing)}.")
    return tuple(reasons)


def attempt(read: Callable[[Path], T], file: Path, damaged: list[str]) -> T | None:
    """Read a file and return it; note what is wrong with it and go on where that fails."""
    try:
        return read(file)
    except (OSError, ValueError) as error:
        damaged.append(f"{file.name}: {error}")
        return None
