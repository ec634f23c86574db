"""Files that carry a digest of their own bytes, so that a bit that flips is noticed. No torch here.

A file is written with ``UNSEALED`` somewhere in it (a field of its header, say). ``seal`` replaces
the zeros by the SHA-256 of the whole file with these zeros in it, and ``require_intact`` looks.
"""

import hashlib
import mmap
import os
from pathlib import Path

from tl_taskneurons.runtime.errors import FileError, InputError, MissingFileError

KEY = "file_digest"
_MARK = b"tl_taskneurons sha256 "
_ZEROS = b"0" * 64
UNSEALED = (_MARK + _ZEROS).decode()


def seal(path: Path) -> None:
    """Put a file's digest where it says ``UNSEALED``."""
    with path.open("r+b") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            at = content.find(UNSEALED.encode()) + len(_MARK)
            digest = _digest(content, at)
        file.seek(at)
        file.write(digest)


def require_intact(path: str | os.PathLike[str], remedy: str) -> bool:
    """Check a file's digest; say whether it has one.

    Files of other programs and of versions before digests have none, and pass.

    Args:
        path: the file.
        remedy: what to do about a damaged file, the end of a sentence.

    Raises:
        MissingFileError: when there is no such file.
        FileError: when it can't be read.
        InputError: when its bytes are not those that were written.
    """
    try:
        with Path(path).open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                return False
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                start = content.find(_MARK)
                if start < 0:
                    return False
                at = start + len(_MARK)
                if content[at : at + 64] == _digest(content, at):
                    return True
    except FileNotFoundError as error:
        raise MissingFileError(f"No file {path}.") from error
    except OSError as error:
        raise FileError(f"{path} can't be read: {error.strerror or error}.") from error
    raise InputError(
        f"{path} is damaged: its bytes are not those that were written (their digest is another); "
        f"{remedy}."
    )


def _digest(content: mmap.mmap, at: int) -> bytes:
    """The digest of a file as it was before it was sealed, which is 64 bytes at ``at``."""
    with memoryview(content) as view:
        found = hashlib.sha256(view[:at])
        found.update(_ZEROS)
        found.update(view[at + 64 :])
    return found.hexdigest().encode()
