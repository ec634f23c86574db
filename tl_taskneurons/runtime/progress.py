"""Progress bars for long loops: in a terminal or a notebook, and nowhere else."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from threading import Lock, Timer
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as TerminalBars

from tl_taskneurons.runtime.roles import current_role
from tl_taskneurons.runtime.widgets import WidgetBars

T = TypeVar("T")

_DELAY = 2.0  # seconds
_open: list["Progress"] = []


class Progress:
    """A context manager around one loop; a bar is shown while it is open.

    Of loops within loops the outermost decides: only it is shown, unless an inner one is asked for.

    Args:
        title: what is being done.
        shown: True shows a bar at once, and False none. By default it is shown after two seconds,
            in a terminal (not where ``CI`` is set) or in Jupyter with ipywidgets. Files and pipes
            never get one, and of several processes only the first shows it.
    """

    def __init__(self, title: str, *, shown: bool | None = None) -> None:
        self._title, self._shown = title, shown
        self._lock, self._started = Lock(), False
        self._timer: Timer | None = None
        console = Console(stderr=True)
        self._is_seen = current_role().leads and _can_show(console, shown)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(),
                   MofNCompleteColumn(), TimeRemainingColumn())  # fmt: skip
        self._bars: Any = (  # both have the same methods
            WidgetBars()
            if console.is_jupyter
            else TerminalBars(*columns, console=console, transient=True)
        )

    def __enter__(self) -> "Progress":
        is_inner = bool(_open)
        _open.append(self)
        if self._is_seen and self._shown:
            self._start()
        elif self._is_seen and not is_inner:
            self._timer = Timer(_DELAY, self._show)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            if self in _open:
                _open.remove(self)
            if self._timer is not None:
                self._timer.cancel()
            if self._started:
                self._bars.stop()

    def _show(self) -> None:
        with self._lock:
            if self in _open:
                self._start()

    def _start(self) -> None:
        self._started = True
        self._bars.start()

    def track(self, items: Sequence[T]) -> Iterator[T]:
        """Iterate over ``items`` and move the bar."""
        task = self._bars.add_task(self._title, total=len(items))
        for item in items:
            yield item
            self._bars.update(task, advance=1)

    def steps(self, first: int, last: int) -> Iterator[int]:
        """Count from ``first`` to ``last - 1`` and move the bar, which starts at ``first``."""
        task = self._bars.add_task(self._title, total=last, completed=first)
        for step in range(first, last):
            yield step
            self._bars.update(task, advance=1)

    def weigh(self, total: float) -> Callable[[float], None]:
        """Open a bar for steps of unequal length; the returned function moves it by an amount."""
        task = self._bars.add_task(self._title, total=total)

        def move(amount: float) -> None:
            self._bars.update(task, advance=amount)

        return move

    def say(self, title: str) -> None:
        """Change what the bar says."""
        for task in self._bars.task_ids:
            self._bars.update(task, description=title)

    def over(self, items: Sequence[T]) -> Iterator[T]:
        """Open the bar, iterate over ``items``, close it."""
        with self:
            yield from self.track(items)


def bars_are_seen() -> bool:
    """Whether anyone would see a bar: not in files, pipes and CI."""
    return _can_show(Console(stderr=True), None)


def _can_show(console: Console, shown: bool | None) -> bool:
    if shown is False or (shown is None and "CI" in os.environ):
        return False
    if not console.is_jupyter:
        # Where it is asked for, rich decides; it writes bars to terminals alone.
        return bool(shown) or (sys.stderr is not None and sys.stderr.isatty())
    if find_spec("ipywidgets") is not None:
        return True
    if shown:
        warnings.warn(
            "Progress bars in Jupyter need ipywidgets: pip install 'tl-taskneurons[jupyter]'.",
            stacklevel=4,
        )
    return False
