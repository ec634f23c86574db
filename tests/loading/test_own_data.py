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
    with pytest.warns(
        UserWarning, match="2 of 9 train examples in .* have an input of the test split"
    ):
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


def test_numbers_are_names_of_labels_or_places_in_all_rows_alike(tmp_path: Path):
    stars = ["1", "2", "3", "4", "5"]

    def targets(numbers: list[Any], labels: list[str]) -> list[str]:
        rows = [
            {"input": f"x{k}", "label": n, "split": "test" if k else "train"}
            for k, n in enumerate(numbers)
        ]
        (task,) = load_tasks(rows, "t", labels=labels)
        return [example.target for example in (*task.train, *task.test)]

    assert targets([0, 1, 2, 3, 4], stars) == stars  # as of data sets that count stars from 0
    assert targets([5, 1, 2, 3, 4], stars) == ["5", "1", "2", "3", "4"]
    assert targets([1, "0", 1.0], ["0", "1"]) == ["1", "0", "1"]
    with pytest.raises(ValueError, match=r"the numbers \[1, 4\], which are names in .* places"):
        targets([1, 4], stars)
    with pytest.raises(ValueError, match="the label is 5, but the labels are numbered from 0 to 4"):
        targets([0, 5], stars)
    rows = [{"input": f"x{k}", "label": k % 2} for k in range(6)]
    (task,) = load_tasks(write_csv(tmp_path / "t.csv", rows), labels=["bad", "good"])
    assert {e.input: e.target for e in (*task.train, *task.test)}["x1"] == "good"


def test_nothing_is_dropped_without_a_word(tmp_path: Path):
    with pytest.raises(ValueError, match=r"columns makes 'input' of \['text', 'mood'\]"):
        load_tasks(ROWS, columns={"text": "input", "mood": "input"})
    write_jsonl(tmp_path / "one.jsonl", ROWS)
    write_csv(tmp_path / "one.csv", ROWS)
    with pytest.raises(ValueError, match=r"holds one\.csv and one\.jsonl, two files of one name"):
        load_tasks(tmp_path, columns=COLUMNS)


def test_no_input_is_in_both_splits():
    answers = [{"input": f"fruit {k // 3}", "target": f"{k}"} for k in range(12)]
    (task,) = load_tasks(answers, "fruit")
    assert not {e.input for e in task.train} & {e.input for e in task.test}
    assert len(task.train) + len(task.test) == 12
    rows = [
        {"input": "a ", "target": "x", "split": "train"},
        {"input": "b", "target": "x", "split": "train"},
        {"input": "a", "target": "y", "split": "test"},
    ]
    with pytest.warns(UserWarning, match="1 of 2 train examples in .* left out of train"):
        (task,) = load_tasks(rows, "t")
    assert [e.input for e in task.train] == ["b"]


def test_examples_that_are_sorted_by_label_are_told():
    rows = [{"input": f"x{k}", "label": "ab"[k > 7], "split": "test"} for k in range(16)]
    rows += [{"input": f"y{k}", "label": "ab"[k % 2], "split": "train"} for k in range(16)]
    with pytest.warns(
        UserWarning, match="The test examples in .* are sorted by label, and a limit"
    ):
        load_tasks(rows, "t")
    load_tasks([*rows[8:16], *rows[:8], *rows[16:]][4:], "t")  # b, a: of twelve it may be chance
    load_tasks([row for pair in zip(rows[:8], rows[8:16], strict=True) for row in pair] + rows[16:])


def test_columns_may_have_names_of_options():
    rows = [{"instruction": f"q{k}", "context": "c", "response": "r"} for k in range(6)]
    columns = {"instruction": "input", "response": "target"}
    (task,) = load_tasks(pd.DataFrame(rows), "dolly", columns=columns)
    assert {e.input for e in (*task.train, *task.test)} == {row["instruction"] for row in rows}


def test_splits_whose_labels_are_hidden_are_passed_over():
    hidden = data_set().map(lambda row: {"mood": -1})
    both = {"train": data_set().select(range(6)), "test": hidden.select([6, 7])}
    seen = {**both, "validation": data_set().select([6, 7, 8])}
    (task,) = load_tasks(seen, "film", columns=COLUMNS)
    assert (len(task.train), len(task.test)) == (6, 3)
    with pytest.raises(ValueError, match=r"labels of task 'film' are hidden \(-1\) in \['test'\]"):
        load_tasks(both, "film", columns=COLUMNS)
