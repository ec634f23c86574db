"""The one way to keep what was computed: read it where it is there, else compute and write it."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

from tl_taskneurons.runtime.locks import locked
from tl_taskneurons.runtime.roles import current_role

T = TypeVar("T")


def stored(
    path: Path,
    compute: Callable[[], T],
    *,
    load: Callable[[Path], T],
    save: Callable[[Path, T], None],
    lock: Path | None = None,
) -> T:
    """Return what lies at a path; compute and save it first where nothing does.

    What was just written is read back too, so that a run in one go and a continued one see the
    same values and types. Where processes share work, all compute and the first writes.

    Args:
        path: the file.
        compute: makes the result; called only when the file is missing.
        load: reads the file, and checks its digest.
        save: writes it, atomically.
        lock: a file to hold while computing, so that of several processes one computes and the
            others wait for it. None where the caller holds the whole folder.

    Raises:
        ValueError: for a damaged file; ``load`` names it. Deleting it is enough to compute it
            again.
    """
    role = current_role()
    # Processes that share their work must all compute or none, so none of them may wait alone.
    holding = nullcontext() if lock is None or not role.alone else locked(lock)
    if not path.exists():
        with holding:
            if not path.exists():  # another process may have made it while this one waited
                save(path, compute())
    role.wait()
    return load(path)
