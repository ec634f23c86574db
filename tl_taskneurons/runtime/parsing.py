"""JSON of others, read so that whatever is in it ends in one kind of error. No torch here."""

import json
from typing import Any


class JSONError(ValueError):
    """A text that is no JSON, or none that can be believed."""


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        JSONError: for what is none, is nested beyond what Python can read, or says a name twice in
            one object, of which Python would take the last without a word.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError as error:
        raise JSONError("it is nested too deeply") from error
    except JSONError:
        raise
    except ValueError as error:
        raise JSONError(str(error)) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise JSONError(f"it has {twice!r} twice in one object")
    return found
