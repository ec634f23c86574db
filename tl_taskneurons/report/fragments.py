"""Pieces of the page made from plain data: facts, tables, figures. Everything is escaped."""

import base64
import json
from collections.abc import Mapping
from html import escape
from typing import Any

import pandas as pd

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
}


def facts_html(groups: Mapping[str, Mapping[str, Any]]) -> str:
    """Return lists of names and values, one for each group."""
    parts = []
    for title, facts in groups.items():
        rows = "".join(
            f"<dt>{escape(str(name))}</dt><dd>{escape(_plain(value))}</dd>"
            for name, value in facts.items()
        )
        parts.append(f'<div class="facts"><h3>{escape(title)}</h3><dl>{rows}</dl></div>')
    return "".join(parts)


def table_html(name: str, frame: pd.DataFrame) -> str:
    """Return a sortable table: numbers rounded, with the raw value as tooltip.

    Columns ``x``, ``x_low`` and ``x_high`` become one, ``x [low, high]``. Of a table beyond 1,000
    rows only the first 100 are shown.
    """
    common = {
        column: frame[column].iloc[0]
        for column in _COMMON
        if len(frame) > 1 and column in frame and frame[column].nunique(dropna=False) == 1
    }
    spans = {c: (f"{c}_low", f"{c}_high") for c in frame if {f"{c}_low", f"{c}_high"} <= {*frame}}
    hidden = {*common, *(end for pair in spans.values() for end in pair)}
    columns = [column for column in frame if column not in hidden]
    shown = frame if len(frame) <= _MOST_ROWS else frame.head(_PREVIEW_ROWS)
    kinds = pd.api.types
    numeric = {
        c for c in columns
        if kinds.is_numeric_dtype(frame[c]) and not kinds.is_bool_dtype(frame[c])
    }  # fmt: skip
    headings = "".join(
        f'<th scope="col"{_right(c in numeric)} aria-sort="none">'
        f'<button type="button">{escape(str(c))}</button></th>'
        for c in columns
    )
    body = "".join(
        "<tr>" + "".join(_cell(row, c, spans.get(c), c in numeric) for c in columns) + "</tr>"
        for row in shown.to_dict("records")
    )
    notes = [_ABOUT[name]] if name in _ABOUT else []
    if len(shown) < len(frame):
        notes.append(f"The first {len(shown)} of {len(frame):,} rows.")
    else:
        notes.append(f"{len(frame):,} {'row' if len(frame) == 1 else 'rows'}.")
    if common:
        listed = (f"{column} {_plain(value)}" for column, value in common.items())
        notes.append(f"In all rows: {', '.join(listed)}.")
    return (
        f'<section class="table" id="table-{escape(name, quote=True)}"><h3>{escape(name)}</h3>'
        f'<p class="note">{escape(" ".join(notes))}</p><div class="scroll"><table class="data" '
        f'data-name="{escape(name, quote=True)}"><thead><tr>{headings}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></section>"
    )


def figures_html(figures: Mapping[str, bytes]) -> str:
    """Return the figures as embedded images, as many as fit into the page."""
    parts, left = [], _FIGURE_BYTES
    for name, content in sorted(figures.items(), key=lambda pair: (pair[0] != "overview", pair[0])):
        label = escape(name, quote=True)
        if len(content) > left:
            parts.append(
                f"<figure><figcaption>{label}.png is too large to be embedded "
                f"({len(content) / 1e6:.1f} MB); open it in the run folder.</figcaption></figure>"
            )
            continue
        left -= len(content)
        data = base64.b64encode(content).decode()
        width = ' class="wide"' if _is_wide(content) else ""
        parts.append(
            f'<figure{width}><img alt="{label}" src="data:image/png;base64,{data}">'
            f"<figcaption>{label}</figcaption></figure>"
        )
    return "".join(parts)


def json_script(data: Any) -> str:
    """Return data as JSON that no text in it can break out of a script element with."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def rounded(value: Any) -> str:
    """Return a value as it is shown: four digits for a number."""
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "\u2013"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    is_float = isinstance(value, float)
    text = f"{value:.4g}" if is_float else f"{value:,}" if abs(value) >= 10_000 else str(value)
    return text.replace("-", "\u2212")


def _cell(row: dict[Any, Any], column: Any, span: tuple[str, str] | None, numeric: bool) -> str:
    value = row[column]
    if not numeric:
        text = rounded(value)
        title = f' title="{escape(text, quote=True)}"' if len(text) > 40 else ""
        return f"<td{title}>{escape(text)}</td>"
    if pd.isna(value):
        return '<td class="number">\u2013</td>'
    title, text = repr(value), rounded(value)
    if span is not None and not (pd.isna(row[span[0]]) or pd.isna(row[span[1]])):
        low, high = row[span[0]], row[span[1]]
        title += f" [{low!r}, {high!r}]"
        text += f" <small>[{rounded(low)}, {rounded(high)}]</small>"
    return f'<td class="number" title="{title}">{text}</td>'


def _is_wide(png: bytes) -> bool:
    """Whether a figure needs the whole width: its size stands at a fixed place in a PNG."""
    width, height = int.from_bytes(png[16:20]), int.from_bytes(png[20:24])
    return width > 1.9 * height


def _right(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "\u2013" if value is None else str(value)
