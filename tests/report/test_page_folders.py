"""Pages of any folder, without a model: what is taken from it, and tables of any content."""

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_pages import HOSTILE, PNG, Page

from tl_taskneurons.report.folder import read_folder
from tl_taskneurons.report.fragments import answers_of, rounded, table_html
from tl_taskneurons.report.page import write_report
from tl_taskneurons.runtime.run_folder import RunFolder
from tl_taskneurons.runtime.table_files import write_csv, write_table


def test_hostile_intervals_and_names_of_figures_stay_text(tmp_path: Path):
    frame = pd.DataFrame({"x": [1.0], "x_low": [HOSTILE], "x_high": [HOSTILE], "y": [2j]})
    read = Page(table_html("t", frame))
    assert [cell for cell, _ in read.tables["t"][1]] == ["1", HOSTILE, HOSTILE, "2j"]
    write_table(tmp_path / "t.parquet", frame.drop(columns="y"))
    (tmp_path / "<b onload=x>.png").write_bytes(PNG)
    text = write_report(tmp_path).read_text()
    assert "<b onload" not in text and HOSTILE not in text


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


def test_answers_that_are_numbers_stay_as_they_were_given(tmp_path: Path):
    answers = {"input": ["2+2", "1+1"], "target": ["004", "2"], "undisturbed": ["004", "2"]}
    frame = pd.DataFrame({**answers, "without x": ["004", ""]})
    write_csv(tmp_path / "sum_generations.csv", frame)
    (read,) = read_folder(tmp_path).tables.values()
    assert read.fillna("").to_dict("list") == frame.to_dict("list")
    assert answers_of("sum_generations", read).n_changed == {"without x": 1}


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
