"""Which part this process plays where several work together. No torch here.

Alone, a process leads. In ``sharing.share_work`` the first process leads: it writes files and shows
progress. The others compute their shares and wait.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar


class Role:
    """The part of a process that works alone."""

    @property
    def leads(self) -> bool:
        """Whether this process writes files and shows progress."""
        return True

    @property
    def alone(self) -> bool:
        """Whether no other process shares the work."""
        return True

    def together(self) -> AbstractContextManager[None]:
        """Leave the context when all processes do; an error in one is raised in all."""
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
    before = _role.set(role)
    try:
        yield
    finally:
        _role.reset(before)
