import importlib
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from claim_tables import ask, deactivation, last_stage, similarity, trained

from tl_taskneurons.experiments.claims import claims, frame
from tl_taskneurons.experiments.claims.evidence import UNITS
from tl_taskneurons.runtime.table_files import write_csv

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "figures"
pytestmark = pytest.mark.needs("once")


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
    monkeypatch.setattr(importlib.import_module("results_cells"), "HERE", found)
    return found


def test_the_page_is_the_one_made_of_the_csv_files(script):
    assert script.page() == (ROOT / "RESULTS.md").read_text(encoding="utf-8")


def test_the_page_follows_its_tables(script, copy):
    for file in copy.glob("*_mini-bloom.csv"):
        file.unlink()
    before = script.page()
    for name, make in TABLES.items():
        write_csv(copy / f"{name}_mini-bloom.csv", make())
    page = script.page()
    assert page != before
    lines = [line for line in page.splitlines() if line.startswith("| mini-bloom")]
    passed = "trained | 10.0 | 60.0 | 50.0 | 3.00 | 1.00 | 2 of 2 | 1 |"
    assert any(passed in line for line in lines)
    assert any("1% | plain | 98.8 |" in line for line in lines)
    assert any("`ncft`, neutral instructions | 0.003 | 80 | 97.0 | 91.2" in line for line in lines)
    assert any("`ncft`" in line and line.endswith("| 93.4 | 71.3 |") for line in lines)
    start = (
        "a, neutral instructions | 4 | 60 | 50 | 25.0 | 20.0 | 60.0 [50.0, 70.0] | 9.00 | 1.00 |"
    )
    assert f"| mini-bloom | {start}" in lines
    ours = "`ncft` | 97.0 | 91.2 [91.2, 91.2] | 93.4"
    theirs = "`epi` | 97.0 | 99.0 [91.2, 91.2] | 93.4"
    assert f"| mini-bloom | 3 | 25.0 | 60.0 | {ours} | {theirs} |" in lines
    assert "| mini-bloom | commonest answer | | | | 25.0 | | | |" in lines
    assert "| mini-bloom | untrained | | | | 60.0 | | | |" in lines
    assert "| 1.0% | plain | 0.001 | +0.125 [+0.100, +0.150] (5 of 6) |" in page
    speed = "| mini-bloom | speed, 8 updates | 1% |"
    assert (
        f"{speed} classification | 3.000 | 2.000 | 1.750 | +0.250 | +0.250 to +0.250 | 1 of 1 |"
        in lines
    )
    assert (
        f"{speed} generation | 3.000 | 2.000 | 2.250 | -0.250 | -0.250 to -0.250 | 0 of 1 |"
        in lines
    )
    assert "| mini-bloom | b +0.30, a -0.10 |" in lines


def gates_table() -> pd.DataFrame:
    return pd.DataFrame(
        {"table": "trained", "task": ["a", "b"], "zero_shot_score": 0.1, "score": 0.6,
         "floor": 0.5, "zero_shot_loss": 3.0, "loss": 1.0, "by_loss": True,
         "by_score": [True, False]}
    )  # fmt: skip


def table1() -> pd.DataFrame:
    return pd.DataFrame(
        {"task": ["a", "b"], "selection": "plain", "fraction": 0.01, "sample": 0, "match": "total",
         "metric": ["accuracy", "rougeL"], "original": 0.98765, "random": 0.9, "silenced": 0.5,
         "loss": 1.0, "loss_rise": 2.0, "loss_rise_random": 0.1, "loss_rise_others": 0.5}
    )  # fmt: skip


def table2() -> pd.DataFrame:
    gains = np.array([0.25, -0.25, 0.0])
    return pd.DataFrame(
        {"task": ["a", "b", "c"], "question": "speed", "fraction": 0.01, "match": "total",
         "metric": ["accuracy", "rougeL", "rougeL"], "updates": 8, "lr_task": 2e-5,
         "lr_random": 2e-5, "zero_shot": 0.5, "train_random": 0.5, "train_task": 0.5,
         "loss_zero_shot": 3.0, "loss_random": 2.0, "loss_task": 2.0 - gains, "loss_gain": gains}
    )  # fmt: skip


def comparisons() -> pd.DataFrame:
    return pd.DataFrame({"claim": "C7", "what": ["a", "b"], "effect": [-0.1, 0.3]})


def rate_map() -> pd.DataFrame:
    about = {"fraction": 0.01, "match": "total", "lr": 0.001, "updates": 8}
    return pd.DataFrame([{**about, "gap": 0.125, "low": 0.1, "high": 0.15, "n_tasks": 6,
                          "n_above": 5}])  # fmt: skip


def rows_table() -> pd.DataFrame:
    line = {"instructions": "neutral", "method": "ncft", "order": "all", "lr": 0.003,
            "updates": 80, "alone": 0.97, "fg_paper": 0.934, "seeds": 3}  # fmt: skip
    spans = {f"{name}{end}": 0.912 for name in ("cl", "fg") for end in ("", "_low", "_high")}
    others = [
        {**line, **spans, "method": method, "cl": cl}
        for method, cl in (("o-lora", 0.8), ("seq-ft", 0.4), ("epi", 0.99), ("per-task", 1.0))
    ]
    return pd.DataFrame([{**line, **spans}, *others])


def start_table() -> pd.DataFrame:
    about = {
        "instructions": "neutral", "task": "a", "labels": 4, "n": 60, "different": 50,
        "guessing": 0.25,
    }  # fmt: skip
    return pd.DataFrame(
        [{**about, "start": "base", "score": 0.2, "loss": 9.0},
         {**about, "start": "primed", "score": 0.6, "low": 0.5, "high": 0.7, "loss": 1.0}]
    )  # fmt: skip


TABLES = {
    "table5_start": start_table,
    "gates": gates_table,
    "table1": table1,
    "table2": table2,
    "comparisons": comparisons,
    "rate_map": rate_map,
    "table5": rows_table,
}


def test_verdicts_fill_the_first_screen(script, copy):
    for file in copy.glob("claims_*.csv"):
        file.unlink()
    empty = script.page()
    assert "| C1 |" in empty and "mini-llama" in empty.partition("Not run yet: ")[2].splitlines()[0]
    rng = np.random.default_rng(0)
    rows = deactivation(rng, matches=("total", "layer"))
    found = [
        *ask("C1", deactivation=rows),
        *ask("C1", 0.0, deactivation=rows)[1:2],
        *ask("C2", trained=trained(rng, own=0.1, questions=("end point",))),
        *ask("C7", similarity=similarity(rng, seeds=1)),
        *claims({"rows": last_stage(rng).assign(alone=[0.1 * k for k in range(90)])}, ["C9"]),
    ]
    frame(found).to_csv(copy / "claims_mini-llama.csv", index=False)
    (copy / "figure2_mini-llama.png").touch()
    (copy / "table1_mini-llama.png").touch()
    page = script.page()
    lines = page.splitlines()
    silencing = next(line for line in lines if line.startswith("| C1 | Does silencing the 1%"))
    assert "**supported for all**, 12 of 12<br>+0.4" in silencing
    assert "power" not in silencing  # it is for what is inconclusive
    depth = next(line for line in lines if line.startswith("| C7 | "))
    assert "| **supported on average**<br>+0.3" in depth  # none is counted: one seed
    assert "Not run yet: " in page
    ended, scored = (
        next(line for line in lines if line.startswith(f"| C2 | {asked}"))
        for asked in ("After 16 updates", "The same by score")
    )
    by_loss, by_score = (
        next(v for v in found if v.claim == "C2" and v.unit == unit and v.n)
        for unit in UNITS.values()
    )
    assert by_loss.effect != by_score.effect
    assert f"{by_loss.effect:+.3f} [" in ended and f"{by_score.effect:+.3f} [" in scored
    chain = next(line for line in lines if line.startswith("| C9 "))
    assert "not testable [1]" in chain
    assert "[1] methods were trained to different single-task scores" in page
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


def test_where_more_families_were_asked_their_verdicts_come_first(script, copy):
    model = "mini-bloom"
    found = pd.read_csv(copy / f"claims_{model}.csv")
    folder = copy / "families"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    before = script.page().splitlines()
    asked = found[found["claim"] == "C8"].assign(effect=0.875, low=0.5, verdict="supported for all")
    asked.to_csv(folder / f"claims_{model}.csv", index=False)
    gates_table().to_csv(folder / f"gates_{model}.csv", index=False)
    after = script.page().splitlines()
    first, last = (
        next(line for line in page if line.startswith("| C8 |")) for page in (before, after)
    )
    assert "+0.88 [+0.50," in last and "+0.88" not in first
    others = [line for line in after if line.startswith("| C8 | fewer families | mini-bloom |")]
    assert len(others) == 1 and first.split(" | ")[-1].split("<br>")[1] in others[0]
    assert sum("--only figure3,table4" in line for line in after) == 1
    assert any(line.startswith("| mini-bloom, more families | trained |") for line in after)


def test_a_map_with_more_updates_has_its_own_table_and_command(script, copy):
    folder = copy / "longer"
    for own in (folder, copy / "longest"):
        shutil.rmtree(own, ignore_errors=True)
    folder.mkdir()
    before = script.page()
    assert "more updates" not in before and "--map-updates" not in before
    for name in ("rate_map", "rate_map_tasks"):
        shutil.copy(copy / f"{name}_mini-bloom.csv", folder)
    after = script.page()
    whole = before[before.index("| mini-bloom: share") :].splitlines()
    own = after[after.index("| mini-bloom, more updates: share") :].splitlines()
    assert own[2] == whole[2]
    assert "--model mini-bloom \\\n    --out runs/reproduce/longer-mini-bloom" in after
    updates = sorted(pd.read_csv(folder / "rate_map_mini-bloom.csv")["updates"].unique())
    assert f"--map-updates {','.join(map(str, updates))}" in after


def test_rows_of_a_command_of_their_own_come_first_beside_those_of_before(script, copy):
    model, folder = "mini-bloom", copy / "rows"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    before = script.page()
    assert "--row-test 34" not in before
    for name in ("table5", "table5_rates"):
        shutil.copy(copy / f"{name}_{model}.csv", folder)
    found = pd.read_csv(copy / f"claims_{model}.csv")
    found[found["claim"] == "C9"].assign(effect=0.875, low=0.5, high=0.9).to_csv(
        folder / f"claims_{model}.csv", index=False
    )
    after = script.page()
    assert "--row-test 34" in after
    lines = after.splitlines()
    assert "+0.88 [+0.50, +0.90]" in next(line for line in lines if line.startswith("| C9 |"))
    assert any(line.startswith("| C9 | one rate: chain | mini-bloom |") for line in lines)
    for start in ("| mini-bloom | `ncft`,", "| mini-bloom, chosen rates | `ncft`,"):
        assert any(line.startswith(start) for line in lines), start
