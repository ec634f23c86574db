"""Interventions as context managers that are opened once each."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, _GeneratorContextManager
from functools import wraps
from typing import ParamSpec

from tl_taskneurons.runtime.errors import StateError

P = ParamSpec("P")


class _Once(_GeneratorContextManager[None]):
    """What ``contextlib.contextmanager`` makes, but a second ``with`` is told what to do."""

    _opened = False

    def __enter__(self) -> None:
        if self._opened:
            raise StateError(
                "This intervention was opened before, and each opens once; make another for each "
                "with block: with deactivate(model, neurons): ..."
            )
        self._opened = True
        super().__enter__()


def intervention(
    function: Callable[P, Iterator[None]],
) -> Callable[P, AbstractContextManager[None]]:
    """Make a context manager of a generator function, as ``contextlib.contextmanager`` does.

    Raises:
        RuntimeError: when what it returned is entered again.
    """

    @wraps(function)
    def made(*args: P.args, **kwargs: P.kwargs) -> AbstractContextManager[None]:
        return _Once(function, args, kwargs)  # pyright: ignore[reportArgumentType]

    return made
