"""Locks that processes hold on files; the system lets go of them when a process ends."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from tl_taskneurons.runtime.cleanup import Undo


class NoLocksWarning(UserWarning):
    """The disk has no locks, so two processes that do the same at once go unnoticed."""


def acquire(file: Path, *, wait: bool = True) -> FileLock | None:
    """Take a lock and return it, to be released; None where another process has it.

    On a disk without locks this warns, and work goes on without.

    Args:
        file: the lock's file, which stays there, empty; its folder is made where it is missing.
        wait: wait for another process that has it, and never return None.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        return None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, PermissionError):
            raise
        warnings.warn(
            f"Locking is not supported here ({file.parent}: {error}); make sure that no other "
            "process writes to this folder.",
            NoLocksWarning,
            stacklevel=2,
        )
    return lock


@contextmanager
def locked(file: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock; gives False where another process has it and ``wait`` is off. See ``acquire``.

    Yields:
        Whether this process may do what the lock is for.
    """
    with Undo() as undo:
        lock = acquire(file, wait=wait)
        if lock is not None:
            undo.add(lock.release)
        yield lock is not None


@contextmanager
def folder_locked(folder: Path) -> Iterator[None]:
    """Hold a folder itself for a moment, so that no file is left in it; waits for others.

    Where folders can't be locked (Windows, some network disks), this does nothing.
    """
    with Undo() as undo:
        with suppress(ImportError, OSError):
            import fcntl  # POSIX alone has it

            handle = os.open(folder, os.O_RDONLY)
            undo.add(os.close, handle)  # lets go of the lock too
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
