import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
from hub_rows import MAKERS, local, table

from tl_taskneurons.loading.hub_mappings import HUB_TASKS
from tl_taskneurons.loading.hub_tasks import hub_task, hub_task_names
from tl_taskneurons.loading.tasks import load_tasks
from tl_taskneurons.tasks.task import METRICS

PAPER = (
    "amazon_food", "sst2", "qqp", "paws", "mnli", "gptnli", "sciq", "tweetqa", "e2e", "commongen",
    "cnn_dailymail", "xsum",
)  # fmt: skip
CONTINUAL = ("dbpedia", "amazon", "yahoo", "agnews", "mnli", "qqp", "rte", "sst2")

# The input and the target that row 0 becomes.
FIRST = {
    "amazon_food": ("Title: Soup 0\nText: We ate soup number 0.", "Bad"),
    "sst2": ("Text: scene 0 drags", "Bad"),
    "qqp": ("first sentence: Why 0?\nsecond sentence: How 0?", "False"),
    "paws": ("first sentence: A met B0.\nsecond sentence: B0 met A.", "False"),
    "mnli": ("sentence 1: 0 ate.\nsentence 2: 0 lives.", "entailment"),
    "gptnli": ("sentence 1: 0 ate.\nsentence 2: 0 lives.", "entailment"),
    "rte": ("sentence 1: 0 ate.\nsentence 2: 0 lives.", "entailment"),
    "sciq": ("passage: Drop 0 is water.\nanswer: water", "What is drop 0?"),
    "tweetqa": ("tweet: Reds win 0!\nanswer: the reds", "who won game 0?"),
    "e2e": ("name[Inn 0], food[Thai]", "Inn 0 is Thai, says guest 0."),
    "commongen": ("concepts: dog0, park, run", "dog0 runs in park 0."),
    "cnn_dailymail": ("Long 0.", "One 0 . Two ."),
    "xsum": ("Body 0.\nMore.", "Sum 0."),
    "amazon": ("Title: Lamp 0\nText: It shines 0.", "very negative"),
    "agnews": ("Text: Item 0.", "World"),
    "dbpedia": ("Title: Oak 0\nText: Oak 0 is a thing.", "Company"),
    "yahoo": ("Why 0? Because 0.", "Society & Culture"),
}
# The classes in the order of their numbers in the datasets.
NUMBERED = {
    "sst2": ("Bad", "Good"), "qqp": ("False", "True"), "paws": ("False", "True"),
    "mnli": ("entailment", "neutral", "contradiction"), "rte": ("entailment", "contradiction"),
    "amazon": ("very negative", "negative", "neutral", "positive", "very positive"),
    "agnews": ("World", "Sports", "Business", "Science or Technology"),
}  # fmt: skip


def test_the_tasks_of_the_paper_are_there():
    assert set(hub_task_names()) == {*PAPER, *CONTINUAL} == set(MAKERS)


@pytest.mark.parametrize("name", MAKERS)
def test_a_mapping_reads_the_columns_of_its_dataset(name: str):
    task = hub_task(name, dataset=local(name), n_train=70, n_test=28, seed=1)
    spec = HUB_TASKS[name]
    assert (task.name, task.labels, task.metric) == (name, spec.labels, spec.metric)
    assert task.metric == ("accuracy" if spec.labels else "rougeL")
    assert task.metric in METRICS
    assert (len(task.train), len(task.test)) == (70, 28)
    for split in (task.train, task.test):
        counts = Counter(example.label for example in split)
        assert set(counts) == set(spec.labels or (None,))
        assert max(counts.values()) - min(counts.values()) <= 1
    assert not {e.input for e in task.train} & {e.input for e in task.test}
    first = spec.to_row(table(name, 0, 1)[0])
    assert first is not None
    assert (first["input"], first["target"]) == FIRST[name]


@pytest.mark.parametrize("name", NUMBERED)
def test_classes_carry_the_dataset_s_numbers(name: str):
    to_row = HUB_TASKS[name].to_row
    found = [to_row(MAKERS[name](i)) for i in range(len(NUMBERED[name]))]
    assert tuple(row["target"] for row in found if row) == NUMBERED[name]


def test_stars_of_food_reviews_become_two_classes():
    to_row = HUB_TASKS["amazon_food"].to_row
    found = [to_row(MAKERS["amazon_food"](i)) for i in range(5)]
    assert [row and row["target"] for row in found] == ["Bad", "Bad", None, "Good", "Good"]


def test_star_reviews_are_read_in_both_layouts():
    old, new = (
        MAKERS["amazon"](3),
        {"class_index": 4, "review_title": "Lamp 3", "review_text": "It shines 3."},
    )
    to_row = HUB_TASKS["amazon"].to_row
    assert (
        to_row(new)
        == to_row(old)
        == {"input": "Title: Lamp 3\nText: It shines 3.", "target": "positive"}
    )
    assert to_row({**new, "review_title": None}) == {
        "input": "Text: It shines 3.",
        "target": "positive",
    }


def test_the_same_seed_gives_the_same_task():
    data = local("agnews")
    first = hub_task("agnews", dataset=data, n_train=40, n_test=20, seed=5)
    assert hub_task("agnews", dataset=data, n_train=40, n_test=20, seed=5) == first
    other = hub_task("agnews", dataset=data, n_train=40, n_test=20, seed=6)
    assert {e.input for e in other.train} != {e.input for e in first.train}
    # The classes are mixed, not one block after the other.
    labels = [example.label for example in first.train]
    assert labels != sorted(labels, key=labels.index)


def test_lists_of_dicts_and_saved_folders_give_the_same(tmp_path: Path):
    data = local("mnli", 60, 30)
    data.save_to_disk(tmp_path / "mnli")
    saved = datasets.load_from_disk(tmp_path / "mnli")
    assert isinstance(saved, datasets.DatasetDict)
    lists = {split: rows.to_list() for split, rows in data.items()}
    tasks = [hub_task("mnli", dataset=one, n_train=30, n_test=9) for one in (data, saved, lists)]
    assert tasks[0] == tasks[1] == tasks[2]


def test_gptnli_is_read_from_json_lines(tmp_path: Path):
    path = tmp_path / "gptnli.jsonl"
    path.write_text("".join(json.dumps(MAKERS["gptnli"](i)) + "\n" for i in range(60)))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    task = hub_task("gptnli", dataset={"train": rows}, n_train=30, n_test=15)
    assert (len(task.train), len(task.test)) == (30, 15)
    with pytest.raises(ValueError, match="'gptnli' is not on the Hugging Face hub"):
        hub_task("gptnli")


def test_rows_without_gold_label_or_text_are_left_out():
    rows = [MAKERS["mnli"](i) for i in range(30)]
    unusable = [{**rows[0], "premise": f"bad {j}", "label": -1} for j in range(5)]
    unusable.append({**rows[0], "premise": " "})
    task = hub_task("mnli", dataset={"train": rows + unusable, "validation_matched": rows[:3]})
    inputs = [e.input for e in task.train]
    assert len(inputs) == 27
    assert not any("bad" in text for text in inputs)
    # tweetqa's hidden test answers are empty lists.
    assert HUB_TASKS["tweetqa"].to_row({**MAKERS["tweetqa"](0), "Answer": []}) is None
    assert HUB_TASKS["sciq"].to_row({**MAKERS["sciq"](0), "support": ""}) is None


def test_a_short_class_cuts_the_others_to_its_number():
    rows = [{"text": f"item {i}", "label": 0 if i < 3 else 1 + i % 3} for i in range(99)]
    data = {"train": rows, "test": local("agnews")["test"]}
    task = hub_task("agnews", dataset=data, n_train=40, n_test=20)
    assert Counter(e.label for e in task.train) == dict.fromkeys(task.labels, 3)
    with pytest.raises(ValueError, match=r"Split 'train' of task 'agnews'.*labels \['World'\]"):
        hub_task("agnews", dataset={**data, "train": rows[3:]})


def test_repeated_inputs_are_dropped():
    rows = [{"sentence": f"film {i % 10}", "label": i % 2, "idx": i} for i in range(100)]
    tests = [{"sentence": f"film {i}", "label": i % 2, "idx": i} for i in (0, 1)]
    task = hub_task("sst2", dataset={"train": rows, "validation": tests})
    assert sorted(e.input for e in task.train) == [f"Text: film {i}" for i in range(2, 10)]


@pytest.mark.parametrize(("name", "targets"), [("e2e", 3), ("commongen", 2)])
def test_targets_of_one_input_are_its_references(name: str, targets: int):
    task = hub_task(name, dataset=local(name, 60, 60))
    assert len(task.train) == 60
    assert len({e.input for e in task.train}) == len(task.test) == 60 // targets
    for example in (*task.train, *task.test):
        assert example.target in example.references
        assert len(set(example.references)) == targets
    first = next(example for example in task.train if example.input == FIRST[name][0])
    rows = [HUB_TASKS[name].to_row(MAKERS[name](i)) for i in range(targets)]
    assert first.references == tuple(row["target"] for row in rows if row)


def test_a_short_split_without_own_test_is_shared():
    task = hub_task("amazon_food", dataset={"train": table("amazon_food", 0, 200)})
    assert len(task.train) > len(task.test) >= 20


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("sst2", {"train": [MAKERS["sst2"](0)]}, "no 'validation', only ['train']"),
        (
            "sst2", {"train": [], "validation": [{"text": "x", "label": 0}]},
            "Row 0 of split 'validation' of task 'sst2' has no column 'sentence', only "
            "['label', 'text']",
        ),
        (
            "sst2", {"train": [], "validation": [{"sentence": "x", "label": 2}]},
            "Row 0 of split 'validation' of task 'sst2': the label 2 is neither one of "
            "('Bad', 'Good') nor a number from 0 to 1",
        ),
        ("xsum", {"train": [], "test": []}, "Split 'test' of task 'xsum' has no usable row"),
    ],
)  # fmt: skip
def test_foreign_tables_are_refused(name: str, data: Any, message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        hub_task(name, dataset=data)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="No hub task 'ag_news'; did you mean 'agnews'"):
        hub_task("ag_news")
    with pytest.raises(ValueError, match="n_train is 0"):
        hub_task("sst2", dataset=local("sst2"), n_train=0)


def test_offline_the_error_names_the_dataset_and_the_way_out():
    with pytest.raises(
        ConnectionError,
        match=r"'nyu-mll/glue'.*load_dataset\('nyu-mll/glue', 'mnli'\)\.save_to_disk",
    ):
        hub_task("mnli")
    with pytest.raises(ConnectionError, match=r"\('tuetschek/e2e_nlg', revision='refs/convert"):
        hub_task("e2e")


def test_instructions_name_every_label():
    for name in hub_task_names():
        spec = HUB_TASKS[name]
        assert all(label in spec.instruction for label in spec.labels), name
        assert spec.instruction.endswith("." if not spec.labels else f"{spec.labels[-1]}.")


def test_a_folder_stands_in_for_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = [MAKERS["gptnli"](i) for i in range(60)]
    (tmp_path / "gptnli.jsonl").write_text("\n".join(map(json.dumps, rows)))
    local("rte", 40, 20).save_to_disk(tmp_path / "rte")
    monkeypatch.setattr(datasets, "load_dataset", None)  # nothing is asked of the hub
    nli, rte = load_tasks(f"hub+{tmp_path}", ["gptnli", "rte"], limit=12)
    assert nli == hub_task("gptnli", dataset={"train": rows}, n_train=12, n_test=12)
    assert (len(rte.train), len(rte.test)) == (12, 12)
    with pytest.raises(FileNotFoundError, match="no folder"):
        load_tasks(f"hub+{tmp_path / 'none'}", ["gptnli"])
    with pytest.raises(ValueError, match=r"FOLDER/gptnli.jsonl and name the source 'hub\+FOLDER'"):
        load_tasks("hub", ["gptnli"])
