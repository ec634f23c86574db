"""Rows of the data sets on the hub, with every column that their cards document."""

from collections.abc import Callable
from typing import Any

import datasets

from tl_taskneurons.loading.hub_mappings import HUB_TASKS

Row = dict[str, Any]
# One row of each dataset, with every column that its card documents, and what it must become.
# i makes rows differ; the class of row i is i modulo the number of classes.
MAKERS: dict[str, Callable[[int], Row]] = {
    "amazon_food": lambda i: {
        "Id": i, "ProductId": "B1", "UserId": "A1", "ProfileName": None, "HelpfulnessNumerator": 0,
        "HelpfulnessDenominator": 0, "Score": i % 5 + 1, "Time": 0, "Summary": f"Soup {i}",
        "Text": f"We ate soup number {i}.",
    },
    "sst2": lambda i: {"idx": i, "sentence": f"scene {i} drags ", "label": i % 2},
    "qqp": lambda i: {"question1": f"Why {i}?", "question2": f"How {i}?", "label": i % 2, "idx": i},
    "paws": lambda i: {
        "id": i, "sentence1": f"A met B{i}.", "sentence2": f"B{i} met A.", "label": i % 2,
    },
    "mnli": lambda i: {
        "premise": f"{i} ate.", "hypothesis": f"{i} lives.", "label": i % 3, "idx": i,
    },
    "gptnli": lambda i: {
        "premise": f"{i} ate.", "hypothesis": f"{i} lives.",
        "label": ("entailment", "neutral", "contradiction")[i % 3],
    },
    "rte": lambda i: {
        "sentence1": f"{i} ate.", "sentence2": f"{i} lives.", "label": i % 2, "idx": i,
    },
    "sciq": lambda i: {
        "question": f"What is drop {i}?", "distractor1": "fire", "distractor2": "air",
        "distractor3": "earth", "correct_answer": "water", "support": f"Drop {i} is water.",
    },
    "tweetqa": lambda i: {
        "Question": f"who won game {i}?", "Answer": ["the reds", "reds"], "Tweet": f"Reds win {i}!",
        "qid": str(i),
    },
    "e2e": lambda i: {
        "meaning_representation": f"name[Inn {i // 3}], food[Thai]",
        "human_reference": f"Inn {i // 3} is Thai, says guest {i % 3}.",
    },
    "commongen": lambda i: {
        "concept_set_idx": i // 2, "concepts": ["run", f"dog{i // 2}", "park"],
        "target": f"dog{i // 2} runs in park {i % 2}.",
    },
    "cnn_dailymail": lambda i: {
        "article": f"Long {i}.", "highlights": f"One {i} .\nTwo .", "id": f"x{i}",
    },
    "xsum": lambda i: {"document": f"Body {i}.\nMore.", "summary": f"Sum {i}.", "id": str(i)},
    "amazon": lambda i: {"label": i % 5, "title": f"Lamp {i}", "content": f"It shines {i}."},
    "agnews": lambda i: {"text": f"Item {i}.", "label": i % 4},
    "dbpedia": lambda i: {"label": i % 14, "title": f"Oak {i}", "content": f" Oak {i} is a thing."},
    "yahoo": lambda i: {
        "id": i, "topic": i % 10, "question_title": f"Why {i}?", "question_content": "",
        "best_answer": f"Because {i}.",
    },
}  # fmt: skip


def table(name: str, start: int, stop: int) -> datasets.Dataset:
    return datasets.Dataset.from_list([MAKERS[name](i) for i in range(start, stop)])


def local(name: str, n_train: int = 420, n_test: int = 210) -> datasets.DatasetDict:
    train, test = HUB_TASKS[name].splits
    made = datasets.DatasetDict()
    made[train] = table(name, 0, n_train)
    if test is not None:
        made[test] = table(name, n_train, n_train + n_test)
    return made
