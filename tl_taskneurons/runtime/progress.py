"""Progress bars for long loops, and silence when nobody asked for them."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from tl_taskneurons.runtime.roles import current_role

T = TypeVar("T")


class Progress:
    """A context manager around one loop; a bar on standard error while it is open.

    Args:
        title: what is being done.
        shown: False shows nothing, and so do all but the first of several processes.
    """

    def __init__(self, title: str, *, shown: bool) -> None:
        self._title = title
        self._bar = Bar(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
            TimeRemainingColumn(), console=Console(stderr=True), transient=True,
            disable=not (shown and current_role().leads),
        )  # fmt: skip

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def track(self, items: Sequence[T]) -> Iterator[T]:
        """Iterate over ``items`` and move the bar."""
        yield from self._bar.track(items, description=self._title)

    def steps(self, first: int, last: int) -> Iterator[int]:
        """Count from ``first`` to ``last - 1`` and move the bar, which starts at ``first``."""
        task = self._bar.add_task(self._title, total=last, completed=first)
        for step in range(first, last):
            yield step
            self._bar.update(task, advance=1)

    def weigh(self, total: float) -> Callable[[float], None]:
        """Open a bar for steps of unequal length; the returned function moves it by an amount."""
        task = self._bar.add_task(self._title, total=total)

        def move(amount: float) -> None:
            self._bar.update(task, advance=amount)

        return move

    def say(self, title: str) -> None:
        """Change what the bar says."""
        for task in self._bar.task_ids:
            self._bar.update(task, description=title)

    def over(self, items: Sequence[T]) -> Iterator[T]:
        """Open the bar, iterate over ``items``, close it."""
        with self:
            yield from self.track(items)
