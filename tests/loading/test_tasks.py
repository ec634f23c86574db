"""Built-in tasks, folders of tasks, rows in memory and the hub: what each source gives."""

import json
from collections import Counter
from pathlib import Path

import pytest
from task_rows import GOOD, colour, inputs, review, write_lines

from tl_taskneurons.builtin.relations import relation_names, relation_task
from tl_taskneurons.loading.tasks import load_tasks, task_from_dicts
from tl_taskneurons.tasks.task import Example


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
