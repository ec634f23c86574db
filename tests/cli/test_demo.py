"""The demo, with and without a search."""

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import helpers
import pandas as pd
import pytest

from tl_taskneurons.analysis.probe import Toll
from tl_taskneurons.analysis.search import FoundNeurons
from tl_taskneurons.cli import demo
from tl_taskneurons.cli import study as runs
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.tasks.prompts import Prompt


def read(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(folder / f"{name}.parquet")


def found_by_a_search(model: Any, task: Any, others: Any, **options: Any) -> FoundNeurons:
    """What a search gives, without one: a model with random weights can't do any task."""
    assert set(options["known"]) == {other.name for other in others}
    toll = {"value": 0.0, "taken": 1.0, "harm": 0.0, "worst": 0.0, "worst_task": "",
            "text_harm": 0.0}  # fmt: skip
    row = {"outside": 0.01, "step": "grow", "n_neurons": 2, "kept": True, **toll}
    neurons = NeuronSet.from_pairs(model, [(0, 1), (1, 2)], task.name)
    return FoundNeurons(neurons, True, Toll(**toll), pd.DataFrame([row]))


def test_the_demo_goes_without_a_search_where_the_model_can_not_do_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def refuse(*arguments: Any, **options: Any) -> None:
        raise InputError("the model can't do it")

    run = SimpleNamespace(file=lambda *parts: tmp_path.joinpath(*parts))
    settings = SimpleNamespace(prompt=Prompt())
    study: Any = SimpleNamespace(run=run, settings=settings, model=None, tasks=[helpers.toy_task()])
    monkeypatch.setattr(demo, "find_neurons", refuse)
    monkeypatch.setattr(demo.NeuronScores, "load", lambda path: path)
    tables: dict[str, pd.DataFrame] = {}
    assert inspect.unwrap(demo.add_found)(study, tables, 4) is tables
    assert "No search for few neurons: the model can't do it" in capsys.readouterr().out


def test_the_demo_runs_and_goes_on(tmp_path: Path, capsys, monkeypatch):
    # Wide enough that 1% of its neurons differ between tasks.
    wide = helpers.save_tiny("llama", tmp_path / "wide", intermediate_size=1024)
    arguments = ["--model", str(wide), "--out", str(tmp_path / "demo"), "--quick"]
    monkeypatch.setattr(demo, "find_neurons", found_by_a_search)
    first = demo.main(arguments)
    out = capsys.readouterr().out
    assert first == 0
    heads = ("First: present_past, its top 1%, on 4 examples", "as many random ones silenced",
             "Plain: the top", "Exclusive: in the top", "How to read it")  # fmt: skip
    places = [out.index(head, out.index("; the top 1%") + 12) for head in heads]
    assert places == sorted(places)  # each table as soon as it is known
    for text in (
        *demo.TASKS, "plain: silencing", "exclusive: silencing", "found.png",
        "found: silencing the 2 neurons that the search found costs present_past",
    ):  # fmt: skip
        assert text in " ".join(out.split())
    assert (tmp_path / "demo" / "found.png").exists()
    assert read(tmp_path / "demo", "found_matrix")["silenced"].unique().tolist() == [demo.TASKS[0]]
    assert (tmp_path / "demo" / "overview.png").exists()
    before = read(tmp_path / "demo", "deactivation_table")
    monkeypatch.setattr(runs, "evaluate_condition", None)  # everything is there already
    monkeypatch.setattr(demo, "evaluate_condition", None)
    monkeypatch.setattr(demo, "draw", lambda *arguments: [Path("overview.png")])
    assert demo.main(arguments) == 0
    pd.testing.assert_frame_equal(before, read(tmp_path / "demo", "deactivation_table"))
