"""Sphinx's settings. `make docs` builds the site; every example runs while it does."""

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.errors import ExtensionError

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
html_math_renderer = "mathml"  # below: formulas show without a network
html_static_path = ["_static"]
html_css_files = ["formulas.css", "tables.css"]
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


def _formula(writer: Any, node: nodes.Element) -> None:
    """Write a formula as MathML, which browsers show by themselves."""
    kind = "block" if isinstance(node, nodes.math_block) else "inline"
    try:
        writer.body.append(convert(node.astext(), display=kind))
    except Exception as error:
        where = f"{writer.builder.current_docname}: {node.astext()}"
        raise ExtensionError(f"latex2mathml can't read the formula of {where}", error) from error
    raise nodes.SkipNode


def _needs_no_network(app: Any, exception: Exception | None) -> None:
    """Refuse pages that load something from elsewhere: they would be incomplete offline."""
    if exception is not None or app.builder.name != "html":
        return
    loads = re.compile(
        r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=[\"'](?:https?:)?//[^>]*>"
    )
    for page in sorted(Path(app.outdir).rglob("*.html")):
        if found := loads.search(page.read_text(encoding="utf-8")):
            raise ExtensionError(f"{page.name} loads something from the network: {found[0]}")


def setup(app: Any) -> None:
    """Register what is above."""
    app.add_html_math_renderer("mathml", (_formula, None), (_formula, None))
    app.connect("build-finished", _needs_no_network)
    app.connect("autodoc-process-docstring", _plain_bars)


(HERE / "reference_of_names.md").write_text(_reference(), encoding="utf-8")
