"""Runs that write what they find into a folder, and go on there where they stopped. No torch here.

A run folder holds ``run.json`` (what wrote it, arguments, versions, seeds, times, status), one
parquet file per finished unit of work under ``units/``, and the tables made of them.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import pandas as pd
from filelock import FileLock

from tl_taskneurons.runtime.atomic import remove_leftovers, shortened
from tl_taskneurons.runtime.cleanup import Undo
from tl_taskneurons.runtime.errors import ExistsError, InputError
from tl_taskneurons.runtime.locks import acquire
from tl_taskneurons.runtime.roles import current_role
from tl_taskneurons.runtime.run_record import (
    RUN_FILE,
    begun,
    is_free,
    read_record,
    require_equal,
    require_kind,
    write_record,
)
from tl_taskneurons.runtime.stored import stored
from tl_taskneurons.runtime.table_files import read_table, write_table

# Most file systems take 255 bytes; what is put in front of a name and after it needs room.
_LONGEST_NAME = 180


@dataclass(frozen=True)
class RunFolder:
    """A folder of results that a stopped run can be continued in.

    Use it as a context manager: leaving it by an exception notes that in ``run.json``.

    Attributes:
        path: the folder.
        resumed: whether an earlier call began this run.
    """

    path: Path
    resumed: bool
    _lock: FileLock | None = field(default=None, repr=False)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], arguments: Mapping[str, Any], *, kind: str = "run"
    ) -> "RunFolder":
        """Begin a run in a new or empty folder, or continue the run that is there.

        A run that stopped before its first result leaves the folder free for any other.

        Args:
            path: the folder; it is made where it is missing.
            arguments: what defines the results, plain JSON values. Those the folder does not know
                yet are added (``deactivate`` after ``detect``).
            kind: what writes the folder, e.g. ``"reproduce"``; no other kind may.

        Raises:
            ValueError: for a folder of another kind, or of a run with other arguments (the message
                shows both values of each), or a damaged ``run.json``. Nothing was touched then.
            OSError: for a path that is a file, a folder that holds something else or can't be
                written, or a run that another process is busy with.
        """
        role = current_role()
        with role.together():
            if role.leads:
                return cls._open(Path(path), json.loads(json.dumps(dict(arguments))), kind)
        followed = cls(Path(path), resumed=True)
        return replace(followed, resumed=len(followed.read()["sessions"]) > 1)

    @classmethod
    def _open(cls, folder: Path, arguments: Mapping[str, Any], kind: str) -> "RunFolder":
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"{folder} is a file; give a folder for the results.")
        if folder.exists() and not read_record(folder):
            foreign = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
            if foreign:
                raise ExistsError(
                    f"{folder} holds {foreign[0]!r} but no {RUN_FILE}, so it is no run of ours; "
                    "give a new or empty folder."
                )
        folder.mkdir(parents=True, exist_ok=True)
        with Undo() as undo:
            lock = _locked(folder)
            undo.add(lock.release)
            record = read_record(folder)
            if is_free(folder, record):  # nothing depends on what was given then
                record = {"sessions": record["sessions"]} if record else {}
            else:
                require_kind(folder, record, kind)
                require_equal(folder, record["arguments"], arguments)
            remove_leftovers(folder, ours=True)
            write_record(folder, begun(record, kind, arguments), copy=True)
            undo.keep()
        return cls(folder, bool(record), lock)

    def confirm(self, **facts: Any) -> None:
        """Note what was found out after the start (the model's fingerprint, say).

        Raises:
            ValueError: when an earlier call in this folder noted another value.
        """
        role = current_role()
        with role.together():
            if role.leads:  # the others may be on other devices
                content = self.read()
                require_equal(self.path, content["facts"], facts)
                self._update(facts={**content["facts"], **facts}, copy=True)

    def unit(self, name: str, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """Return the table of a unit of work: the stored one, or compute it and store it at once.

        Args:
            name: the unit's name, with ``/`` for subfolders.
            compute: makes the table; called only when the unit is not finished.
        """
        start = time.perf_counter()

        def save(file: Path, table: pd.DataFrame) -> None:
            write_table(file, table)
            seconds = round(time.perf_counter() - start, 3)
            self._update(units={**self.read()["units"], name: {"seconds": seconds}})

        file = self.file("units", f"{name}.parquet")
        return stored(file, compute, load=read_table, save=save)

    def publish(self, files: Mapping[str, Callable[[Path], object]]) -> None:
        """Write what a run ends with; remove what an earlier call published and this one doesn't.

        Nothing is removed but what the folder's record says that this method has written.

        Args:
            files: each file's name in the folder, and what writes it to a path.

        Raises:
            ValueError: for a name that leads out of the folder.
            FileError: when a file can't be written.
        """
        if not current_role().leads:
            return
        earlier = self.read().get("files", [])
        paths = {name: self.file(name) for name in {*earlier, *files}}
        self._update(files=sorted(paths), copy=True)
        for name, write in files.items():
            write(paths[name])
        for name in earlier:
            if name not in files:
                paths[name].unlink(missing_ok=True)
        self._update(files=sorted(files), copy=True)

    def file(self, *parts: str) -> Path:
        """Return the path of a file in the folder.

        Raises:
            ValueError: for a path that leads out of it.
        """
        target = self.path.joinpath(*parts)
        if not target.resolve().is_relative_to(self.path.resolve()):
            raise InputError(f"{'/'.join(parts)!r} leads out of the folder {self.path}.")
        return target

    def read(self) -> dict[str, Any]:
        """Return the content of ``run.json``."""
        return read_record(self.path)

    def finish(self) -> None:
        """Note that everything is there, and how long this call took."""
        self._close("finished")

    def __enter__(self) -> "RunFolder":
        """Return the folder."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let go of the folder, and note how it was left unless ``finish`` did."""
        if self.read()["status"] == "running":
            stopped = kind is None or not issubclass(kind, Exception)
            self._close("stopped" if stopped else "failed")

    def _close(self, status: str) -> None:
        with Undo() as undo:
            if self._lock is not None:
                undo.add(self._lock.release)
            sessions = self.read()["sessions"]
            began = datetime.fromisoformat(sessions[-1]["time"])
            seconds = round((datetime.now(UTC) - began).total_seconds(), 3)
            sessions[-1] |= {"status": status, "seconds": seconds}
            self._update(status=status, sessions=sessions)

    def _update(self, *, copy: bool = False, **changes: Any) -> None:
        write_record(self.path, {**self.read(), **changes}, copy=copy)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder for this process while the context is open.

    Raises:
        BlockingIOError: where another process has it.
    """
    with Undo() as undo:
        undo.add(_locked(folder).release)
        yield


def _locked(folder: Path) -> FileLock:
    """Hold the folder for this process; the system lets go of it when the process ends."""
    lock = acquire(folder / ".lock", wait=False)
    if lock is None:
        raise BlockingIOError(
            f"Another process is writing to {folder}; wait for it or give another folder."
        )
    return lock


def file_name(task: str) -> str:
    """Return any name, a task's for example, as the name of a file in a folder.

    What is special in paths is percent-encoded; a long name is cut and ends in a hash.
    """
    encoded = quote(task, safe=" ")
    if encoded.startswith("."):
        encoded = f"%2E{encoded[1:]}"
    return shortened(encoded, _LONGEST_NAME)
