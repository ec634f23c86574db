import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tl_taskneurons.builtin.relations import relation_names, relation_task
from tl_taskneurons.loading.tasks import load_tasks, task_from_dicts
from tl_taskneurons.tasks.task import Example, Task


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def review(i: int) -> dict[str, Any]:
    label = ("bad", "good")[i % 2]
    return {"input": f"review {i}", "target": label, "label": label}


def colour(i: int) -> dict[str, Any]:
    return {"input": f"thing {i}", "target": f"red {i}", "label": None, "references": [f"rot {i}"]}


def inputs(task: Task) -> tuple[list[str], list[str]]:
    return [e.input for e in task.train], [e.input for e in task.test]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    index = {
        "reviews": {
            "type": "classification",
            "family": "sentiment",
            "instruction": "Judge.",
            "labels": ["good", "bad"],
            "metric": "accuracy",
            "licence": "none",
        },
        "colours": {"family": "toy", "instruction": "Name it.", "metric": "rougeL"},
    }
    (tmp_path / "tasks.json").write_text(json.dumps(index), encoding="utf-8")
    for name, make in (("reviews", review), ("colours", colour)):
        write_lines(tmp_path / name / "train.jsonl", [make(i) for i in range(6)])
        write_lines(tmp_path / name / "test.jsonl", [make(i) for i in range(6, 9)])
    return tmp_path


# Built-in tasks


def test_builtin_gives_every_word_list_as_it_is():
    tasks = load_tasks("builtin", seed=3)
    assert tasks.names == relation_names()
    assert tasks["antonym"] == relation_task("antonym", seed=3)


def test_builtin_takes_names_limit_fraction_and_replacements():
    tasks = load_tasks(
        "builtin", ["present_past", "antonym"], limit=5, instruction="Go.", metric="rougeL"
    )
    assert tasks.names == ("present_past", "antonym")
    assert [len(t.train) for t in tasks] == [len(t.test) for t in tasks] == [5, 5]
    assert {(t.instruction, t.metric) for t in tasks} == {("Go.", "rougeL")}
    half = load_tasks("builtin", "antonym", test_fraction=0.5)[0]
    assert abs(len(half.train) - len(half.test)) <= 1


def test_builtin_has_the_mini_tasks_by_name():
    from tl_taskneurons.builtin.mini import mini_task

    assert load_tasks("builtin", "mini_food", limit=4, seed=1)[0] == mini_task(
        "mini_food", n_train=4, n_test=4, seed=1
    )


def test_an_unknown_builtin_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="No built-in task 'antonim'; did you mean 'antonym'"):
        load_tasks("builtin", ["antonim"])


# Folders


def test_a_folder_gives_its_tasks_in_order(folder: Path):
    tasks = load_tasks(folder)
    assert tasks.names == ("reviews", "colours")
    reviews, colours = tasks
    assert reviews.labels == ("good", "bad")
    assert (reviews.instruction, reviews.metric, reviews.family) == (
        "Judge.", "accuracy", "sentiment",
    )  # fmt: skip
    assert inputs(reviews) == (
        [f"review {i}" for i in range(6)],
        ["review 6", "review 7", "review 8"],
    )
    assert reviews.train[1] == Example("review 1", "good", label="good")
    assert colours.labels == ()
    assert colours.metric == "rougeL"
    assert colours.test[0] == Example("thing 6", "red 6", references=("red 6", "rot 6"))


def test_a_folder_gives_the_named_tasks_cut_to_the_limit(folder: Path):
    tasks = load_tasks(str(folder), ["colours"], limit=2)
    assert tasks.names == ("colours",)
    assert inputs(tasks[0]) == (["thing 0", "thing 1"], ["thing 6", "thing 7"])


def test_arguments_replace_what_the_folder_says(folder: Path):
    task = load_tasks(folder, "reviews", instruction="Other.", labels=["bad", "good", "so-so"])[0]
    assert task.instruction == "Other."
    assert task.labels == ("bad", "good", "so-so")


def test_a_folder_without_an_index_or_a_split_says_what_is_missing(folder: Path, tmp_path: Path):
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty has no tasks\.json and no file of"):
        load_tasks(folder / "empty")
    (folder / "colours" / "test.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"'colours'.*needs .*test\.jsonl"):
        load_tasks(folder)
    assert load_tasks(folder, "reviews").names == ("reviews",)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("{", ValueError, "tasks.json is not JSON"),
        ("[]", ValueError, "must map task names to objects"),
        ("{}", ValueError, "must map task names to objects"),
        ('{"reviews": 1}', TypeError, "task 'reviews' is 1"),
        ('{"reviews": {"labels": "good"}}', TypeError, "labels in task 'reviews' of .* are 'good'"),
        ('{"reviews": {"metric": "acuracy"}}', ValueError, "'acuracy'.*did you mean 'accuracy'"),
        ('{"reviews": {"instruction": 5}}', TypeError, "instruction in task 'reviews' of .* is 5"),
    ],
)
def test_a_damaged_index_is_refused(
    folder: Path, content: str, error: type[Exception], message: str
):
    (folder / "tasks.json").write_text(content, encoding="utf-8")
    with pytest.raises(error, match=message):
        load_tasks(folder)


def test_an_unknown_name_in_a_folder_is_answered_with_the_nearest(folder: Path):
    with pytest.raises(ValueError, match=r"No task 'review' in .*did you mean 'reviews'"):
        load_tasks(folder, ["review"])


def test_an_empty_split_file_is_refused(folder: Path):
    (folder / "colours" / "train.jsonl").write_text("\n\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"train\.jsonl is empty"):
        load_tasks(folder)


# One file


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


GOOD = {"input": "a", "target": "b"}


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


# Dicts, and the call itself


def test_dicts_make_a_task():
    rows = [{**colour(i), "split": "train" if i < 3 else "test"} for i in range(5)]
    task = task_from_dicts("colours", rows, instruction="Name it.", metric="rougeL", family="toy")
    assert (task.name, task.instruction, task.metric, task.family) == (
        "colours", "Name it.", "rougeL", "toy",
    )  # fmt: skip
    assert load_tasks(rows, "colours", instruction="Name it.", metric="rougeL")["colours"].test == (
        task.test
    )
    assert load_tasks(rows)[0].name == "task"


def test_a_list_that_holds_one_label_field_is_classification():
    task = task_from_dicts("t", [{"input": str(i), "label": "ab"[i % 2]} for i in range(6)])
    assert Counter(e.target for e in (*task.train, *task.test)) == {"a": 3, "b": 3}
    assert task.metric == "accuracy"


def test_bad_dicts_are_named_by_their_row():
    with pytest.raises(ValueError, match="row 1 of task 't' has no 'input'"):
        task_from_dicts("t", [GOOD, {"target": "x"}])
    with pytest.raises(ValueError, match="Task 't' is empty: no example in the rows"):
        task_from_dicts("t", [])


def test_an_empty_input_is_for_plain_text_only():
    rows = [{"input": "", "target": "some text"}, {"input": "", "target": "more text"}]
    assert len(task_from_dicts("text", rows, metric="loss").train) == 1


def test_a_path_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match=r"no file or folder 'no/such\.jsonl' in /"):
        load_tasks("no/such.jsonl")
    with pytest.raises(FileNotFoundError, match=r"write load_tasks\('builtin', 'antonym'\)"):
        load_tasks("antonym")


def test_bad_arguments_are_refused(tmp_path: Path):
    path = write_lines(tmp_path / "t.jsonl", [GOOD, GOOD])
    for bad in (0.0, 1.0):
        with pytest.raises(ValueError, match=f"test_fraction is {bad}"):
            load_tasks(path, test_fraction=bad)
    with pytest.raises(ValueError, match="limit is 0"):
        load_tasks(path, limit=0)
    with pytest.raises(ValueError, match="names of tasks is empty"):
        load_tasks(path, [])
    with pytest.raises(ValueError, match="holds one task, but names has 2"):
        load_tasks(path, ["a", "b"])
    with pytest.raises(ValueError, match=r"Unknown metric 'bleu' in the arguments"):
        load_tasks("builtin", "antonym", metric="bleu")


# The hub


def test_the_hub_needs_names_in_one_place():
    for source, names in (("hub", None), ("hub:sst2", "qqp")):
        with pytest.raises(ValueError, match=r"write 'hub' and names, or 'hub:NAME'.*sst2"):
            load_tasks(source, names)
    with pytest.raises(ValueError, match="No hub task 'sst'; did you mean 'sst2'"):
        load_tasks("hub:sst")


def test_the_hub_is_asked_for_no_more_than_the_limit(monkeypatch: pytest.MonkeyPatch):
    import datasets

    table = [{"sentence": f"film {i}", "label": i % 2, "idx": i} for i in range(80)]
    asked = []

    def load_dataset(path: str, name: str | None = None, revision: str | None = None):
        asked.append((path, name, revision))
        return {"train": table[:40], "validation": table[40:]}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (by_source,) = load_tasks("hub:sst2", limit=8, instruction="Judge.")
    (by_name,) = load_tasks("hub", ["sst2"], limit=8)
    assert asked == [("stanfordnlp/sst2", None, None)] * 2
    assert (len(by_source.train), len(by_source.test)) == (8, 8)
    assert by_source.instruction == "Judge."
    assert by_source.train == by_name.train


def test_wrong_answers_and_counterfactuals_are_read():
    row = {
        "input": "a",
        "target": "b",
        "wrong": ["c", "d"],
        "counterfactual": "e",
        "split": "train",
    }
    task = task_from_dicts("pairs", [row, {**row, "input": "x", "split": "test"}])
    assert task.train[0] == Example("a", "b", wrong=("c", "d"), counterfactual="e")
