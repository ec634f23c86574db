"""A task in one file: its split, its header, and what is said of bad lines."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from task_rows import GOOD, colour, inputs, review, write_lines

from tl_taskneurons.loading.tasks import load_tasks, task_from_dicts


def test_a_file_is_a_task_named_after_it(tmp_path: Path):
    path = write_lines(tmp_path / "mood.jsonl", [review(i) for i in range(9)])
    task = load_tasks(path)[0]
    assert task.name == "mood"
    assert (task.labels, task.metric) == (("bad", "good"), "accuracy")
    assert (len(task.train), len(task.test)) == (6, 3)
    assert sorted(sum(inputs(task), [])) == [f"review {i}" for i in range(9)]
    assert load_tasks(path, "other")[0].name == "other"


def test_the_split_follows_the_seed_and_the_fraction(tmp_path: Path):
    path = write_lines(tmp_path / "mood.jsonl", [review(i) for i in range(40)])
    first = load_tasks(path, seed=1)
    assert load_tasks(path, seed=1) == first
    assert set(inputs(load_tasks(path, seed=2)[0])[1]) != set(inputs(first[0])[1])
    assert len(load_tasks(path, test_fraction=0.1)[0].test) == 4
    # No split is ever empty.
    few = load_tasks(write_lines(tmp_path / "two.jsonl", [review(0), review(1)]), test_fraction=0.9)
    assert (len(few[0].train), len(few[0].test)) == (1, 1)


def test_a_header_sets_the_options_and_arguments_win(tmp_path: Path):
    header = {"instruction": "Judge.", "labels": ["good", "bad", "so-so"], "family": "mood"}
    rows = [{"input": f"review {i}", "target": "good"} for i in range(3)]
    path = write_lines(tmp_path / "mood.jsonl", [header, *rows])
    task = load_tasks(path)[0]
    assert (task.instruction, task.family, task.metric) == ("Judge.", "mood", "accuracy")
    assert task.labels == ("good", "bad", "so-so")
    assert {e.label for e in task.train} == {"good"}
    assert load_tasks(path, instruction="No.")[0].instruction == "No."
    with pytest.raises(ValueError, match=r"line 2: unknown label 'good'.*Known: up, down"):
        load_tasks(path, labels=["up", "down"])


def test_splits_in_the_file_are_kept_in_order(tmp_path: Path):
    splits = ["test", "train", "test", "train"]
    rows = [{**colour(i), "split": split} for i, split in enumerate(splits)]
    task = load_tasks(write_lines(tmp_path / "c.jsonl", rows))[0]
    assert inputs(task) == (["thing 1", "thing 3"], ["thing 0", "thing 2"])
    assert task.metric == "exact_match"


def test_text_stays_as_it_is(tmp_path: Path):
    path = tmp_path / "t.jsonl"
    strange = "a\u2028b\x85c é \n d"
    rows = [json.dumps({"input": strange, "target": t}, ensure_ascii=False) for t in ("x", "y")]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(rows).encode())
    task = load_tasks(path)[0]
    assert [e.input for e in (*task.train, *task.test)] == [strange, strange]


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ({"target": "b"}, ValueError, "line 2 has no 'input', only ['target']"),
        ({"input": "a"}, ValueError, "line 2 has no 'target' and no 'label', only ['input']"),
        ({"input": None, "target": "b"}, ValueError, "line 2 has no 'input'"),
        ({"input": 7, "target": "b"}, TypeError, "line 2: 'input' is 7 (int)"),
        ({"input": "a", "target": ["b"]}, TypeError, "line 2: 'target' is ['b'] (list)"),
        ({"input": " ", "target": "b"}, ValueError, "line 2: 'input' is ' '"),
        ({"input": "a", "target": ""}, ValueError, "line 2: the target is ''"),
        ({**GOOD, "references": "b"}, TypeError, "line 2: 'references' is 'b'"),
        ({**GOOD, "references": ["b", 1]}, TypeError, "line 2: 'references' is ['b', 1]"),
        ({**GOOD, "references": ["b", ""]}, ValueError, "line 2: a reference in ['b', '']"),
        ({**GOOD, "wrong": "b"}, TypeError, "line 2: 'wrong' is 'b'"),
        ({**GOOD, "wrong": [GOOD["target"]]}, ValueError, "is among the 'wrong' answers"),
        ({**GOOD, "split": "valid"}, ValueError, "line 2: unknown split 'valid'"),
        ({**GOOD, "split": "test"}, ValueError, "line 1 has no 'split', but others have"),
        ({**GOOD, "label": "b"}, ValueError, "line 1 has no 'label', but others have"),
        (["a", "b"], TypeError, "line 2 is ['a', 'b']; it must be an object"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, bad: Any, error: type[Exception], message: str):
    path = write_lines(tmp_path / "task.jsonl", [GOOD, bad])
    with pytest.raises(error, match=re.escape(message)) as caught:
        load_tasks(path)
    assert str(path) in str(caught.value)


def test_bad_labels_are_named(tmp_path: Path):
    path = write_lines(
        tmp_path / "t.jsonl", [{"input": "a", "target": "b", "label": "c"}, review(1)]
    )
    with pytest.raises(ValueError, match="line 1: label 'c' and target 'b' differ"):
        load_tasks(path)
    path = write_lines(tmp_path / "t.jsonl", [review(1), review(3)])
    with pytest.raises(ValueError, match="Every label in .* is 'good'"):
        load_tasks(path)
    path = write_lines(tmp_path / "t.jsonl", [{"input": "a", "label": i} for i in (0, 2)])
    with pytest.raises(ValueError, match=r"line 2: the label is 2, but .* numbered from 0 to 1"):
        load_tasks(path, labels=["bad", "good"])
    with pytest.raises(ValueError, match="unknown label 'goood'; did you mean 'good'"):
        task_from_dicts("t", [{"input": "a", "label": "goood"}], labels=["good", "bad"])


def test_unreadable_files_are_named(tmp_path: Path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"input": "a", "target": "b"}\n{"input": \n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"t\.jsonl, line 2 is not JSON .*'\{\"input\":'"):
        load_tasks(path)
    path.write_bytes(b'{"input": "caf\xe9", "target": "b"}\n')
    with pytest.raises(ValueError, match=r"t\.jsonl is not UTF-8 text \(byte 14 is 0xe9\)"):
        load_tasks(path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match=r"Task 't' is empty: no example in .*t\.jsonl"):
        load_tasks(path)
    write_lines(path, [{"instruction": "Only a header."}])
    with pytest.raises(ValueError, match="Task 't' is empty"):
        load_tasks(path)
    write_lines(path, [GOOD])
    with pytest.raises(ValueError, match="one example in .*too few to hold one out"):
        load_tasks(path)
    write_lines(path, [{"instruction": "Go.", "labells": ["a", "b"]}, GOOD])
    with pytest.raises(ValueError, match="line 1: a header has no field 'labells'; did you mean"):
        load_tasks(path)
