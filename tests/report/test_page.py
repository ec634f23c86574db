import base64
import hashlib
import json
import os
import re
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import helpers
import pandas as pd
import pytest
import torch

from tl_taskneurons.analysis.explain import explain_neuron
from tl_taskneurons.cli import app as cli
from tl_taskneurons.cli import study as runs
from tl_taskneurons.report import page
from tl_taskneurons.report.folder import read_folder
from tl_taskneurons.report.fragments import rounded, table_html
from tl_taskneurons.report.page import write_report
from tl_taskneurons.report.view import choose, score_map_of
from tl_taskneurons.runtime.run_folder import RunFolder
from tl_taskneurons.runtime.table_files import read_json, write_csv, write_json, write_table
from tl_taskneurons.tasks.prompts import Prompt
from tl_taskneurons.tasks.task import Example, Task, Tasks

HOSTILE = '</script><b onload="x">&amp;'
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    return helpers.tiny_lens("llama", tokenizer=tokenizer)


@pytest.fixture(scope="module")
def tasks() -> Tasks:
    words = ("ash", "oak", "willow", "elm", "birch", "<i>fir</i>")

    def task(name: str, targets: list[str]) -> Task:
        examples = tuple(Example(*pair) for pair in zip(words, targets, strict=True))
        return Task(name, examples, examples, metric="exact_match")

    return Tasks(
        (task("upper", [w.upper() for w in words]), task(HOSTILE, [w[::-1] for w in words]))
    )


@pytest.fixture(scope="module")
def finished(model: Any, tasks: Tasks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of detect and deactivate on a tiny model; one of its tasks has a hostile name."""
    settings = runs.Settings(
        model="tiny", tasks=tasks.names, selections=("plain", "exclusive"), fraction=0.2, shots=1,
        limit=5, test_limit=2, controls=1,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("runs") / "finished"
    with RunFolder.open(
        folder, settings.arguments(deactivate=True), kind="detect/deactivate"
    ) as run:
        study = runs.Study(run, model, tasks, settings)
        runs.deactivate(study, runs.detect(study))
        (folder / "layers-plain.png").write_bytes(PNG)
        run.finish()
    return folder


@pytest.fixture
def report(finished: Path, model: Any, tasks: Tasks, tmp_path: Path, monkeypatch: Any):
    """Write a report of the finished run with its model, with changes; return it as text."""
    monkeypatch.setattr(page, "load_tasks", lambda data, names, columns=None: tasks)

    def make(**options: Any) -> str:
        out = tmp_path / "page.html"
        assert write_report(finished, **{"model": model, "out": out, **options}) == out
        return out.read_text(encoding="utf-8")

    return make


class Page(HTMLParser):
    """Reads a page; raises for tags that don't match."""

    VOID = frozenset({"meta", "img", "br", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[tuple[str, str | None]]]] = {}
        self.addresses: list[str] = []
        self.options: dict[str, list[str]] = {}
        self.ids: list[str] = []
        self.data = self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.addresses += [str(found[name]) for name in ("src", "href") if name in found]
        self.ids += [str(found["id"])] if "id" in found else []
        if tag == "table":
            self.tables[str(found["data-name"])] = []
        elif tag == "tr":
            list(self.tables.values())[-1].append([])
        elif tag in ("td", "th"):
            list(self.tables.values())[-1][-1].append(("", found.get("title")))
        if tag not in self.VOID:
            self.open.append((tag, found))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tags = [tag for tag, _ in self.open]
        if tags and tags[-1] == "script" and self.open[-1][1].get("id") == "data":
            self.data += data
        elif "td" in tags or "th" in tags:
            row = list(self.tables.values())[-1][-1]
            row[-1] = (row[-1][0] + data, row[-1][1])
        elif not {"script", "style"} & set(tags):
            self.text += data

    def json(self) -> Any:
        return json.loads(self.data)


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


def test_hostile_intervals_and_names_of_figures_stay_text(tmp_path: Path):
    frame = pd.DataFrame({"x": [1.0], "x_low": [HOSTILE], "x_high": [HOSTILE], "y": [2j]})
    read = Page(table_html("t", frame))
    assert [cell for cell, _ in read.tables["t"][1]] == ["1", HOSTILE, HOSTILE, "2j"]
    write_table(tmp_path / "t.parquet", frame.drop(columns="y"))
    (tmp_path / "<b onload=x>.png").write_bytes(PNG)
    text = write_report(tmp_path).read_text()
    assert "<b onload" not in text and HOSTILE not in text


def test_no_script_but_the_pages_own_runs(report: Any):
    text = report()
    digest = re.search(r"script-src 'sha256-([^']+)'", text)
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert digest and script
    own = hashlib.sha256(script.group(1).encode()).digest()
    assert base64.b64encode(own).decode() == digest.group(1)


def test_only_regular_files_of_the_folder_are_taken(tmp_path: Path):
    secret, run = tmp_path / "secret.png", tmp_path / "run"
    secret.write_bytes(PNG)
    run.mkdir()
    (run / "linked.png").symlink_to(secret)
    (run / "linked.csv").symlink_to(tmp_path / "secret.csv")
    (tmp_path / "secret.csv").write_text("a,b\nkey,word\n")
    (run / "text.png").write_text("not a picture")
    os.mkfifo(run / "pipe.png")
    (run / "own.csv").write_text("a\n1\n")
    read = Page(write_report(run).read_text())
    assert not any(address.startswith("data:") for address in read.addresses)
    assert set(read.tables) == {"own"} and "word" not in read.text
    for name in ("linked.png", "linked.csv", "pipe.png"):
        assert f"{name} is no regular file of this folder" in read.text
    assert "text.png: it is no PNG picture." in read.text


def test_choose_takes_the_best_of_each_layer_first():
    rows = [(0, 1, 9.0), (0, 2, 8.0), (0, 3, 7.0), (1, 4, 1.0), (2, 5, 0.5), (2, 6, 0.4)]
    frame = pd.DataFrame(rows, columns=["layer", "neuron", "score"])
    frame = frame.assign(task="a", selection="plain")
    picks = {n: choose(frame, n)["plain", "a"] for n in (2, 4, 99)}
    assert picks[2] == [(0, 1), (1, 4)]
    assert picks[4] == [(0, 1), (0, 2), (1, 4), (2, 5)]
    assert len(picks[99]) == 6


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123456, "0.1235"), (-3.0, "\u22123"), (1e-12, "1e\u221212"), (12, "12"),
     (1234567, "1,234,567"), (float("nan"), "\u2013"), (None, "\u2013"),
     (True, "True"), ("a", "a")],
)  # fmt: skip
def test_rounded(value: Any, text: str):
    assert rounded(value) == text


def test_a_long_table_is_cut_and_says_so():
    frame = pd.DataFrame({"k": range(1500), "x": 0.5})
    read = Page(table_html("long", frame))
    assert len(read.tables["long"]) == 1 + 100
    assert "The first 100 of 1,500 rows." in read.text


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


def test_a_csv_file_that_is_not_as_it_was_written_is_named(tmp_path: Path):
    write_csv(tmp_path / "own.csv", pd.DataFrame({"task": ["upper"], "score": [0.75]}))
    assert set(read_folder(tmp_path).tables) == {"own"}
    (tmp_path / "own.csv").write_text("task,score\nupper,0.95\n")
    found = read_folder(tmp_path)
    assert found.tables == {}
    assert len(found.damaged) == 1 and "own.csv is damaged or was changed" in found.damaged[0]


def test_other_commands_folders_give_a_page_too(tmp_path: Path):
    with RunFolder.open(tmp_path / "tune", {"model": "tiny", "steps": 3}) as run:
        write_table(
            run.file("history.parquet"), pd.DataFrame({"step": [1, 2], "loss": [2.5, 2.25]})
        )
        run.file("summary.csv").write_text("task,score\nupper,0.75\n")
        run.file("notes.pkl").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")  # never read
        run.file("loss.png").write_bytes(PNG)
        run.finish()
    read = Page(write_report(tmp_path / "tune").read_text())
    assert [row[1] for row in read.tables["history"][1:]] == [("2.5", "2.5"), ("2.25", "2.25")]
    assert read.tables["summary"][1][1] == ("0.75", "0.75")
    assert "neurons" not in read.ids and {"figures", "tables", "facts"} <= set(read.ids)
    assert read.json() is None and "Unfinished" not in read.text
    assert any(address.startswith("data:image/png") for address in read.addresses)


def test_figures_beyond_the_limit_are_named_only(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "b.png").write_bytes(PNG + bytes(3_000_000))
    file = write_report(tmp_path)
    assert file.stat().st_size < 100_000
    read = Page(file.read_text())
    assert "b.png is too large to be embedded (3.0 MB)" in read.text
    assert sum(address.startswith("data:") for address in read.addresses) == 1


def test_nothing_to_show_is_an_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="No folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nothing to show"):
        write_report(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file"):
        write_report(tmp_path / "file")
    with pytest.raises(ValueError, match="neurons is 0"):
        write_report(tmp_path, neurons=0)


def test_the_command_line(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "page.html"
    command = ["report", str(finished), "--file", str(out), "--neurons", "2"]
    assert cli.main([*command, "--no-model"]) == 0
    assert str(out) in capsys.readouterr().out.replace("\n", "")
    assert len(Page(out.read_text()).json()["sets"]["plain"]["upper"]["neurons"]) == 2
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--no-model" in error and "tasks can't be loaded" in error


def dom(file: Path, state: str, folder: Path) -> str:
    """The page as chromium has it after its script ran."""
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}",
         "--virtual-time-budget=2000", "--dump-dom", f"{file.as_uri()}#{state}"],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return done.stdout


def test_answers_stand_side_by_side_and_what_changed_is_marked(tmp_path: Path):
    answers = {"input": ["a", "b"], "target": ["x", "y"], "undisturbed": ["x", "y"],
               "without them": ["x", HOSTILE]}  # fmt: skip
    write_csv(tmp_path / "upper_generations.csv", pd.DataFrame(answers))
    text = write_report(tmp_path).read_text()
    read = Page(text)
    assert [cell for cell, _ in read.tables["upper_generations"][2]] == ["b", "y", "y", HOSTILE]
    assert text.count('class="changed"') == 1
    assert "without them: 1 of 2 answers change" in read.text
    assert "answers" in read.ids and "tables" not in read.ids and "<b onload" not in text


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


@pytest.mark.needs("chromium")
def test_a_browser_shows_the_chosen_neuron_and_sorts(report: Any, tmp_path: Path):
    data = Page(report()).json()
    layer = 1
    wanted = [e for e in data["sets"]["exclusive"][HOSTILE]["neurons"] if e["layer"] == layer]
    chosen = wanted[-1]
    state = (
        "task=%3C%2Fscript%3E%3Cb+onload%3D%22x%22%3E%26amp%3B&selection=exclusive"
        f"&layer={layer}&neuron={layer}.{chosen['neuron']}&tint=relevance"
        "&sort=deactivation_matrix:loss_change:desc"
    )
    text = dom(tmp_path / "page.html", state, tmp_path / "profile")
    assert re.search(r'<html[^>]* data-ready="\d+"', text)  # the script ran to its end
    read = Page(text)
    listed = [row[1][0] for row in read.tables["neurons-view"][1:]]
    assert listed == [str(entry["neuron"]) for entry in wanted]
    assert f"Layer {layer}, neuron {chosen['neuron']}" in read.text and HOSTILE in read.text
    assert text.count('aria-selected="true"') == 1
    assert "Layer 0 at the top" in read.text
    for one in chosen["examples"]:
        tokens = data["texts"][HOSTILE][str(one["text"])]["tokens"]
        assert "".join(tokens).replace("\n", "\u21b5") in read.text
        strongest = max(one["relevances"], key=abs)
        assert f"{'+' if strongest >= 0 else ''}{strongest:.3g}".replace("-", "\u2212")[:5] in text
    assert "rgba(var(--below), 0." in text and "rgba(var(--above), 0." in text
    heads, *rows = read.tables["deactivation_matrix"]
    column = [heading for heading, _ in heads].index("loss_change")
    values = [float(str(row[column][1]).split(" [")[0]) for row in rows]
    assert len(values) == 8 and values == sorted(values, reverse=True)
    assert "<b onload" not in text


@pytest.mark.needs("chromium")
def test_a_browser_shows_a_page_without_neurons(tmp_path: Path):
    (tmp_path / "table.csv").write_text("task,score\nb,2\na,10\nc,\n")
    file = write_report(tmp_path)
    text = dom(file, "sort=table:score:asc", tmp_path / "profile")
    assert re.search(r'<html[^>]* data-ready="\d+"', text)
    assert [row[0][0] for row in Page(text).tables["table"][1:]] == ["b", "a", "c"]
