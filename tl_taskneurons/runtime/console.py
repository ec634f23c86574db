"""What the terminal shows: names are shown as they are, whatever markup or codes they hold."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


class _Printable(Console):
    """A console that shows control characters of a text instead of sending them."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(printable(o) if isinstance(o, str) else o for o in objects), **options)


def console() -> Console:
    """Return a console that takes text for text: no markup, no emoji or control codes."""
    return _Printable(markup=False, emoji=False, highlight=False)


def printable(text: object) -> str:
    r"""Return text with control characters and lone surrogates written out (``\x1b``)."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in str(text)
    )


def table(
    title: str, headings: Sequence[str], rows: Iterable[Sequence[object]] = (), *, left: int = 1
) -> Table:
    """Return a table with text in its first columns and numbers, to the right, in the others.

    Args:
        title: above the table.
        headings: of the columns.
        rows: the cells; they are made printable.
        left: how many columns hold text.
    """
    made = Table(title=printable(title), title_justify="left", title_style="bold")
    for k, heading in enumerate(headings):
        made.add_column(printable(heading), justify="left" if k < left else "right")
    for row in rows:
        made.add_row(*(printable(cell) for cell in row))
    return made
