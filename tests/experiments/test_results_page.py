import importlib
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from claim_tables import ask, deactivation, last_stage

from tl_taskneurons.experiments.claims import claims, frame

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "figures"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that writes the page; it lies outside the package."""
    monkeypatch.setattr(sys, "path", [str(FIGURES), *sys.path])
    return importlib.import_module("results_page")


@pytest.fixture
def copy(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tables, which the script reads in place of the published ones."""
    found = tmp_path / "figures"
    shutil.copytree(FIGURES, found, ignore=shutil.ignore_patterns("*.png", "*.pdf", "*.py"))
    monkeypatch.setattr(script, "HERE", found)
    monkeypatch.setattr(script.results_tables, "HERE", found)
    return found


def test_the_page_is_the_one_made_of_the_csv_files(script):
    assert script.page() == (ROOT / "RESULTS.md").read_text(encoding="utf-8")


def test_the_page_follows_its_tables(script, copy):
    before = script.page()
    for name, column in (("table2", "train_task"), ("table5", "cl")):
        file = copy / f"{name}_mini-llama.csv"
        table = pd.read_csv(file)
        table.assign(**{column: 0.98765}).to_csv(file, index=False)
        after = script.page()
        assert after != before, name
        before = after
    assert "98.8" in before


def test_verdicts_fill_the_first_screen(script, copy):
    (copy / "claims_mini-llama.csv").unlink(missing_ok=True)
    empty = script.page()
    assert "| C1 |" in empty and "| not run |" in empty
    rng = np.random.default_rng(0)
    rows = deactivation(rng, matches=("total", "layer"))
    found = [
        *ask("C1", deactivation=rows),
        *ask("C1", 0.0, deactivation=rows)[1:2],
        *claims({"rows": last_stage(rng).assign(alone=[0.1 * k for k in range(90)])}, ["C9"]),
    ]
    frame(found).to_csv(copy / "claims_mini-llama.csv", index=False)
    (copy / "figure2_mini-llama.png").touch()
    (copy / "table1_mini-llama.png").touch()
    page = script.page()
    lines = page.splitlines()
    silencing = next(line for line in lines if line.startswith("| C1 | silencing"))
    assert "**supported for all**, 12 of 12; +0.4" in silencing
    assert "power" in silencing
    assert silencing.count("not run") == 3  # the other models
    chain = next(line for line in lines if line.startswith("| C9 "))
    assert "not testable: methods were trained to different single-task scores" in chain
    others = next(line for line in lines if "controls by layer | mini-llama |" in line)
    assert others.startswith(
        "| C1 | silenced: 1.0%, plain, controls by layer | mini-llama | **supported"
    )
    # A picture of what was tested, and none of what was not.
    assert "figures/table1_mini-llama.png" in page
    assert "figures/figure2_mini-llama.png" not in page


def test_verdicts_of_the_first_version_do_not_count(script, copy):
    old = pd.DataFrame({"claim": ["C1"], "verdict": ["holds"], "effect": [0.5]})
    old.to_csv(copy / "claims_mini-llama.csv", index=False)
    assert "holds" not in script.page()


def test_every_picture_that_the_page_shows_is_there():
    page = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    shown = [line.split("](")[1].removesuffix(")") for line in page.splitlines()
             if line.startswith("![")]  # fmt: skip
    assert [name for name in shown if not (ROOT / name).exists()] == []
