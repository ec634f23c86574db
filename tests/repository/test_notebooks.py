import getpass
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
# What these are run with here, in a minute; `make notebooks` runs all four with a real model.
FEW = """
MODEL, PROMPT, FRACTION = "mini-llama", tn.Prompt(shots=0), 0.05
TASKS = tn.load_tasks("mini", ["mini_food", "mini_scenes", "mini_people"], limit=100)
"""
PAIRS = """
MODEL, PROMPT, FRACTION = "mini-llama", tn.Prompt(shots=0), 0.05
PAIRS = [("mini_food", "mini_film"), ("mini_news", "mini_sport")]
KNOWN = tn.load_tasks("mini", [name for pair in PAIRS for name in pair], limit=100)
"""
SHORT = {"1_find_task_neurons": FEW, "2_test_them": FEW, "3_understand_and_use_them": PAIRS}
NAMES = (*SHORT, "4_subject_verb_agreement")
MOST_BYTES = 600_000

every = pytest.mark.parametrize("name", NAMES)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def outputs(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [output for cell in code_cells(notebook) for output in cell["outputs"]]


def pictures(notebook: dict[str, Any]) -> list[str]:
    return [o["data"]["image/png"] for o in outputs(notebook) if "image/png" in o.get("data", {})]


def complaints(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        output
        for output in outputs(notebook)
        if output["output_type"] == "error" or output.get("name") == "stderr"
    ]


def texts(notebook: dict[str, Any]) -> list[Any]:
    """All that is in a notebook but its pictures."""
    shown = [
        {kind: text for kind, text in output.get("data", output).items() if kind != "image/png"}
        for output in outputs(notebook)
    ]
    return [notebook["metadata"], [cell["source"] for cell in notebook["cells"]], shown]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_a_notebook_runs_from_top_to_bottom(name, tmp_path):
    path = Path(shutil.copy(FOLDER / f"{name}.ipynb", tmp_path))
    script = FOLDER / "execute.py"
    done = subprocess.run(
        [sys.executable, str(script), str(path), "--settings", SHORT[name]],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    run, committed = read(path), read(FOLDER / f"{name}.ipynb")
    assert complaints(run) == []
    assert len(pictures(run)) == len(pictures(committed))
    assert [bool(cell["outputs"]) for cell in code_cells(run)] == [
        bool(cell["outputs"]) for cell in code_cells(committed)
    ]


@every
def test_a_committed_notebook_was_run_once_in_order(name):
    notebook = read(FOLDER / f"{name}.ipynb")
    counts = [cell["execution_count"] for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert complaints(notebook) == []
    assert len(pictures(notebook)) >= 3


@every
def test_a_committed_notebook_is_small_and_tells_nothing_of_the_machine(name):
    path = FOLDER / f"{name}.ipynb"
    assert path.stat().st_size < MOST_BYTES
    shown = json.dumps(texts(read(path)))
    assert not re.search(r"(?<![\w.<])/(home|root|tmp|usr|work|var|opt|Users)/", shown)
    assert not re.search(rf"[/\\]{re.escape(getpass.getuser())}\b", shown)


@every
def test_it_installs_the_package_only_where_it_is_missing(name):
    first, *others = code_cells(read(FOLDER / f"{name}.ipynb"))
    source = "".join(first["source"])
    assert source.index("if find_spec(") < source.index("    %pip install")
    assert not any("%" in line[:1] for cell in others for line in cell["source"])


@every
def test_the_readme_lists_the_notebook(name):
    assert f"({name}.ipynb)" in (FOLDER / "README.md").read_text(encoding="utf-8")
