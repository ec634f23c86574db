"""Tables on disk, where they came from, and runs that go on where they stopped. No torch here.

A run folder holds ``run.json`` (arguments, versions, seeds, times, status), one parquet file per
finished unit of work under ``units/``, and the tables made of them.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from urllib.parse import quote

import pandas as pd

from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.roles import current_role
from tl_taskneurons.runtime.table_files import read_json, read_table, write_json, write_table

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder at once go unnoticed there
    fcntl = None

_RUN_FILE = "run.json"
_FORMAT = 1
_PACKAGES = [
    "tl-taskneurons",
    "transformer-lens",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "pandas",
    "pyarrow",
    "matplotlib",
    "rouge-score",
]


def provenance() -> dict[str, Any]:
    """Return package versions, Python, platform and the time; no user names and no paths."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "versions": versions,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "time": _now(),
    }


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
    _lock: IO[str] = field(repr=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str], arguments: Mapping[str, Any]) -> "RunFolder":
        """Begin a run in a new or empty folder, or continue the run that is there.

        Args:
            path: the folder; it is made where it is missing.
            arguments: what defines the results, plain JSON values. Those the folder does not know
                yet are added (``deactivate`` after ``detect``).

        Raises:
            ValueError: for a folder of a run with other arguments (the message shows both values
                of each), or a damaged ``run.json``.
            OSError: for a path that is a file, a folder that holds something else, or a run that
                another process is busy with.
        """
        role = current_role()
        with role.together():
            if role.leads:
                return cls._open(Path(path), arguments)
        followed = cls(Path(path), True, StringIO())
        return replace(followed, resumed=len(followed.read()["sessions"]) > 1)

    @classmethod
    def _open(cls, folder: Path, arguments: Mapping[str, Any]) -> "RunFolder":
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"{folder} is a file; give a folder for the results.")
        file = folder / _RUN_FILE
        if not file.exists() and folder.exists():
            foreign = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
            if foreign:
                raise FileExistsError(
                    f"{folder} holds {foreign[0]!r} but no {_RUN_FILE}, so it is no run of ours; "
                    "give a new or empty folder."
                )
        folder.mkdir(parents=True, exist_ok=True)
        lock = _locked(folder)
        try:
            given = json.loads(json.dumps(dict(arguments)))
            stored = read_json(file) if file.exists() else {}
            known = stored.get("arguments", {})
            _require_equal(folder, known, given)
            for leftover in folder.rglob(".*.tmp"):  # of a killed process; we hold the lock
                leftover.unlink(missing_ok=True)
            merged = {**known, **given}
            session = {"status": "running", **provenance()}
            write_json(
                file,
                {
                    "format": _FORMAT,
                    "status": "running",
                    "arguments": merged,
                    "seeds": {name: merged[name] for name in merged if "seed" in name},
                    "facts": stored.get("facts", {}),
                    "sessions": [*stored.get("sessions", []), session],
                    "units": stored.get("units", {}),
                },
            )
        except BaseException:
            lock.close()
            raise
        return cls(folder, bool(stored), lock)

    def confirm(self, **facts: Any) -> None:
        """Note what was found out after the start (the model's fingerprint, say).

        Raises:
            ValueError: when an earlier call in this folder noted another value.
        """
        role = current_role()
        with role.together():
            if role.leads:  # the others may be on other devices
                content = self.read()
                _require_equal(self.path, content["facts"], facts)
                self._update(facts={**content["facts"], **facts})

    def unit(self, name: str, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """Return the table of a unit of work: the stored one, or compute it and store it at once.

        Args:
            name: the unit's name, with ``/`` for subfolders.
            compute: makes the table; called only when the unit is not finished.
        """
        file = self.file("units", f"{name}.parquet")
        if not file.exists():
            start = time.perf_counter()
            write_table(file, compute())
            seconds = round(time.perf_counter() - start, 3)
            self._update(units={**self.read()["units"], name: {"seconds": seconds}})
        current_role().wait()
        # Read back also what was just written, so that a run in one go and a continued one see
        # the same column types.
        return read_table(file)

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
        return read_json(self.path / _RUN_FILE)

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
        if not self._lock.closed:
            stopped = kind is None or not issubclass(kind, Exception)
            self._close("stopped" if stopped else "failed")

    def _close(self, status: str) -> None:
        sessions = self.read()["sessions"]
        began = datetime.fromisoformat(sessions[-1]["time"])
        seconds = round((datetime.now(UTC) - began).total_seconds(), 3)
        sessions[-1] |= {"status": status, "seconds": seconds}
        self._update(status=status, sessions=sessions)
        self._lock.close()

    def _update(self, **changes: Any) -> None:
        write_json(self.path / _RUN_FILE, {**self.read(), **changes})


def _locked(folder: Path) -> IO[str]:
    """Hold the folder for this process; the system lets go of it when the process ends."""
    lock = (folder / ".lock").open("a")
    if fcntl is not None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise BlockingIOError(
                f"Another process is writing to {folder}; wait for it or give another folder."
            ) from error
    return lock


def _require_equal(folder: Path, known: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    differing = [
        f"{name}: {known[name]!r} there, {given[name]!r} now"
        for name in given
        if name in known and known[name] != given[name]
    ]
    if differing:
        raise InputError(
            f"{folder} holds a run of another configuration ({'; '.join(differing)}); "
            "give another folder, or the same arguments as there."
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def file_name(task: str) -> str:
    """Return a task's name as the name of a file."""
    return quote(task, safe=" ")
