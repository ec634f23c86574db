"""Sphinx's settings. `make docs` builds the site; every example runs while it does."""

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tl_taskneurons

HERE = Path(__file__).parent

project = "tl-taskneurons"
author = "tl-taskneurons authors"
copyright = "2026, tl-taskneurons authors"  # noqa: A001 (Sphinx calls it so)
release = tl_taskneurons.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
]
intersphinx_mapping: dict = {}  # nothing is fetched while building
html_theme = "furo"
html_title = "tl-taskneurons"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_output_stderr = "remove"  # bars and notices of other libraries
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": False}
napoleon_google_docstring = True
napoleon_use_ivar = True
exclude_patterns = ["reference_of_names.md"]

_ROOMS = {
    "loading": "Load models and tasks", "tasks": "Tasks and prompts", "models": "Models",
    "neurons": "Scores, sets and interventions", "evaluation": "Evaluation",
    "analysis": "Analysis", "training": "Training", "continual": "Tasks in a row",
    "report": "Report", "runtime": "Errors and processes",
}  # fmt: skip


def _reference() -> str:
    """Return the reference of every public name, room by room, from the package's stub."""
    stub = Path(tl_taskneurons.__file__).with_name("__init__.pyi")
    rooms: dict[str, list[str]] = {}
    for node in ast.parse(stub.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [alias.name for alias in node.names]
            rooms.setdefault(node.module.split(".")[0], []).extend(names)
    parts = []
    for room in [*_ROOMS, *(room for room in rooms if room not in _ROOMS)]:
        if room not in rooms:
            continue
        parts.append(f"## {_ROOMS.get(room, room.capitalize())}\n")
        for name in rooms[room]:
            found = getattr(tl_taskneurons, name)
            if isinstance(found, Mapping | tuple):
                parts.append(_choices(name, found))
                continue
            kind = "class" if isinstance(found, type) else "function"
            parts.append(f"```{{eval-rst}}\n.. auto{kind}:: tl_taskneurons.{name}\n```\n")
    return "\n".join(parts)


def _choices(name: str, table: Mapping[str, Any] | tuple[str, ...]) -> str:
    """Return a table of what can be chosen by name."""
    if isinstance(table, tuple):
        return f"### `tn.{name}`\n\n" + ", ".join(f"`{each}`" for each in table) + "\n"
    rows = "\n".join(
        f"| `{key}` | {str(says).replace('|', '&#124;')} |" for key, says in table.items()
    )
    return f"### `tn.{name}`\n\n| name | what it says |\n|---|---|\n{rows}\n"


def _plain_bars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:  # noqa: ARG001 (Sphinx)
    """Escape the bars of absolute values, which reStructuredText takes for substitutions."""
    lines[:] = [
        "".join(
            part if i % 2 else part.replace("|", "\\|")
            for i, part in enumerate(re.split(r"(``.*?``)", line))
        )
        for line in lines
    ]


def setup(app: Any) -> None:
    """Register what is above."""
    app.connect("autodoc-process-docstring", _plain_bars)


(HERE / "reference_of_names.md").write_text(_reference(), encoding="utf-8")
