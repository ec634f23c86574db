"""Which part this process plays where several work together. No torch here.

Alone, a process leads and does all the work. In ``sharing.share_work`` each does a share; the first
leads: it writes files and shows progress.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from tl_taskneurons.runtime.cleanup import setting


class Role:
    """The part of a process that works alone; ``sharing.Team`` is that of one among several.

    Attributes:
        rank: this process, counted from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the first process, which writes files and shows progress."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether no other process shares the work."""
        return self.size == 1

    def own(self, costs: Sequence[int]) -> list[int]:
        """Return this process's share of some pieces of work, of equal cost as far as possible.

        Args:
            costs: of each piece, above 0.

        Returns:
            Positions in ``costs``, ascending. Every piece is in one share; shares may be empty,
            that of the first process only where there is no work.
        """
        return list(range(len(costs)))

    def total(self, values: Any) -> Any:
        """Return the sum of all processes' tensors, where this one's lies."""
        return values

    def add_up(self, parameters: Sequence[Any], loss: float) -> float:  # noqa: ARG002
        """Sum all processes' gradients and losses, in one exchange.

        Args:
            parameters: their ``.grad`` becomes the sum; it stays None where no process has one.
            loss: of this process's share.

        Returns:
            The sum of the losses.
        """
        return loss

    def gather(self, what: str, value: Any) -> list[Any]:  # noqa: ARG002
        """Return what every process tells, in the order of ranks.

        Args:
            what: what is told; every process must say the same.
            value: of plain JSON types.

        Raises:
            ValueError: when the processes are at different places of the program.
        """
        return [value]

    def merge(self, own: Sequence[int], values: Sequence[Any]) -> list[Any]:
        """Return all shares' results in the order of the pieces of work.

        Args:
            own: this process's positions, see ``own``.
            values: their results, of plain JSON types.
        """
        found: dict[int, Any] = {}
        for positions, results in self.gather("the results", [list(own), list(values)]):
            found.update(zip(positions, results, strict=True))
        return [found[i] for i in range(len(found))]

    def require_same(self, what: str, facts: Callable[[], Mapping[str, Any]]) -> None:
        """Check that all processes are about to do the same.

        Args:
            what: what they are about to do.
            facts: returns what must be equal, by name: short strings and numbers, which messages
                show, or tensors and lists, of which they show a hash.

        Raises:
            ValueError: naming what differs, with the values.
        """

    def together(self) -> AbstractContextManager[None]:
        """Leave the context when all processes do; an error in one is raised in all.

        Inside, nothing may be exchanged: the other processes would not know of an error.
        """
        return nullcontext()

    def wait(self) -> None:
        """Wait until all processes are here."""
        with self.together():
            pass


_ALONE = Role()
_role: ContextVar[Role] = ContextVar("role", default=_ALONE)


def current_role() -> Role:
    """Return the part that this process plays now."""
    return _role.get()


@contextmanager
def acting(role: Role) -> Iterator[None]:
    """Play a part while the context is open."""
    with setting(_role, role):
        yield
