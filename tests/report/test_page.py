"""The page of a run of detect and deactivate: its tables, its facts and its view of neurons."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import helpers
import pandas as pd
import pytest
import torch
from report_pages import HOSTILE, Page

from tl_taskneurons.analysis.explain import explain_neuron
from tl_taskneurons.cli import app as cli
from tl_taskneurons.report import page
from tl_taskneurons.report.fragments import rounded, table_html
from tl_taskneurons.report.page import write_report
from tl_taskneurons.report.view import choose, score_map_of
from tl_taskneurons.runtime.table_files import read_json, write_csv, write_json
from tl_taskneurons.tasks.prompts import Prompt
from tl_taskneurons.tasks.task import Tasks


def test_the_page_needs_nothing_beside_it(report: Any):
    text = report()
    read = Page(text)
    assert len(read.ids) == len(set(read.ids))
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in read.addresses)
    assert "Content-Security-Policy" in text and "default-src 'none'" in text
    assert not re.search(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttp", text)
    assert {"neurons", "figures", "tables", "facts"} <= set(read.ids)


def test_every_number_of_the_tables_is_there(report: Any, finished: Path):
    tables = Page(report()).tables
    for name in ("deactivation_table", "deactivation_matrix", "layers", "neurons"):
        frame = pd.read_parquet(finished / f"{name}.parquet")
        heads, *rows = tables[name]
        assert len(rows) == len(frame)
        for k, (heading, _) in enumerate(heads):
            for row, value in zip(rows, frame[heading].tolist(), strict=True):
                shown, title = row[k]
                if isinstance(value, str):
                    assert shown == value
                elif pd.isna(value):
                    assert shown == "\u2013" and title is None
                else:
                    assert shown.split(" [")[0] == rounded(value)
                    assert float(str(title).split(" [")[0]) == value
                    if f"{heading}_low" in frame and "[" in shown:
                        ends = json.loads(str(title).split(" ", 1)[1])
                        at = rows.index(row)
                        assert ends == [frame[f"{heading}_{e}"][at] for e in ("low", "high")]
        hidden = set(frame) - {heading for heading, _ in heads}
        assert all(frame[c].nunique() == 1 or str(c).endswith(("_low", "_high")) for c in hidden)


def test_the_facts_are_there(report: Any, model: Any, finished: Path):
    text = Page(report()).text
    run = json.loads((finished / "run.json").read_text())
    for fact in ("finished", run["facts"]["fingerprint"], run["facts"]["tasks_digest"], "0.2",
                 run["sessions"][0]["versions"]["torch"], run["sessions"][0]["time"][:10],
                 "transformer-lens", "plain, exclusive", HOSTILE):  # fmt: skip
        assert fact in text
    assert "Unfinished" not in text


def test_the_view_lists_what_explain_neurons_says(report: Any, model: Any, tasks: Tasks, finished):
    data = Page(report(neurons=4)).json()
    frame = pd.read_parquet(finished / "neurons.parquet")
    assert data["layers"] == 2 and set(data["sets"]) == {"plain", "exclusive"}
    for selection, by_task in data["sets"].items():
        assert list(by_task) == list(tasks.names)
        for name, listed in by_task.items():
            part = frame[(frame["selection"] == selection) & (frame["task"] == name)]
            assert listed["counts"] == [int((part["layer"] == k).sum()) for k in range(2)]
            assert len(listed["neurons"]) == min(4, len(part))
            for entry in listed["neurons"]:
                row = part[(part["layer"] == entry["layer"]) & (part["neuron"] == entry["neuron"])]
                assert entry["score"] == row["score"].item()
                both = frame[frame["selection"] == selection]
                others = both[
                    (both["layer"] == entry["layer"]) & (both["neuron"] == entry["neuron"])
                ]
                assert sorted([*entry["shared"], name]) == sorted(others["task"])
                assert entry["scores"][name] == pytest.approx(entry["score"], rel=1e-2)
            entry = listed["neurons"][0]
            told = explain_neuron(
                model, (entry["layer"], entry["neuron"]), tasks[name], limit=5,
                prompt=Prompt(shots=1),
            )  # fmt: skip
            assert [token for token, _ in entry["promoted"]] == [t for t, _ in told.promoted]
            assert [token for token, _ in entry["suppressed"]] == [t for t, _ in told.suppressed]
            assert entry["seen"] == 5
            for one, shown in zip(entry["examples"], told.examples, strict=True):
                text = data["texts"][name][str(one["text"])]
                assert one["text"] == shown.index
                assert text["tokens"] == list(shown.tokens[shown.own :])
                assert text["answer"] == shown.answer - shown.own
                for key in ("activations", "relevances"):
                    wanted = list(getattr(shown, key)[shown.own :])
                    assert one[key] == pytest.approx(wanted, rel=1e-2, abs=1e-9)


def test_hostile_names_and_tokens_stay_text(report: Any):
    text = report()
    assert HOSTILE not in text and "<i>fir" not in text
    data = Page(text).json()
    assert HOSTILE in data["sets"]["plain"]
    assert "".join(data["texts"]["upper"]["4"]["tokens"]).startswith("birch")
    frame = pd.DataFrame({HOSTILE: [HOSTILE, "a"], "n": [1, 2]})
    read = Page(table_html(HOSTILE, frame))
    assert read.tables == {HOSTILE: [[(HOSTILE, None), ("n", None)], [(HOSTILE, None), ("1", "1")],
                                     [("a", None), ("2", "2")]]}  # fmt: skip


def test_no_script_but_the_pages_own_runs(report: Any):
    text = report()
    digest = re.search(r"script-src 'sha256-([^']+)'", text)
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert digest and script
    own = hashlib.sha256(script.group(1).encode()).digest()
    assert base64.b64encode(own).decode() == digest.group(1)


def test_choose_takes_the_best_of_each_layer_first():
    rows = [(0, 1, 9.0), (0, 2, 8.0), (0, 3, 7.0), (1, 4, 1.0), (2, 5, 0.5), (2, 6, 0.4)]
    frame = pd.DataFrame(rows, columns=["layer", "neuron", "score"])
    frame = frame.assign(task="a", selection="plain")
    picks = {n: choose(frame, n)["plain", "a"] for n in (2, 4, 99)}
    assert picks[2] == [(0, 1), (1, 4)]
    assert picks[4] == [(0, 1), (0, 2), (1, 4), (2, 5)]
    assert len(picks[99]) == 6


def test_without_texts_no_model_is_loaded_and_the_page_says_so(report: Any, monkeypatch: Any):
    monkeypatch.setattr(page, "load_model", None)
    read = Page(report(model=None, texts=False))
    assert "Texts and tokens are left out" in read.text
    entry = read.json()["sets"]["plain"]["upper"]["neurons"][0]
    assert "examples" not in entry and entry["score"] > 0


def test_another_model_or_changed_tasks_are_refused(
    report: Any, tasks: Tasks, tokenizer: Any, monkeypatch: Any
):
    other = helpers.tiny_lens("llama", seed=1, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="belongs to model"):
        report(model=other)
    changed = Tasks((replace(tasks[0], instruction="Other."), tasks[1]))
    monkeypatch.setattr(page, "load_tasks", lambda data, names, columns=None: changed)
    with pytest.raises(ValueError, match="have changed since the run.*--no-model"):
        report()


def test_a_model_that_is_gone_is_named_with_the_way_out(report: Any):
    with pytest.raises(ValueError, match=r"model 'tiny' can't be loaded.*--no-model"):
        report(model=None)


def test_an_unfinished_run_gives_a_page_that_says_what_is_missing(finished: Path, tmp_path: Path):
    part = tmp_path / "part"
    part.mkdir()
    write_json(part / "run.json", {**read_json(finished / "run.json"), "status": "stopped"})
    for name in ("neurons", "layers"):
        (part / f"{name}.parquet").write_bytes((finished / f"{name}.parquet").read_bytes())
    text = Page(write_report(part, texts=False).read_text()).text
    assert "Unfinished run. The run's status is 'stopped', with 0 units of work done" in text
    assert "deactivation_table.parquet, deactivation_matrix.parquet" in text
    (part / "layers.parquet").write_bytes(b"PAR1 and nothing else")
    (part / "run.json").write_text("{")
    read = Page(write_report(part).read_text())  # it doesn't know which model to load
    assert "Could not be read: layers.parquet" in read.text
    assert "run.json is missing or damaged" in read.text
    assert "run.json doesn't say which model" in read.text
    assert "neurons" in read.tables


def test_the_command_line(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "page.html"
    command = ["report", str(finished), "--file", str(out), "--neurons", "2"]
    assert cli.main([*command, "--no-model"]) == 0
    assert str(out) in capsys.readouterr().out.replace("\n", "")
    assert len(Page(out.read_text()).json()["sets"]["plain"]["upper"]["neurons"]) == 2
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--no-model" in error and "tasks can't be loaded" in error


def test_the_view_has_reliability_scores_of_all_and_what_a_search_found(
    report: Any, finished: Path
):
    found = pd.DataFrame({"layer": [1, 0], "neuron": [3, 5], "task": "upper", "selection": "found",
                          "score": [0.5, 0.25]})  # fmt: skip
    write_csv(finished / "upper_neurons.csv", found)
    try:
        data = Page(report()).json()
    finally:
        (finished / "upper_neurons.csv").unlink()
    listed = data["sets"]["found"]["upper"]["neurons"]
    assert [(one["layer"], one["neuron"]) for one in listed] == [(1, 3), (0, 5)]
    assert listed[0]["examples"]
    layers = pd.read_parquet(finished / "layers.parquet")
    own = layers[(layers["selection"] == "plain") & (layers["task"] == "upper")]
    share = own["split_half"].iloc[0]
    assert data["sets"]["plain"]["upper"]["returns"] == pytest.approx(share, abs=1e-3)
    assert "returns" not in data["sets"]["found"]["upper"]
    assert set(data["maps"]) == {"upper", HOSTILE}


def test_a_map_holds_sizes_over_four_decades_and_neighbours_share_columns():
    made = score_map_of(torch.tensor([[-1.0, 0.1, 0.0], [1e-4, 1e-6, 0.001]]))
    assert (made["columns"], made["step"], made["largest"]) == (3, 1, 1.0)
    assert list(base64.b64decode(made["sizes"])) == [255, 191, 0, 0, 0, 64]
    wide = torch.zeros(1, 600)
    wide[0, 5] = 2.0
    made = score_map_of(wide)
    assert (made["columns"], made["step"]) == (200, 3)
    assert base64.b64decode(made["sizes"])[:3] == bytes([0, 255, 0])
    assert set(base64.b64decode(score_map_of(torch.zeros(1, 2))["sizes"])) == {0}
