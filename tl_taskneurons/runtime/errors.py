"""The errors that this library raises on purpose, so that they can be told from programming errors.

Each is also the built-in error that one would expect, so ``except ValueError`` still works.
"""

import difflib
from collections.abc import Sequence


class TaskNeuronsError(Exception):
    """Base of all errors raised by this library; its message says what to do."""


class InputError(TaskNeuronsError, ValueError):
    """A value that can't be used: out of its range, unknown, or not fitting another."""


class InputTypeError(TaskNeuronsError, TypeError):
    """Something of a kind that can't be used; the message says what to pass."""


class UnknownNameError(TaskNeuronsError, KeyError):
    """A name that isn't there."""

    def __str__(self) -> str:
        """Return the message as it is; a KeyError would quote it."""
        return str(self.args[0]) if self.args else ""


class MissingFileError(TaskNeuronsError, FileNotFoundError):
    """A file or folder that isn't there."""


class ExistsError(TaskNeuronsError, FileExistsError):
    """A file or folder that is there, and would be overwritten."""


class FileError(TaskNeuronsError, OSError):
    """A file or folder that can't be read or written; the message says why."""


class MissingPackageError(TaskNeuronsError, ImportError):
    """A package that isn't installed."""


class OutOfReachError(TaskNeuronsError, ConnectionError):
    """Something in the network that can't be reached."""


class StateError(TaskNeuronsError, RuntimeError):
    """Something that can't be done now, or that did not happen as it should have."""


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return the end of an error message that names the nearest of the known names."""
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.4)
    hint = f"; did you mean {', '.join(map(repr, near))}?" if near else "."
    return f"{hint} Known: {', '.join(known)}."
