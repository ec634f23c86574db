"""Data of one's own: tables, files and folders in the forms in which people have them."""

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest

from tl_taskneurons.loading.tasks import load_tasks, task_from_dicts
from tl_taskneurons.tasks.task import Task

ROWS = [{"text": f"film {i}", "mood": ("bad", "good")[i % 2]} for i in range(9)]
COLUMNS = {"text": "input", "mood": "label"}


def features() -> datasets.Features:
    return datasets.Features(
        {"text": datasets.Value("string"), "mood": datasets.ClassLabel(names=["bad", "good"])}
    )


def data_set() -> datasets.Dataset:
    return datasets.Dataset.from_list(
        [{**row, "mood": ("bad", "good").index(row["mood"])} for row in ROWS], features=features()
    )


def write_csv(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_every_source_of_the_same_rows_gives_the_same_task(tmp_path: Path):
    expected = task_from_dicts("film", ROWS, columns=COLUMNS)
    assert expected.labels == ("bad", "good") and len(expected.train) == 6
    numbered = [{"text": row["text"], "mood": i % 2} for i, row in enumerate(ROWS)]
    sources: dict[str, Any] = {
        "list": ROWS,
        "generator": (row for row in ROWS),
        "frame": pd.DataFrame(ROWS),
        "categories": pd.DataFrame(ROWS).astype({"mood": "category"}),
        "data set": data_set(),
        "torch rows": data_set().with_format("torch"),
        "one split": datasets.DatasetDict({"train": data_set()}),
    }
    for what, source in sources.items():
        assert load_tasks(source, "film", columns=COLUMNS)[0] == expected, what
    for source in (numbered, pd.DataFrame(numbered), pd.DataFrame(numbered).astype("object")):
        found = load_tasks(source, "film", columns=COLUMNS, labels=["bad", "good"])
        assert found[0] == expected
    arrays = [{"text": r["text"], "mood": np.int64(r["mood"])} for r in numbered]
    assert load_tasks(arrays, "film", columns=COLUMNS, labels=["bad", "good"])[0] == expected
    for name, delimiter in (("film.csv", ","), ("film.tsv", "\t"), ("semi.csv", ";")):
        path = write_csv(tmp_path / name, ROWS, delimiter)
        assert load_tasks(path, "film", columns=COLUMNS)[0] == expected, name
    path = tmp_path / "film.json"
    path.write_text(json.dumps(ROWS), encoding="utf-8")
    assert load_tasks(path, columns=COLUMNS)[0] == expected


def test_numbers_without_names_are_labels_of_their_own():
    rows = [{"input": f"x{i}", "label": i % 11} for i in range(22)]
    assert load_tasks(rows)[0].labels == tuple(map(str, range(11)))
    (task,) = load_tasks([{"input": f"{i} + 1", "target": i + 1} for i in range(4)])
    assert {e.target for e in (*task.train, *task.test)} == {"1", "2", "3", "4"}


def test_splits_and_streams():
    both = datasets.DatasetDict({"train": data_set(), "validation": data_set().select([0, 1])})
    with pytest.warns(UserWarning, match="2 of 9 train examples in .* are in the test split as"):
        (task,) = load_tasks(both, "film", columns=COLUMNS)
    assert (len(task.train), len(task.test)) == (7, 2)
    stream = data_set().to_iterable_dataset()
    with pytest.raises(ValueError, match=r"stream of rows .* limit=\.\.\."):
        load_tasks(stream, columns=COLUMNS)
    (task,) = load_tasks(stream, columns=COLUMNS, limit=2)
    assert (len(task.train), len(task.test)) == (2, 2)
    with pytest.raises(ValueError, match=r"splits are \['test'\]; there must be one called"):
        load_tasks({"test": ROWS}, columns=COLUMNS)
    named = load_tasks({"film": pd.DataFrame(ROWS), "other": ROWS}, columns=COLUMNS)
    assert named.names == ("film", "other") and named[0].train == named[1].train


def test_folders_and_lists_of_files(tmp_path: Path):
    write_jsonl(tmp_path / "one.jsonl", ROWS)
    write_csv(tmp_path / "two.csv", ROWS)
    assert load_tasks(tmp_path, columns=COLUMNS).names == ("one", "two")
    assert load_tasks(tmp_path, ["two"], columns=COLUMNS).names == ("two",)
    with pytest.raises(ValueError, match="No task 'tow' in .*did you mean 'two'"):
        load_tasks(tmp_path, ["tow"], columns=COLUMNS)
    paths = [tmp_path / "two.csv", tmp_path / "one.jsonl"]
    assert load_tasks(paths, columns=COLUMNS).names == ("two", "one")
    assert load_tasks(paths, ["a", "b"], columns=COLUMNS).names == ("a", "b")
    with pytest.raises(ValueError, match="There are 2 files, but names has 1"):
        load_tasks(paths, ["a"], columns=COLUMNS)
    mood = tmp_path / "mood"
    mood.mkdir()
    write_jsonl(mood / "train.jsonl", ROWS[:6])
    write_jsonl(mood / "test.jsonl", ROWS[6:])
    (task,) = load_tasks(mood, columns=COLUMNS)
    assert (task.name, len(task.train), len(task.test)) == ("mood", 6, 3)


def test_no_path_leads_out_of_its_folder(tmp_path: Path):
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    inner.mkdir()
    outer.mkdir()
    for split in ("train", "test"):
        write_jsonl(outer / f"{split}.jsonl", [{"input": split, "target": "x"}])
    (inner / "tasks.json").write_text('{"../outer": {}, "link": {}}', encoding="utf-8")
    (inner / "link").symlink_to(outer)
    for name in ("../outer", "link"):
        with pytest.raises(ValueError, match="leads out of the folder"):
            load_tasks(inner, name)


def test_cells_of_a_csv_hold_lists(tmp_path: Path):
    rows = [
        {"input": f"x{i}", "target": "red", "references": cell, "wrong": ""}
        for i, cell in enumerate(["rot|rouge", '["rot", "a|b"]', "", "rot"])
    ]
    (task,) = load_tasks(write_csv(tmp_path / "c.csv", rows))
    found = {e.input: e.references for e in (*task.train, *task.test)}
    assert found == {
        "x0": ("red", "rot", "rouge"), "x1": ("red", "rot", "a|b"), "x2": (), "x3": ("red", "rot"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (ROWS, {}, "has no 'input', only"),
        (ROWS, {"columns": {"txt": "input"}}, "no column 'txt' in .*did you mean 'text'"),
        (ROWS, {"columns": {"text": "inptu"}}, "no field of ours; did you mean 'input'"),
        (ROWS, {"columns": COLUMNS, "metrik": "loss"}, "no option 'metrik'; did you mean 'metric'"),
        (ROWS, {"columns": COLUMNS, "labels": ["bad", "best"]}, "unknown label 'good'"),
        ([{"input": "a", "target": "b", "refernces": ["c"]}] * 2, {},
         "unknown field 'refernces'; did you mean 'references'"),
        ([{"input": "same", "target": "x"}] * 6, {}, "All examples .* are the same"),
        ([{"input": "a", "target": float("nan")}] * 2, {}, "'target' is NaN, an empty cell"),
        (pd.DataFrame({"input": ["a", "b"], "target": ["x", None]}), {}, "row 1 .*no 'target'"),
        (pd.DataFrame({"input": ["a", "b"], "target": "x", "references": [["y"], np.nan]}), {},
         "row 1 .*'references' is nan"),
        ([{"input": "a\ud800", "target": "x"}, {"input": "b", "target": "x"}], {},
         "row 0 .* half a character"),
        (3, {}, "is '3' .int.; give a list of dicts, a DataFrame"),
        (pd.Series([1, 2]), {}, "is a Series; give a DataFrame"),
        ({}, {}, "mapping of tables is empty"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_what_was_found_and_what_is_needed(source, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        load_tasks(source, **options)


def test_fields_that_nothing_reads_are_told_for_rows_of_ours(tmp_path: Path):
    rows = [{"input": f"{i}", "target": "x", "id": i} for i in range(4)]
    with pytest.warns(UserWarning, match=r"fields \['id'\] in .* are not read"):
        load_tasks(write_jsonl(tmp_path / "t.jsonl", rows))
    load_tasks(pd.DataFrame(rows))  # tables have more columns than a task


def test_bad_csv_names_the_line(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_text("input,target\na,b\nc,d,e\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"t\.csv, line 3 has more cells than the 2 columns"):
        load_tasks(path)
    path.write_text('input,target\na,b\nc,"d\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"t\.csv is not CSV from line 3 on"):
        load_tasks(path)


def test_a_name_has_no_control_characters():
    examples = load_tasks(ROWS, columns=COLUMNS)[0].train
    with pytest.raises(ValueError, match=r"name 'a\\x1b\[31m' holds a control character"):
        Task("a\x1b[31m", examples, examples, labels=("bad", "good"))
    for name in ("../x", "a/b", "长" * 40, "two words"):
        assert load_tasks(ROWS, name, columns=COLUMNS)[name].name == name
