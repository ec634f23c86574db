from pathlib import Path

import pandas as pd
import pytest

import tl_taskneurons as tn
from tl_taskneurons.analysis.search import GoalNotReachedWarning
from tl_taskneurons.cli import main

MINI = ["--model", "mini-llama", "--data", "mini", "--limit", "8", "--tasks"]


def test_curves_are_written_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "new"
    assert (
        main(["curves", *MINI, "mini_film,mini_news", "--metric", "loss", "--out", str(out)]) == 0
    )
    assert "cpr_neurons" in capsys.readouterr().out
    table = pd.read_csv(out / "mini_film_curves.csv")
    assert set(table["curve"]) == {"necessity", "sufficiency", "harm"}
    assert (out / "mini_film_curves.png").stat().st_size > 10_000
    assert (out / "mini_film_areas.csv").exists()


def test_a_set_is_found_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = str(tmp_path)
    arguments = ["find", *MINI, "mini_film,mini_news", "--out", out, "--goal", "0.2"]
    # Few neurons don't take it; the best set is written all the same.
    with pytest.warns(GoalNotReachedWarning):
        assert main([*arguments, "--harm", "0.5", "--budget", "16"]) == 0
    assert "take" in capsys.readouterr().out
    neurons = tn.NeuronSet.load(tmp_path / "mini_film.safetensors")
    assert 0 < len(neurons) <= 16
    assert set(pd.read_csv(tmp_path / "mini_film_search.csv")["step"]) >= {"grow"}
    assert len(pd.read_csv(tmp_path / "mini_film_neurons.csv")) == len(neurons)
    # Results of another command may lie beside them, and one page shows all.
    said = ["generate", *MINI, "mini_film", "--neurons", str(tmp_path / "mini_film.safetensors")]
    assert main([*said, "--examples", "2", "--max-new-tokens", "2", "--out", out]) == 0
    capsys.readouterr()
    assert main(["report", out, "--no-model"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert all(f'<section id="{name}">' in page for name in ("neurons", "answers", "figures"))
    assert "without mini_film" in page and '"found":{"mini_film"' in page
    assert "Unfinished" not in page


def test_one_task_is_not_enough(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert main(["find", *MINI, "mini_film", "--out", str(tmp_path)]) == 2
    assert "--tasks names 1; it needs at least 2" in capsys.readouterr().err
