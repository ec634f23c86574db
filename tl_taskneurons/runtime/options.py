"""Keyword arguments that several functions share, checked once and kept as a settings object."""

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from tl_taskneurons.runtime.errors import InputTypeError, did_you_mean

T = TypeVar("T")


def settled(
    caller: str, cls: type[T], options: Mapping[str, Any], *, known: Collection[str] | None = None
) -> T:
    """Return the settings that keyword arguments give.

    Args:
        caller: the calling function, for messages.
        cls: a frozen dataclass whose fields are the options.
        options: what the caller gave.
        known: the options that the calling function has; by default all fields.

    Raises:
        InputTypeError: for an unknown option, with the nearest ones.
    """
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type] (a dataclass)
    names = [name for name in names if known is None or name in known]
    for name in options:
        if name not in names:
            raise InputTypeError(f"{caller} has no option {name!r}{did_you_mean(name, names)}")
    return cls(**options)
