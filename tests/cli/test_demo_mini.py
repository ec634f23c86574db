from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from tl_taskneurons.builtin.mini.recipes import TWELVE
from tl_taskneurons.cli import demo_mini


class Here:
    """Stands in for a pool of processes, whose start takes many seconds."""

    def __init__(self, n: int, mp_context: Any) -> None:
        self.map = map

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *exception: object) -> None:
        pass


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks, one of each kind, in this process."""
    full = demo_mini.demo_settings

    def settings(model: str, *, quick: bool = False) -> Any:
        return replace(full(model, quick=quick), tasks=("mini_food", "mini_nature"), controls=1)

    monkeypatch.setattr(demo_mini, "demo_settings", settings)
    monkeypatch.setattr(demo_mini, "ProcessPoolExecutor", Here)


def test_settings_are_the_papers_twelve_tasks_with_five_controls_and_bare_prompts():
    for model in demo_mini.MODELS:
        settings = demo_mini.demo_settings(model)
        assert settings.tasks == TWELVE
        assert (settings.controls, settings.shots, settings.selections[0]) == (5, 0, "plain")


@pytest.mark.parametrize("model", demo_mini.MODELS)
def test_demo_ends_with_tables_pictures_and_findings(model, small, tmp_path, capsys):
    command = ["--quick", "--models", model, "--out", str(tmp_path / "run")]
    assert demo_mini.main(command) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "mini_nature" in shown and "plain: original" in shown and "columns of 2 by loss" in shown
    folder = tmp_path / "run" / model
    pictures = {f"{kind}-plain.png" for kind in ("bars", "matrix", "matrix-loss")}
    assert pictures <= {file.name for file in folder.iterdir()}
    items = pd.read_parquet(folder / "deactivation_items.parquet")
    nature = items[items["task"] == "mini_nature"]
    assert set(nature["metric"]) == {"rougeL"}
    assert nature["score"].between(0, 1).all()

    done = {file: file.stat().st_mtime_ns for file in (folder / "units").rglob("*.parquet")}
    assert demo_mini.main(command) == 0  # a second call computes nothing again
    assert {file: file.stat().st_mtime_ns for file in done} == done


def test_a_stop_is_no_traceback(small, monkeypatch, tmp_path, capsys):
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_mini, "study_model", stop)
    assert demo_mini.main(["--out", str(tmp_path)]) == 130
    assert "Call it again to go on" in capsys.readouterr().err


def test_findings_count_rows_and_columns():
    matrix = pd.DataFrame(
        {"silenced": ["a", "a", "b", "b"], "task": ["a", "b", "a", "b"], "selection": "plain",
         "loss_change": [3.0, 1.0, 1.0, 2.0], "change": [-0.5, -0.6, 0.0, -0.9]}
    )  # fmt: skip
    table = pd.DataFrame(
        {"selection": "plain", "original": [1.0, 0.9], "random": [0.9, 0.0],
         "silenced": [0.5, 0.1]}
    )  # fmt: skip
    (line,) = demo_mini.findings(table, matrix)
    assert "original 95, random neurons silenced 45, own 30 (own below random in 1 of 2" in line
    assert "2 rows and 2 columns of 2 by loss, in 1 and 2 by score" in line
