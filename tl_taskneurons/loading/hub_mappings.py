"""Which dataset of the Hugging Face hub, which columns, which words make a task.

The mappings cover the twelve tasks of Leng & Xiong and their continual-learning tasks. Each reads
the columns as the dataset's card documents them, so a local copy with the same columns does too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tl_taskneurons.runtime.errors import InputError

ToRow = Callable[[Mapping[str, Any]], dict[str, Any] | None]


@dataclass(frozen=True)
class HubTask:
    """How a dataset of the hub becomes a task.

    Attributes:
        path: the dataset's id on the hub; None where it is not on the hub.
        config: the dataset's configuration; None for its only one.
        splits: its splits for training and testing. None for the test means that a part of the
            training split is held out.
        to_row: maps a row to ``input`` and ``target``; None leaves the row out (no gold label, an
            empty field).
        instruction: what to do, in plain words.
        labels: the labels; empty for generation.
        metric: ``"accuracy"`` or ``"rougeL"``.
        family: the kind of task.
        revision: the dataset's branch; None for the main one.
        grouped: whether several rows share an input, each with one accepted target.
    """

    path: str | None
    config: str | None
    splits: tuple[str, str | None]
    to_row: ToRow
    instruction: str
    labels: tuple[str, ...]
    metric: str
    family: str
    revision: str | None = None
    grouped: bool = False


def _text(row: Mapping[str, Any], column: str) -> str:
    return str(row[column] or "").strip()


def _layout(row: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    """Write ``prefix: text`` lines; a column that is empty gives no line."""
    lines = [(prefix, _text(row, column)) for prefix, column in columns.items()]
    return "\n".join(f"{prefix}: {text}" if prefix else text for prefix, text in lines if text)


def _label(value: Any, labels: Sequence[str], first: int = 0) -> str | None:
    """Name a class given by its number or by its name; None for no gold label."""
    if value is None or value == -1:
        return None
    if isinstance(value, str) and value in labels:
        return value
    if isinstance(value, int) and first <= value < first + len(labels):
        return labels[value - first]
    raise InputError(
        f"the label {value!r} is neither one of {labels} nor a number from {first} to "
        f"{first + len(labels) - 1}"
    )


def _classify(columns: Mapping[str, str], labels: Sequence[str]) -> ToRow:
    """Map rows to their class; ``columns`` is prefix to column, the class is in ``label``."""

    def to_row(row: Mapping[str, Any]) -> dict[str, Any] | None:
        label = _label(row["label"], labels)
        texts = [_text(row, column) for column in columns.values()]
        if label is None or not all(texts):
            return None
        return {"input": _layout(row, columns), "target": label}

    return to_row


def _write(columns: Mapping[str, str], target: str) -> ToRow:
    """Map rows to a text to write, which is in the column ``target``."""
    return lambda row: _written(row, columns, target)


def _written(
    row: Mapping[str, Any], columns: Mapping[str, str], target: str
) -> dict[str, Any] | None:
    if not all(_text(row, column) for column in columns.values()):
        return None
    # On one line: a newline ends an answer in the plain prompt.
    return {"input": _layout(row, columns), "target": " ".join(_text(row, target).split())}


_POLARITY = ("Bad", "Good")
_SAME = ("False", "True")
_NLI = ("entailment", "neutral", "contradiction")
_RTE = (
    "entailment",
    "contradiction",
)  # the name that continual-learning benchmarks give the second
_STARS = ("very negative", "negative", "neutral", "positive", "very positive")
_NEWS = ("World", "Sports", "Business", "Science or Technology")
_THINGS = (
    "Company", "Educational Institution", "Artist", "Athlete", "Office Holder",
    "Mean of Transportation", "Building", "Natural Place", "Village", "Animal", "Plant", "Album",
    "Film", "Written Work",
)  # fmt: skip
_TOPICS = (
    "Society & Culture", "Science & Mathematics", "Health", "Education & Reference",
    "Computers & Internet", "Sports", "Business & Finance", "Entertainment & Music",
    "Family & Relationships", "Politics & Government",
)  # fmt: skip


def _food(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """One and two stars are Bad, four and five Good; three stars are left out."""
    stars = _label(row["Score"], _STARS, first=1)
    if stars in (None, "neutral") or not _text(row, "Text"):
        return None
    text = _layout(row, {"Title": "Summary", "Text": "Text"})
    return {"input": text, "target": "Good" if stars in _STARS[3:] else "Bad"}


def _amazon(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read title, content, label (from 0), or review_title, review_text, class_index (from 1)."""
    if "class_index" in row:
        stars = _label(row["class_index"], _STARS, first=1)
        columns = {"Title": "review_title", "Text": "review_text"}
    else:
        stars, columns = _label(row["label"], _STARS), {"Title": "title", "Text": "content"}
    return {"input": _layout(row, columns), "target": stars} if stars else None


def _yahoo(row: Mapping[str, Any]) -> dict[str, Any] | None:
    topic = _label(row["topic"], _TOPICS)
    parts = [_text(row, c) for c in ("question_title", "question_content", "best_answer")]
    return {"input": " ".join(filter(None, parts)), "target": topic} if topic else None


def _tweetqa(row: Mapping[str, Any]) -> dict[str, Any] | None:
    answers = row["Answer"]  # a list, empty in the hub's test split
    answer = answers if isinstance(answers, str) else next(iter(answers or ()), "")
    fields = {"tweet": row["Tweet"], "answer": answer, "question": row["Question"]}
    return _written(fields, {"tweet": "tweet", "answer": "answer"}, "question")


def _commongen(row: Mapping[str, Any]) -> dict[str, Any] | None:
    concepts = ", ".join(sorted(row["concepts"]))
    return _written({**row, "concepts": concepts}, {"concepts": "concepts"}, "target")


def _choose(question: str, labels: Sequence[str]) -> str:
    return f"{question} Choose from: {', '.join(labels)}."


_PARQUET = "refs/convert/parquet"  # `datasets` no longer runs the scripts on these main branches
_QUESTIONS = {"first sentence": "question1", "second sentence": "question2"}
_SENTENCES = {"first sentence": "sentence1", "second sentence": "sentence2"}
_PREMISE = {"sentence 1": "premise", "sentence 2": "hypothesis"}
_FOLLOWS = _choose(
    "Take sentence 1 as a fact. Does it make sentence 2 certain (entailment), leave it open "
    "(neutral) or rule it out (contradiction)?", _NLI,
)  # fmt: skip
_REVIEWS = "yassiracharki/Amazon_Reviews_for_Sentiment_Analysis_fine_grained_5_classes"

HUB_TASKS: dict[str, HubTask] = {
    # The twelve tasks of the paper, pairs of one family.
    "amazon_food": HubTask(
        "jhan21/amazon-food-reviews-dataset", None, ("train", None), _food,
        _choose("A customer reviews something to eat or drink. What is the verdict?", _POLARITY),
        _POLARITY, "accuracy", "sentiment"),
    "sst2": HubTask(
        "stanfordnlp/sst2", None, ("train", "validation"),
        _classify({"Text": "sentence"}, _POLARITY),
        _choose("Does the critic speak well or badly of the film?", _POLARITY),
        _POLARITY, "accuracy", "sentiment"),
    "qqp": HubTask(
        "nyu-mll/glue", "qqp", ("train", "validation"), _classify(_QUESTIONS, _SAME),
        _choose("Would one answer serve both of these questions?", _SAME),
        _SAME, "accuracy", "paraphrase"),
    "paws": HubTask(
        "google-research-datasets/paws", "labeled_final", ("train", "test"),
        _classify(_SENTENCES, _SAME),
        _choose("Do both sentences tell the same facts about the same things?", _SAME),
        _SAME, "accuracy", "paraphrase"),
    "mnli": HubTask(
        "nyu-mll/glue", "mnli", ("train", "validation_matched"), _classify(_PREMISE, _NLI),
        _FOLLOWS, _NLI, "accuracy", "nli"),
    "gptnli": HubTask(
        None, None, ("train", None), _classify(_PREMISE, _NLI),
        _FOLLOWS, _NLI, "accuracy", "nli"),
    "sciq": HubTask(
        "allenai/sciq", None, ("train", "test"),
        _write({"passage": "support", "answer": "correct_answer"}, "question"),
        "Set an exam question on this passage that has the answer given below it.",
        (), "rougeL", "question_generation"),
    "tweetqa": HubTask(
        "ucsbnlp/tweet_qa", None, ("train", "validation"), _tweetqa,
        "Ask something about this tweet so that the answer below it is right.",
        (), "rougeL", "question_generation"),
    "e2e": HubTask(
        "tuetschek/e2e_nlg", None, ("train", "test"),
        _write({"": "meaning_representation"}, "human_reference"),
        "Describe this place to a guest in plain English; mention every attribute, invent none.",
        (), "rougeL", "data_to_text", revision=_PARQUET, grouped=True),
    "commongen": HubTask(
        "allenai/common_gen", None, ("train", "validation"), _commongen,
        "Use all of these concepts together in a single sentence about daily life.",
        (), "rougeL", "data_to_text", grouped=True),
    "cnn_dailymail": HubTask(
        "abisee/cnn_dailymail", "3.0.0", ("train", "test"), _write({"": "article"}, "highlights"),
        "Tell the highlights of this news report in three or four sentences.",
        (), "rougeL", "summarization"),
    "xsum": HubTask(
        "EdinburghNLP/xsum", None, ("train", "test"), _write({"": "document"}, "summary"),
        "Write the one sentence that could open this news report as its summary.",
        (), "rougeL", "summarization", revision=_PARQUET),
    # The continual-learning tasks, beside sst2, qqp and mnli.
    "rte": HubTask(
        "nyu-mll/glue", "rte", ("train", "validation"),
        _classify({"sentence 1": "sentence1", "sentence 2": "sentence2"}, _RTE),
        _choose("Take sentence 1 as a fact. Is sentence 2 then true (entailment) or not "
                "(contradiction)?", _RTE),
        _RTE, "accuracy", "nli"),
    "amazon": HubTask(
        _REVIEWS, None, ("train", "test"), _amazon,
        _choose("What does this customer think of the product bought?", _STARS),
        _STARS, "accuracy", "sentiment"),
    "agnews": HubTask(
        "fancyzhx/ag_news", None, ("train", "test"), _classify({"Text": "text"}, _NEWS),
        _choose("On which page of the paper would this report stand?", _NEWS),
        _NEWS, "accuracy", "topic"),
    "dbpedia": HubTask(
        "fancyzhx/dbpedia_14", None, ("train", "test"),
        _classify({"Title": "title", "Text": "content"}, _THINGS),
        _choose("To which class does the subject of this article belong?", _THINGS),
        _THINGS, "accuracy", "topic"),
    "yahoo": HubTask(
        "community-datasets/yahoo_answers_topics", None, ("train", "test"), _yahoo,
        _choose("In which section of the forum was this asked?", _TOPICS),
        _TOPICS, "accuracy", "topic"),
}  # fmt: skip
