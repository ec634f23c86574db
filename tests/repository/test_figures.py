"""The scripts in figures/ draw the tables that the experiments write."""

import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from plotting import (
    alone_table,
    controlled_table,
    forgetting_table,
    neuron_table,
    one_overlap_table,
    overlap_table,
    set_table,
    share_table,
    sibling_table,
    silencing_table,
    similarity_table,
    training_table,
)

FOLDER = Path(__file__).parents[2] / "figures"
SCRIPTS: dict[str, tuple[Callable[[], pd.DataFrame], str]] = {
    "figure2": (share_table, "figure2_mini.csv"),
    "figure3": (similarity_table, "figure3_mini.csv"),
    "siblings": (sibling_table, "siblings_mini.csv"),
    "figure4": (forgetting_table, "figure4_mini.csv"),
    "figure5": (training_table, "figure5_trained_mini.csv"),
    "figure6": (alone_table, "figure6_mini.csv"),
    "table8": (overlap_table, "table8_mini.csv"),
    "tables9_11": (controlled_table, "tables9_11_mini.csv"),
    "overlap": (one_overlap_table, "overlap_mini.csv"),
    "faithfulness": (neuron_table, "faithfulness_mini.csv"),
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Run a script from a copy of the folder without its tables; return its exit status."""
    copy = tmp_path / "figures"
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns("*.csv", "*.p*g", "*.pdf"))
    monkeypatch.syspath_prepend(copy)

    def call(name: str, *arguments: str) -> object:
        monkeypatch.delitem(sys.modules, "drawing", raising=False)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(copy / f"{name}.py"), run_name="__main__")
        return stop.value.code

    return call


def pictures(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix in (".png", ".pdf"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_draws_the_tables_beside_it(run: Callable[..., object], name: str, tmp_path: Path):
    make, file = SCRIPTS[name]
    make().to_csv(tmp_path / "figures" / file, index=False)
    assert run(name) == 0
    stem = "figure5_trained_mini" if name == "figure5" else f"{name}_mini"
    assert pictures(tmp_path / "figures") == [f"{stem}.pdf", f"{stem}.png"]


def test_a_script_without_its_table_names_the_command(
    run: Callable[..., object], capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    assert run("figure2") == 0
    shown = capsys.readouterr().out
    assert "skipped, there is no figures/figure2_*.csv" in shown
    assert "tl-taskneurons reproduce --model mini-llama --only figure2" in shown
    assert pictures(tmp_path / "figures") == []


def test_a_table_that_was_named_must_be_there(
    run: Callable[..., object], capsys: pytest.CaptureFixture[str]
):
    assert run("figure2", "--table", "gone.csv") == 1
    assert "there is no table gone.csv" in capsys.readouterr().err


def test_several_models_and_selections_give_a_picture_each(
    run: Callable[..., object], tmp_path: Path
):
    cells = [("a", "plain"), ("a", "difference"), ("b", "plain"), ("b", "difference")]
    parts = [silencing_table().assign(model=m, selection=s, fraction=0.1) for m, s in cells]
    table = tmp_path / "some.csv"
    pd.concat(parts).to_csv(table, index=False)
    assert run("figure5", "--table", str(table), "--out", str(tmp_path / "out")) == 0
    expected = [f"figure5_some_{m}_{s}.{end}" for m, s in cells for end in ("pdf", "png")]
    assert pictures(tmp_path / "out") == sorted(expected)


def test_both_tables_of_faithfulness_are_drawn(run: Callable[..., object], tmp_path: Path):
    set_table().to_csv(tmp_path / "figures" / "faithfulness_sets.csv", index=False)
    assert run("faithfulness") == 0
    assert pictures(tmp_path / "figures") == ["faithfulness_sets.pdf", "faithfulness_sets.png"]
