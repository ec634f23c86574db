"""Writing files and folders in one step: the whole new one, or the old one as it was. No torch."""

import errno
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tl_taskneurons.runtime.cleanup import Undo
from tl_taskneurons.runtime.errors import FileError, TaskNeuronsError
from tl_taskneurons.runtime.options import require_kind
from tl_taskneurons.runtime.roles import current_role

# Temporary folders, .NAME.PROCESS-RANDOM.tmp; of older versions files, .NAME.RANDOM.tmp
_TEMPORARY = re.compile(r"\..+\.((?P<process>\d+)-[0-9a-f]{8}|[a-z0-9_]{8})\.tmp")
_STARTED = time.time()
_swept: set[Path] = set()


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Call ``write`` with a temporary path beside ``path``, then move it there in one step.

    An interrupted or failed write (a full disk, say) leaves the old file as it was. What killed
    processes left in the folder is removed. The file's mode follows the umask.

    Where several processes share their work, only the first writes: in the others **nothing is
    written**, and this returns at once.

    Raises:
        FileError: when the file can't be written: the disk is full, the folder read-only, ...
    """
    require_kind("path", path, str | os.PathLike, "give the path of a file to write")
    if not current_role().leads:
        return
    target = Path(path)
    with Undo() as undo, _named(target):
        _make_folder(target.parent)
        # A folder, for libraries that write to temporary files of their own.
        temporary = _temporary(target, undo)
        part = temporary / target.name
        part.open("xb").close()
        mode = part.stat().st_mode
        write(part)
        if part.stat().st_mode != mode:  # replaced by a library that ignores the umask
            with suppress(OSError):  # some disks know no modes
                part.chmod(mode)
        part.replace(target)


def write_folder(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Call ``write`` with a temporary folder beside ``path``, then move it there in one step.

    An empty folder at ``path`` is replaced. What killed processes left beside it is removed.

    Raises:
        FileError: when it can't be written, or ``path`` holds something.
    """
    target = Path(path)
    with Undo() as undo, _named(target):
        _make_folder(target.parent)
        temporary = _temporary(target, undo)
        write(temporary)
        if target.is_dir():
            target.rmdir()
        temporary.replace(target)


def require_writable(folder: str | os.PathLike[str]) -> None:
    """Check, before long work, that files can be written to a folder; it is made where missing.

    Raises:
        FileError: when they can't: it is read-only, the disk is full, ...
    """
    place = Path(folder)
    write_atomically(place / ".probe", _fill)
    (place / ".probe").unlink(missing_ok=True)


def remove_leftovers(folder: Path, *, ours: bool = False) -> None:
    """Remove temporary files and folders of this library whose writers were killed.

    Args:
        folder: where to look.
        ours: nobody else writes here: look in subfolders too, and for names of older versions.
    """
    for file in below(folder) if ours else folder.glob(".*.tmp"):
        name = _TEMPORARY.fullmatch(file.name)
        if name is None or (name["process"] is None and not ours):
            continue
        try:
            if file.stat().st_mtime < _STARTED and not _is_running(name["process"]):
                shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
        except OSError:  # another process removes it, or it is another user's
            continue


def below(folder: Path) -> Iterator[Path]:
    """Yield the files and folders below a folder, which other processes may be changing."""
    # `Path.rglob` fails where a folder vanishes between its being listed and its being opened.
    for place, folders, files in os.walk(folder):
        yield from (Path(place, name) for name in (*folders, *files))


def shortened(name: str, longest: int) -> str:
    """Return a file's name, or its beginning and a hash where it has too many bytes."""
    if len(name.encode()) <= longest:
        return name
    start = name.encode()[: longest - 17].decode(errors="ignore")
    return f"{start}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


@contextmanager
def _named(target: Path) -> Iterator[None]:
    """Say of errors of the disk which file they kept from being written."""
    try:
        yield
    except Exception as error:
        if isinstance(error, TaskNeuronsError) or not _is_of_the_disk(error):
            raise
        raise FileError(
            f"{target} could not be written: {_said(error)}. What was there is as it was; give "
            "another place, or mend this one and call the same again."
        ) from error


def _temporary(target: Path, undo: Undo) -> Path:
    """Make a temporary folder beside a file, which is removed in the end."""
    temporary = _beside(target)
    undo.add(shutil.rmtree, temporary, ignore_errors=True)
    temporary.mkdir()
    return temporary


def _make_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    folder.mkdir(parents=True, exist_ok=True)
    if folder not in _swept:
        _swept.add(folder)
        remove_leftovers(folder)


def _beside(target: Path) -> Path:
    random = f"{os.getpid()}-{secrets.token_hex(4)}"
    return target.with_name(f".{shortened(target.name, 100)}.{random}.tmp")


def _fill(probe: Path) -> None:
    probe.write_bytes(bytes(4096))


def _is_running(process: str | None) -> bool:
    if process is None or int(process) == os.getpid():
        return False
    if os.name != "posix":  # elsewhere there is no harmless signal to ask with
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except OSError:  # it runs, for another user
        return True
    return True


def _is_of_the_disk(error: Exception) -> bool:
    # A SafetensorError is no OSError, also where the disk is full.
    return isinstance(error, OSError) or type(error).__name__ == "SafetensorError"


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
