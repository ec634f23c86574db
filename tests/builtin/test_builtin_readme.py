import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from minis.scores import measure
from tl_taskneurons.builtin.mini import mini_task
from tl_taskneurons.builtin.mini.recipes import RECIPES, TWELVE
from tl_taskneurons.builtin.mini_models import mini_model_names
from tl_taskneurons.evaluation.tables import deactivation_matrix, deactivation_table

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "figures"
README = (ROOT / "tl_taskneurons" / "builtin" / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that writes the tables; it lies outside the package."""
    monkeypatch.setattr(sys, "path", [str(FIGURES), *sys.path])
    return importlib.import_module("builtin_tables")


def test_every_table_is_the_one_made_of_the_csv_files(tables):
    assert tables.filled(README) == README
    assert len(tables.blocks()) == 5
    changed = re.sub(r"(\| mini_food \(accuracy\) \|) [0-9.]+", r"\1 12.3", README)
    assert changed != README
    assert tables.filled(changed) == README
    with pytest.raises(ValueError, match=r"0 places for the table 'planted'"):
        tables.filled(README.replace("<!-- planted -->", ""))


def test_scores_meet_what_the_miniature_promises():
    scores = pd.read_csv(FIGURES / "mini_scores.csv")
    assert tuple(scores["model"].unique()) == mini_model_names()
    mean = scores[scores["task"].isin(TWELVE)].groupby(["model", "metric"])["score"].mean()
    for kind in ("llama", "bloom"):
        assert mean[f"mini-{kind}", "accuracy"] >= 0.94
        assert mean[f"mini-{kind}", "rougeL"] >= 0.85
        for metric in ("accuracy", "rougeL"):
            assert mean[f"mini-{kind}-base", metric] < mean[f"mini-{kind}", metric] - 0.1


@pytest.mark.parametrize("task", ["mini_food", "mini_groups"])
def test_written_scores_are_those_of_the_weights(task):
    written = pd.read_csv(FIGURES / "mini_scores.csv").set_index(["model", "task"])["score"]
    for row in measure(tasks=[task]).to_dict("records"):
        assert row["score"] == pytest.approx(written[row["model"], task], abs=0.011), row


def test_one_example_of_each_task_is_shown_as_the_grammar_makes_them():
    for name in TWELVE:
        (line,) = [line for line in README.splitlines() if line.startswith(f"| `{name}` ")]
        _, task, family, _, answer, _ = (cell.strip() for cell in line.split("|"))
        assert family == RECIPES[name].family
        task = mini_task(name, n_train=0, n_test=5)
        assert answer in task.labels if task.labels else answer.endswith((".", "?"))


def test_markdown_has_every_task_and_the_means_over_them(tables):
    rows = [
        {"model": model, "task": task, "score": 0.5 if RECIPES[task].labels else value}
        for model, value in (("one", 0.25), ("two", 1.0))
        for task in RECIPES
    ]
    lines = tables.scores_markdown(pd.DataFrame(rows)).splitlines()
    assert lines[0] == "| task | one | two |"
    assert "| mini_food (accuracy) | 50.0 | 50.0 |" in lines
    assert "| **mean of the six generation tasks** | 25.0 | 100.0 |" in lines
    assert len(lines) == 2 + len(RECIPES) + 3


@pytest.fixture
def collect(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that collects runs."""
    monkeypatch.setattr(sys, "path", [str(FIGURES), *sys.path])
    return importlib.import_module("mini")


def made_up_items() -> pd.DataFrame:
    """Two siblings of two items; film's neurons hurt food more than film."""
    left = {
        ("", "none", -1): {"mini_food": 1.0, "mini_film": 1.0},
        ("mini_food", "task", -1): {"mini_food": 0.2, "mini_film": 0.6},
        ("mini_film", "task", -1): {"mini_food": 0.0, "mini_film": 0.5},
        ("mini_food", "random", 0): {"mini_food": 0.9},
        ("mini_food", "random", 1): {"mini_food": 0.7},
        ("mini_food", "random", 2): {"mini_food": 0.8},
        ("mini_film", "random", 0): {"mini_film": 0.5},
        ("mini_film", "random", 1): {"mini_film": 0.3},
        ("mini_film", "random", 2): {"mini_film": 0.4},
    }
    return pd.DataFrame(
        [{"silenced": silenced, "kind": kind, "seed": seed, "task": task, "item": item,
          "metric": "accuracy", "score": score, "loss": 2 - score, "n_neurons": 5}
         for (silenced, kind, seed), scores in left.items()
         for task, score in scores.items() for item in range(2)]
    )  # fmt: skip


def test_means_over_tasks_count_wins_and_take_the_interval_over_seeds(collect):
    items = made_up_items()
    cell = {"model": "m", "fraction": 0.1, "selection": "plain"}
    table, matrix = (
        deactivation_table(items).assign(**cell),
        deactivation_matrix(items).assign(**cell),
    )
    other = items.assign(model="m", fraction=0.1, selection="rank", score=0.0)
    (row,) = collect.means(table, matrix, pd.concat([items.assign(**cell), other])).to_dict(
        "records"
    )
    assert (row["original"], row["silenced"]) == (1.0, pytest.approx(0.35))
    assert row["random"] == pytest.approx(0.6)
    reach = 4.302653 * 0.1 / 3**0.5  # Student's t with two degrees of freedom; .5, .6 and .7
    assert (row["random_low"], row["random_high"]) == pytest.approx((0.6 - reach, 0.6 + reach))
    assert (row["tasks"], row["below_random"]) == (2, 1)  # food: .2 < .8; film: .5 > .4
    assert (row["rows"], row["columns"]) == (1, 1)
    assert (row["loss_rows"], row["loss_columns"]) == (1, 1)
    assert (row["family_rows"], row["family_columns"]) == (2, 2)


def test_written_means_are_those_of_the_written_table():
    table = pd.read_csv(FIGURES / "mini_deactivation.csv")
    means = pd.read_csv(FIGURES / "mini_deactivation_mean.csv")
    assert set(table["model"]) == {"mini-llama", "mini-bloom"}
    assert (table.groupby(["model", "fraction", "selection"])["task"].nunique() == 12).all()
    for row in means.to_dict("records"):
        keys = ("model", "fraction", "selection")
        part = table[(table[list(keys)] == [row[key] for key in keys]).all(axis=1)]
        for name in ("original", "random", "silenced"):
            assert row[name] == pytest.approx(part[name].mean(), abs=1e-3)
        assert row["below_random"] == (part["silenced"] < part["random"]).sum()
