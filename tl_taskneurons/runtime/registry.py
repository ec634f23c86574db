"""Tables of choices: a name, what it says, and the function that does it. No torch here.

A function is given itself, or as ``"module:name"`` and then imported when it is first used, so
that the command line can name every choice without loading torch.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Generic, TypeVar, cast

from tl_taskneurons.runtime.errors import InputError, InputTypeError, did_you_mean

F = TypeVar("F", bound=Callable)


@dataclass(frozen=True)
class Choice(Generic[F]):
    """One entry of a registry.

    Attributes:
        name: what users call it.
        says: one line on what it does, for help and tables.
        home: the function, or where it is: ``"module:name"``.
    """

    name: str
    says: str
    home: F | str

    @property
    def function(self) -> F:
        """The function, imported when first asked for."""
        found = resolve_name(self.home) if isinstance(self.home, str) else self.home
        return cast(F, found)

    def __str__(self) -> str:
        """What it says."""
        return self.says


C = TypeVar("C", bound=Choice[Any])


class Registry(Mapping[str, C]):
    """Choices of one kind, by name, in the order in which they were registered."""

    def __init__(self, kind: str, entry: Callable[..., C]) -> None:
        """Start an empty table.

        Args:
            kind: what its entries are, for messages, e.g. ``"method"``.
            entry: makes one of name, what it says, function and further facts: ``Choice``, or a
                class of one's own.
        """
        self.kind, self._entry = kind, entry
        self._choices: dict[str, C] = {}

    def add(self, choice: C) -> None:
        """Take a choice in.

        Raises:
            InputError: for a name that is taken, or is no name.
            InputTypeError: for something that can't be called.
        """
        if choice.name in self._choices:
            raise InputError(
                f"There is a {self.kind} called {choice.name!r} already; register yours under "
                f"another name. Taken: {', '.join(self._choices)}."
            )
        if not choice.name or not choice.name.replace("-", "_").isidentifier():
            raise InputError(
                f"A {self.kind} can't be called {choice.name!r}; use letters, digits, _ and -."
            )
        if not (isinstance(choice.home, str) or callable(choice.home)):
            raise InputTypeError(
                f"The {self.kind} {choice.name!r} is a {type(choice.home).__name__}, which can't "
                "be called; register a function."
            )
        self._choices[choice.name] = choice

    def register(self, name: str, says: str, **facts: Any) -> Callable[[F], F]:
        """Return a decorator that registers a function of your own; see ``add`` for errors.

        Args:
            name: what it is called from now on, here and on the command line.
            says: one line on what it does.
            **facts: further attributes of the entry, such as ``unit`` of a method or a metric.
        """

        def decorate(function: F) -> F:
            self.add(self._entry(name, says, function, **facts))
            return function

        return decorate

    def find(self, name: str) -> C:
        """Return a choice.

        Raises:
            InputError: for an unknown name, with the nearest ones.
        """
        if name not in self._choices:
            raise InputError(
                f"Unknown {self.kind} {name!r}{did_you_mean(str(name), list(self._choices))}"
            )
        return self._choices[name]

    def __getitem__(self, name: str) -> C:
        return self._choices[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._choices)

    def __len__(self) -> int:
        return len(self._choices)

    def __repr__(self) -> str:
        return f"Registry of {len(self)} {self.kind}s: {', '.join(self)}"
