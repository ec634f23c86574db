"""What the page shows of plain data: facts, tables, figures. The templates escape all of it."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from tl_taskneurons.analysis.generations import PLAIN
from tl_taskneurons.report.folder import ANSWERS

# The same in all rows of a table: said once above it.
_COMMON = (
    "model", "revision", "fingerprint", "method", "fraction", "seed", "run_seed", "ablation",
)  # fmt: skip
_MOST_ROWS = 1000
_PREVIEW_ROWS = 100
_FIGURE_BYTES = 2_800_000  # base64 makes 3.7 MB of them, which leaves room in a page of 5 MB
_ABOUT = {
    "deactivation_table": "Each task's score with all neurons, with random ones silenced and with "
    "its own silenced, and how specific that is. 95% intervals in brackets.",
    "deactivation_matrix": "What silencing each task's neurons changes in every task.",
    "deactivation_items": "Every answer to every item.",
    "layers": "How many of each task's neurons lie in each layer, and their share.",
    "neurons": "Every selected neuron with its score.",
    "overlap": "Which neurons sets share, beside what chance would give.",
}
# The same of tables that several tasks have, by the end of their name.
_ABOUT_KIND = {
    "_curves": "What is left of the task without its top neurons, and with these alone; what "
    "silencing them costs others.",
    "_areas": "The areas under these curves.",
    "_search": "Every set that the search tried, in order.",
    "_neurons": "The neurons that the search found.",
}


@dataclass(frozen=True)
class Cell:
    """One cell: what it shows, an interval behind it, and the tooltip."""

    text: str
    numeric: bool = False
    title: str = ""
    span: str = ""


@dataclass(frozen=True)
class Table:
    """A table: its name, a sentence or two, columns (heading, whether numbers) and cells."""

    name: str
    notes: str
    columns: list[tuple[str, bool]]
    rows: list[list[Cell]]


@dataclass(frozen=True)
class Answers:
    """Answers of a model undisturbed and changed, side by side.

    Attributes:
        name: the task.
        columns: the headings.
        rows: cells: the text, and whether it differs from the undisturbed answer.
        n_changed: how many answers do, by heading of what changed the model.
    """

    name: str
    columns: list[str]
    rows: list[list[tuple[str, bool]]]
    n_changed: dict[str, int]


@dataclass(frozen=True)
class Figure:
    """A figure: its PNG in base64, or none where that is too large."""

    name: str
    size: str
    content: str = ""
    wide: bool = False


@cache
def templates() -> Environment:
    """Return the page's templates; they escape whatever is put in."""
    return Environment(
        loader=PackageLoader("tl_taskneurons.report", ""), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=StrictUndefined,
    )  # fmt: skip


def table_html(name: str, frame: pd.DataFrame) -> str:
    """Return one table as the page has it."""
    macro: Any = templates().get_template("parts.html").module
    return str(macro.data_table(table_of(name, frame)))


def facts_of(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return names and values of each group as text."""
    return {
        title: {str(name): _plain(value) for name, value in facts.items()}
        for title, facts in groups.items()
    }


def table_of(name: str, frame: pd.DataFrame) -> Table:
    """Return a sortable table: numbers rounded, with the raw value as tooltip.

    Columns ``x``, ``x_low`` and ``x_high`` of numbers become one, ``x [low, high]``. Of a table
    beyond 1,000 rows only the first 100 are shown.
    """
    common = {
        column: frame[column].iloc[0]
        for column in _COMMON
        if len(frame) > 1 and column in frame and frame[column].astype(str).nunique() == 1
    }
    numeric = {column for column in frame if _holds_numbers(frame[column])}
    spans = {c: (f"{c}_low", f"{c}_high") for c in frame if {f"{c}_low", f"{c}_high"} <= numeric}
    hidden = {*common, *(end for pair in spans.values() for end in pair)}
    columns = [column for column in frame if column not in hidden]
    shown = frame if len(frame) <= _MOST_ROWS else frame.head(_PREVIEW_ROWS)
    rows = [
        [_cell(row, column, spans.get(column), column in numeric) for column in columns]
        for row in shown.to_dict("records")
    ]
    about = _ABOUT.get(name) or next(
        (says for kind, says in _ABOUT_KIND.items() if name.endswith(kind)), ""
    )
    notes = [about] if about else []
    if len(shown) < len(frame):
        notes.append(f"The first {len(shown)} of {len(frame):,} rows.")
    else:
        notes.append(f"{len(frame):,} {'row' if len(frame) == 1 else 'rows'}.")
    if common:
        listed = (f"{column} {_plain(value)}" for column, value in common.items())
        notes.append(f"In all rows: {', '.join(listed)}.")
    return Table(name, " ".join(notes), [(str(c), c in numeric) for c in columns], rows)


def answers_of(name: str, frame: pd.DataFrame) -> Answers:
    """Return the table of ``compare_generations`` as the page has it."""
    columns = [str(column) for column in frame.columns]
    changed = [column not in ("input", "target", PLAIN) for column in columns]
    plain = columns.index(PLAIN)
    told = frame.head(_PREVIEW_ROWS).fillna("").astype(str).to_numpy().tolist()
    rows = [
        [(text, other and text != row[plain]) for text, other in zip(row, changed, strict=True)]
        for row in told
    ]
    counts = {
        column: sum(row[k][1] for row in rows) for k, column in enumerate(columns) if changed[k]
    }
    return Answers(name.removesuffix(ANSWERS), columns, rows, counts)


def is_answers(name: str, frame: pd.DataFrame) -> bool:
    """Whether a table is one of answers side by side."""
    return name.endswith(ANSWERS) and {"input", "target", PLAIN} <= {*frame.columns}


def figures_of(figures: Mapping[str, bytes]) -> list[Figure]:
    """Return the figures to embed, as many as fit into the page; the overview first."""
    found, left = [], _FIGURE_BYTES
    for name, content in sorted(figures.items(), key=lambda pair: (pair[0] != "overview", pair[0])):
        size = f"{len(content) / 1e6:.1f} MB"
        if len(content) > left:
            found.append(Figure(name, size))
            continue
        left -= len(content)
        encoded = base64.b64encode(content).decode()
        found.append(Figure(name, size, encoded, _is_wide(content)))
    return found


def json_script(data: Any) -> str:
    """Return data as JSON that no text in it can break out of a script element with."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def rounded(value: Any, digits: int = 4) -> str:
    """Return a value as it is shown: a number with so many digits."""
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "\u2013"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    is_float = isinstance(value, float)
    text = (
        f"{value:.{digits}g}" if is_float else f"{value:,}" if abs(value) >= 10_000 else str(value)
    )
    return text.replace("-", "\u2212")


def _cell(row: dict[Any, Any], column: Any, span: tuple[str, str] | None, numeric: bool) -> Cell:
    value = row[column]
    if not numeric:
        text = rounded(value)
        return Cell(text, title=text if len(text) > 40 else "")
    if pd.isna(value):
        return Cell("\u2013", numeric=True)
    title, shown = repr(value), ""
    if span is not None and not (pd.isna(row[span[0]]) or pd.isna(row[span[1]])):
        low, high = row[span[0]], row[span[1]]
        title += f" [{low!r}, {high!r}]"
        shown = f"[{rounded(low, 3)}, {rounded(high, 3)}]"
    return Cell(rounded(value), True, title, shown)


def _holds_numbers(values: pd.Series) -> bool:
    kinds = pd.api.types
    is_number = kinds.is_numeric_dtype(values) and not kinds.is_bool_dtype(values)
    return is_number and not kinds.is_complex_dtype(values)


def _is_wide(png: bytes) -> bool:
    """Whether a figure is far from square; its size stands at a fixed place in a PNG."""
    width, height = int.from_bytes(png[16:20]), int.from_bytes(png[20:24])
    return width > 1.9 * height or height > 1.2 * width


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "\u2013" if value is None else str(value)
