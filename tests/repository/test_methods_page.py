"""The page that says which method is best is made of tables."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that writes the page; it lies outside the package."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "figures"), *sys.path])
    return importlib.import_module("methods_page")


def test_the_page_is_the_one_made_of_the_csv_files(script: ModuleType):
    written = ROOT / "docs" / "which_method.md"
    assert script.page() == written.read_text(encoding="utf-8")


def test_the_four_neurons_of_find_md_are_those_of_the_table():
    table = pd.read_csv(ROOT / "figures" / "methods_search_gemma-3-270m.csv")
    own = table[(table["task"] == "english_french") & (table["set"] == "find_neurons")]
    (row,) = own.to_dict("records")
    text = " ".join((ROOT / "docs" / "find.md").read_text(encoding="utf-8").split())
    assert row["n_neurons"] == 4
    assert (
        f"four neurons, of layers 0 to 12, take English to French from {row['plain']:.0f}% to "
        f"{row['left']:.0f} and cost the others {row['others_lose']:.1f} points"
    ) in text


def test_it_counts_the_tasks_that_meet_the_aim(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = []
    for task, taken, lost in (("one", 0.95, 1.0), ("two", 0.95, 3.0), ("three", 0.5, 0.0)):
        rows.append(("find_neurons", task, 20, taken, lost))
        rows += [(f"{how}, as many", task, 20, 0.2, 5.0) for how in ("exclude", "top", "random")]
        rows.append(("the first of find_neurons", task, 1, 0.1, float("nan")))
    table = pd.DataFrame(rows, columns=["set", "task", "n_neurons", "taken", "others_lose"])
    table.assign(plain=80.0, left=10.0).to_csv(tmp_path / "methods_search_some.csv", index=False)
    monkeypatch.setattr(script, "HERE", tmp_path)
    text = script.page()
    assert "1 of 3 tasks: at most 50 neurons" in text
    assert "| one | 80% | 20 | 10% | 95% | 1.0 | 20% / 5.0 | 20% / 5.0 | 20% |" in text
    assert "| one | 10% |" in text and "Rankings by method" not in text


def test_rankings_are_means_over_tasks_the_most_specific_first(script: ModuleType):
    columns = ("necessity", "harm", "sufficiency", "spearman", "forward_passes")
    rows = [
        {"task": task, "method": method, "specificity": value, **dict.fromkeys(columns, 0.5)}
        for task, method, value in (
            ("one", "grad_act", 0.1), ("one", "relp", 0.3), ("two", "grad_act", 0.9),
            ("two", "relp", 0.2),
        )
    ]  # fmt: skip
    lines = script.ranking("some", pd.DataFrame(rows)).splitlines()
    assert "2 tasks: one, two." in lines
    table = [line for line in lines if line.startswith("| ")][1:]
    assert table == [
        "| grad_act | 0.50 | 0.50 | 0.50 | 0.50 | 0.50 | 0.5 | 1 |",
        "| relp | 0.50 | 0.50 | 0.25 | 0.50 | 0.50 | 0.5 | 1 |",
    ]
