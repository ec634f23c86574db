"""Writing files in one step: the whole new file, or the old one as it was."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from tl_taskneurons.runtime.roles import current_role


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], None]) -> None:
    """Call ``write`` with a temporary path beside ``path``, then move it there in one step.

    An interrupted or failed write (a full disk, say) leaves the old file as it was. Where several
    processes share their work, the first writes and the others don't.
    """
    if not current_role().leads:
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
