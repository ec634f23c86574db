"""Every state that a kill can leave a folder in, and whether each command goes on from there.

A command runs once, and before each change of a file that Python makes its folder is copied; files
that libraries write without Python lie in temporary folders, whose content no run looks at. So the
copies are all that there is to be killed in, and nothing is left to luck. The command is then
called in each of them.
"""

import hashlib
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from robustness_commands import (
    COMMANDS,
    age_leftovers,
    imported,
    left_over,
    output_of,
    prepared,
    results,
    start,
    wait,
)

_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "os.link"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Watch:
    """Copies a folder before each change, once per state.

    Args:
        folder: what is copied.
        copies: where to, as ``0``, ``1``, ...
    """

    def __init__(self, folder: Path, copies: Path) -> None:
        self.folder, self.copies = folder, copies
        self.n, self._last, self._busy = 0, "", False
        copies.mkdir()

    def begin(self) -> None:
        """Watch from now on until this process ends: what Python tells can't be untold."""
        sys.addaudithook(self._look)

    def _look(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES
        if self._busy or not (writes or event in _CHANGES) or not self.folder.exists():
            return
        self._busy = True
        if writes:
            self._note_in_place(arguments[0])
        state = _state(self.folder)
        if state != self._last:
            self._last = state
            shutil.copytree(self.folder, self.copies / str(self.n))
            self.n += 1
        self._busy = False

    def _note_in_place(self, path: Any) -> None:
        """Note a file that is written where it is read, so that a kill leaves a part of it."""
        if not isinstance(path, str | os.PathLike):
            return
        file = Path(path).absolute()
        if file.is_relative_to(self.folder) and not (
            file.name.endswith(".lock") or _is_temporary(file.relative_to(self.folder))
        ):
            with (self.copies / "in_place").open("a", encoding="utf-8") as notes:
                notes.write(f"{file.relative_to(self.folder)}\n")


def _is_temporary(path: Path) -> bool:
    return any(part.endswith(".tmp") for part in path.parts)


def _state(folder: Path) -> str:
    """What is in a folder; of temporary files only that they are there."""
    found = hashlib.sha256()
    for place, folders, files in sorted(os.walk(folder)):
        relative = Path(place).relative_to(folder)
        if _is_temporary(relative):
            continue
        found.update(str(relative).encode())
        found.update("/".join(sorted(n[:40] for n in folders if _is_temporary(Path(n)))).encode())
        for name in sorted(files):
            status = Path(place, name).stat()
            found.update(f"{name} {status.st_size} {status.st_mtime_ns}".encode())
    return found.hexdigest()


def states_of_a_run(write: Callable[[Path], None]) -> dict[str, int]:
    """Go on in each state that a kill leaves of a run, and compare with the bytes of one in one go.

    Args:
        write: writes the run to a folder, or goes on there.
    """
    counts = {"states": 0, "other bytes": 0, "left to delete": 0}
    with tempfile.TemporaryDirectory() as text:
        place = Path(text)
        watch = Watch(place / "run", place / "states")
        child = os.fork()
        if not child:
            try:
                watch.begin()
                write(place / "run")
                os._exit(0)
            finally:
                os._exit(1)
        if wait(child):
            raise RuntimeError("the run failed where nothing was done to it")
        whole = (place / "run" / "all.parquet").read_bytes()
        for folder in watch.copies.iterdir():
            age_leftovers(folder)
            write(folder)
            counts["states"] += 1
            counts["other bytes"] += (folder / "all.parquet").read_bytes() != whole
            counts["left to delete"] += left_over(folder)
    return counts


def every_state(
    tries: int, draw: random.Random, names: Sequence[str] = tuple(COMMANDS)
) -> dict[str, Any]:
    """Call each command in the states that a kill leaves, and compare with a run in one go.

    Args:
        tries: of each command, at most so many states, drawn at random.
        draw: draws them.
        names: the commands.
    """
    counts = {"states": 0, "tried": 0, "other results": 0, "refused": 0, "left to delete": 0}
    told: dict[str, Any] = {"in place": [], "failures": []}
    imported()
    with tempfile.TemporaryDirectory() as text:
        place = Path(text)
        for command in names:
            whole = _in_one_go(command, place / f"{command}-whole", place)
            copies = place / f"{command}-states"
            watch = Watch(place / f"{command}-watched", copies)
            other = _in_one_go(command, watch.folder, place, watch.begin)
            # What differs between two runs in one go has the time of day in it.
            timed = {name for name, value in whole.items() if other.get(name) != value}
            states = sorted((path for path in copies.iterdir() if path.is_dir()), key=_number)
            notes = copies / "in_place"
            told["in place"] += notes.read_text().splitlines() if notes.exists() else []
            counts["states"] += len(states)
            for state in sorted(draw.sample(states, min(tries, len(states))), key=_number):
                folder = place / "again"
                state.rename(folder)
                age_leftovers(folder)
                complete = command == "finetune" and (folder / "x.safetensors").exists()
                code = wait(start(command, folder))
                found = results(folder)
                others = [name for name in {*whole, *found} - timed
                          if found.get(name) != whole.get(name)]  # fmt: skip
                refused = code != 0 and not (complete and not others)
                counts["tried"] += 1
                counts["other results"] += bool(others)
                counts["refused"] += refused
                counts["left to delete"] += left_over(folder)
                if others or refused:
                    told["failures"].append(
                        {"command": command, "state": _number(state), "code": code,
                         "differing": sorted(others), "said": output_of(folder)}
                    )  # fmt: skip
                shutil.rmtree(folder)
            shutil.rmtree(copies)
    return {**counts, "commands": list(names), **{k: v for k, v in told.items() if v}}


def _in_one_go(
    command: str, folder: Path, place: Path, first: Callable[[], None] | None = None
) -> dict[str, Any]:
    """What a command leaves where nothing happens to it."""
    code = wait(start(command, prepared(command, folder, place), first))
    if code:
        said = output_of(folder)
        raise RuntimeError(f"{command} ended with {code} where nothing was done to it: {said}")
    return results(folder)


def _number(state: Path) -> int:
    return int(state.name)
