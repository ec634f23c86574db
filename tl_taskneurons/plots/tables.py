"""What a table must be before it is drawn: columns, one row per cell, numbers."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from tl_taskneurons.runtime.errors import InputError, InputTypeError


def require(
    frame: pd.DataFrame, keys: Sequence[str], values: Sequence[str], *, also: Sequence[str] = ()
) -> None:
    """Refuse a table that cannot be drawn.

    Args:
        frame: the table.
        keys: columns that name a cell; no two rows may share all of them.
        values: columns of finite numbers.
        also: further columns of numbers that may be NaN, as an interval of one seed is.

    Raises:
        TypeError: for what is no table.
        ValueError: for missing columns, no rows, two rows for one cell, a value that is no
            finite number.
    """
    require_table(frame, keys, values)
    needed = dict.fromkeys([*keys, *values, *also])
    missing = [name for name in needed if name not in frame.columns]
    if missing:
        raise InputError(f"The table lacks the columns {missing}; it has {list(frame.columns)}.")
    if frame.empty:
        raise InputError(f"The table has 0 rows (columns: {list(frame.columns)}).")
    again = frame.duplicated(list(keys)) if keys else pd.Series(False, index=frame.index)
    if again.any():
        raise InputError(
            f"The table has two rows for {_cell(frame[again].iloc[0], keys)}; keep the rows of "
            "one selection, model and method."
        )
    for name in (*values, *also):
        if not is_numeric_dtype(frame[name]):
            raise InputError(f"The column {name!r} holds {frame[name].iloc[0]!r}, not numbers.")
    for name in values:
        bad = ~np.isfinite(frame[name].to_numpy(dtype=float))
        if bad.any():
            row = frame[bad].iloc[0]
            where = f" for {_cell(row, keys)}" if keys else ""
            raise InputError(
                f"The column {name!r} is {row[name]}{where} ({bad.sum()} of {len(frame)} rows are "
                "not finite); drop these rows or fill them."
            )


def require_table(frame: object, *columns: Iterable[str]) -> None:
    """Refuse what is no table.

    Args:
        frame: what was given.
        columns: those that a table would need, for the message.

    Raises:
        TypeError: naming what was given.
    """
    if not isinstance(frame, pd.DataFrame):
        text = repr(frame)
        needed = ", ".join(dict.fromkeys(name for some in columns for name in some))
        raise InputTypeError(
            f"Expected a table (pandas.DataFrame{' with ' + needed if needed else ''}), got "
            f"{text[:60]} ({type(frame).__name__}); the function's description names the one that "
            "makes its table, and read_table reads those of a run."
        )


def grid(frame: pd.DataFrame, rows: str, columns: str, values: str) -> pd.DataFrame:
    """Return one column of a tidy table as a matrix, in order of appearance.

    A cell that the table lacks is NaN.
    """
    table = frame.pivot(index=rows, columns=columns, values=values)
    return table.reindex(index=frame[rows].unique(), columns=frame[columns].unique())


def groups(
    frame: pd.DataFrame, columns: Sequence[str], *, joint: str = " \u2192 "
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Give the parts of a table, in order of appearance, each with its name.

    The name joins the values of the columns by ``joint``.
    Columns that the table lacks do not split it; without any there is one part, named ``""``.
    """
    present = [name for name in columns if name in frame.columns]
    if not present:
        yield "", frame
        return
    for key, part in frame.groupby(present, sort=False):
        yield joint.join(map(str, key)), part


def reach(frame: pd.DataFrame, value: str, low: str = "low", high: str = "high") -> np.ndarray:
    """Return how far the interval reaches below and above the value, ``[2, row]``."""
    middle = frame[value].to_numpy(dtype=float)
    ends = [frame[low].to_numpy(dtype=float), frame[high].to_numpy(dtype=float)]
    return np.stack([middle - ends[0], ends[1] - middle]).clip(min=0)  # not -1e-17


def _cell(row: pd.Series, keys: Sequence[str]) -> str:
    return " and ".join(f"{name} {_plain(row[name])!r}" for name in keys)


def _plain(value: object) -> object:
    """NumPy's numbers as Python's, which print without their type."""
    return value.item() if isinstance(value, np.generic) else value
