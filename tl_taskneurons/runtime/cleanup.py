"""Putting things back, completely, whatever happens meanwhile. No torch here."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import FrameType, TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
_Handler = Callable[[int, FrameType | None], Any]


class Undo:
    """What must be undone at the end of a ``with`` block, noted before it is done.

    ```python
    with Undo() as undo:
        undo.add(parameter.requires_grad_, parameter.requires_grad)
        parameter.requires_grad_(False)
        work()
    ```

    The steps run last first, each of them also when others fail. A step that an exception breaks
    off (Ctrl-C, a timeout) is run again, so steps must bear being run twice, and being run when
    what they undo has not been done. Ctrl-C that comes while they run is raised after them. The
    first exception of a step is raised at the end.

    Python may raise Ctrl-C between the block's end and ``__exit__``; then the steps run when the
    exception's traceback is let go of.
    """

    def __init__(self) -> None:
        self._steps: list[Callable[[], object]] = []
        self._failure: BaseException | None = None
        self._handler: _Handler | None = None
        self._signals: list[tuple[int, FrameType | None]] = []

    def add(self, step: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Note a step; call this before what it undoes."""
        self._steps.append(lambda: step(*args, **kwargs))

    def keep(self) -> None:
        """Forget the steps noted so far: what was done stays."""
        self._steps = []

    def __enter__(self) -> "Undo":
        """Return this object, to note steps with."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Run the steps."""
        try:
            self._run()
        finally:
            self._run()  # an exception may have come in before the first call was under way

    def __del__(self) -> None:
        if hasattr(self, "_signals"):  # else __init__ was broken off, and nothing is noted
            self._run()

    def _run(self) -> None:
        if not self._steps and self._handler is None and self._failure is None:
            return
        try:
            self._hold_interrupts()
            while self._steps:
                self._attempt(self._steps[-1])
                self._steps.pop()
        finally:
            self._release_interrupts()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _attempt(self, step: Callable[[], object]) -> None:
        """Run a step, and once more where an exception broke it off."""
        try:
            step()
        except BaseException as error:
            self._failure = self._failure or error
            with suppress(BaseException):  # the first one is raised
                step()

    def _hold_interrupts(self) -> None:
        """Note signals of Ctrl-C instead of raising KeyboardInterrupt."""
        handler = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and callable(handler):
            self._handler = self._handler or handler
            signal.signal(signal.SIGINT, lambda *received: self._signals.append(received))

    def _release_interrupts(self) -> None:
        handler = self._handler
        if handler is None:
            return
        signal.signal(signal.SIGINT, handler)
        self._handler = None
        if self._signals:
            received, self._signals = self._signals[-1], []
            handler(*received)


@contextmanager
def setting(variable: ContextVar[T], value: T) -> Iterator[None]:
    """Give a context variable a value while the context is open."""
    with Undo() as undo:
        undo.add(variable.set, variable.get())
        variable.set(value)
        yield
