import importlib
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "figures"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that writes the page; it lies outside the package."""
    monkeypatch.setattr(sys, "path", [str(FIGURES), *sys.path])
    return importlib.import_module("results_page")


def test_the_page_is_the_one_made_of_the_csv_files(script):
    assert script.page() == (ROOT / "RESULTS.md").read_text(encoding="utf-8")


def test_the_page_follows_its_tables(script, tmp_path, monkeypatch):
    copy = tmp_path / "figures"
    shutil.copytree(FIGURES, copy, ignore=shutil.ignore_patterns("*.png", "*.pdf", "*.py"))
    monkeypatch.setattr(script, "HERE", copy)
    before = script.page()
    for name, column in (("table2", "train_task"), ("claims", "effect"), ("table5", "cl")):
        file = copy / f"{name}_mini-llama.csv"
        table = pd.read_csv(file)
        table.assign(**{column: 0.98765}).to_csv(file, index=False)
        after = script.page()
        assert after != before, name
        before = after
    assert "98.8" in before and "+0.988" in before


def test_every_model_has_all_that_was_published():
    for model in ("mini-llama", "mini-bloom"):
        for name in ("claims", "comparisons", "table1", "table2", "table4", "table5", "table8"):
            assert (FIGURES / f"{name}_{model}.csv").exists(), (name, model)
        claims = pd.read_csv(FIGURES / f"claims_{model}.csv")
        assert list(claims["claim"]) == [f"C{k}" for k in range(1, 12)]
        assert set(claims["verdict"]) <= {"holds", "fails", "not tested"}


def test_every_picture_that_the_page_shows_is_there():
    page = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    shown = [line.split("](")[1].removesuffix(")") for line in page.splitlines()
             if line.startswith("![")]  # fmt: skip
    assert len(shown) > 10
    assert [name for name in shown if not (ROOT / name).exists()] == []
