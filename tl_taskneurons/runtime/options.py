"""Keyword arguments that several functions share, checked once and kept as a settings object."""

import functools
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tl_taskneurons.runtime.errors import InputError, InputTypeError, did_you_mean

T = TypeVar("T")

# Tables hold seeds as signed 64-bit numbers.
MOST_SEED = 2**63 - 1


def settled(
    caller: str, cls: type[T], options: Mapping[str, Any], *, known: Collection[str] | None = None
) -> T:
    """Return the settings that keyword arguments give, with numbers as Python's own.

    Args:
        caller: the calling function, for messages.
        cls: a frozen dataclass whose fields are the options.
        options: what the caller gave.
        known: the options that the calling function has; by default all fields.

    Raises:
        InputTypeError: for an unknown option, with the nearest ones, or a value of another type.
    """
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type] (a dataclass)
    names = [name for name in names if known is None or name in known]
    for name in options:
        if name not in names:
            raise InputTypeError(f"{caller} has no option {name!r}{did_you_mean(name, names)}")
    check_types(cls, options)
    return cls(**plain(dict(options)))


def plain(value: Any) -> Any:
    """Return numbers as Python's own, those in lists, tuples and dicts too.

    JSON, generators of random numbers and ``repr`` take NumPy's otherwise than Python's.
    """
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def check_types(cls: type, values: Mapping[str, Any]) -> None:
    """Refuse values that are not of the types that a dataclass declares for its fields.

    NumPy's numbers count as numbers, a whole number as a real one, and truth values as neither.

    Raises:
        InputTypeError: naming the field, the value, and what it must be.
    """
    hints = _hints(cls)
    for name, value in values.items():
        if not _fits(value, hints[name]):
            raise InputTypeError(
                f"{name} is {_shown(value)} ({type(value).__name__}); it must be "
                f"{_said(hints[name])}."
            )


def require_number(
    name: str,
    value: Any,
    *,
    whole: bool = False,
    least: float | int | None = None,
    optional: bool = True,
) -> None:
    """Refuse what is no number.

    Args:
        name: the argument's.
        value: what was given.
        whole: whether it must be a whole number.
        least: the lowest that is allowed.
        optional: None passes, it stands for a default.

    Raises:
        InputTypeError: for another type.
        InputError: for less than the least.
    """
    kind = int if whole else float
    if not (value is None and optional) and not _fits(value, kind):
        raise InputTypeError(
            f"{name} is {_shown(value)} ({type(value).__name__}); it must be {_said(kind)}."
        )
    if value is not None and least is not None and not value >= least:
        raise InputError(f"{name} is {value}; it must be at least {least}.")


def require_kind(name: str, value: Any, kind: type | UnionType, instead: str) -> None:
    """Refuse what is of another kind.

    Args:
        name: the argument's.
        value: what was given.
        kind: what it must be.
        instead: the end of the message, what to give.

    Raises:
        InputTypeError: naming the argument, the value and its type.
    """
    if not isinstance(value, kind):
        raise InputTypeError(f"{name} is {_shown(value)} ({type(value).__name__}); {instead}.")


def require_seed(seed: Any) -> int:
    """Refuse what some generator or table could not take as a seed.

    Returns:
        The seed as Python's own number: generators take no other.

    Raises:
        InputTypeError: for what is no whole number.
        InputError: for one below 0, or above what tables hold.
    """
    require_number("seed", seed, whole=True, optional=False)
    if not 0 <= seed <= MOST_SEED:
        raise InputError(f"seed is {seed}; it must be from 0 to {MOST_SEED} (2**63 - 1).")
    return int(seed)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _fits(value: Any, hint: Any) -> bool:
    origin, inside = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inside)
    if origin is Literal:
        return value in inside
    if origin in (tuple, Sequence):
        listed = isinstance(value, Sequence | range) and not isinstance(value, str | bytes)
        return listed and all(_fits(one, inside[0]) for one in value)
    kind = origin or hint
    if kind in (int, float):
        number = Integral if kind is int else Real
        return isinstance(value, number) and not isinstance(value, bool)
    return isinstance(value, kind)


def _said(hint: Any) -> str:
    """Say a type in words."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(_said, inside)))
    if origin is Literal:
        return " or ".join(map(repr, inside))
    if origin in (tuple, Sequence):
        return f"a list, each element {_said(inside[0])}"
    words = {
        int: "a whole number", float: "a number", str: "a string", bool: "True or False",
        NoneType: "None", os.PathLike: "a path",
    }  # fmt: skip
    kind = origin or hint
    return words.get(kind, f"a {kind.__name__}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
