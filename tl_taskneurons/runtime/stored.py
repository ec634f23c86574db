"""The one way to keep what was computed: read it where it is there, else compute and write it."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tl_taskneurons.runtime.roles import current_role

T = TypeVar("T")


def stored(
    path: Path, compute: Callable[[], T], *, load: Callable[[Path], T],
    save: Callable[[Path, T], None],
) -> T:  # fmt: skip
    """Return what lies at a path; compute and save it first where nothing does.

    What was just written is read back too, so that a run in one go and a continued one see the
    same values and types. Where processes share work, all compute and the first writes.

    Args:
        path: the file.
        compute: makes the result; called only when the file is missing.
        load: reads the file.
        save: writes it, atomically.
    """
    if not path.exists():
        save(path, compute())
    current_role().wait()
    return load(path)
