"""Labels of unequal length, answers in other scripts, options that have no place together."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer

import tl_taskneurons as tn
from tests import helpers
from tl_taskneurons.evaluation.evaluate import evaluate_items
from tl_taskneurons.evaluation.tables import summarise
from tl_taskneurons.evaluation.words import Words
from tl_taskneurons.runtime.errors import InputError, InputTypeError
from tl_taskneurons.tasks.prompts import Item, encode


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    return helpers.tiny_tokenizer(folder)


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    return helpers.tiny_lens("llama", tokenizer=tokenizer)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_every_label_fits_after_every_input(name: str, tokenizer: Any):
    long = "nottttttttttttt perhaps"
    task = tn.Task(
        "context", (tn.Example("a" * 8, "no"),),
        (tn.Example("a" * 80, "no"), tn.Example("a" * 80, long)), labels=("no", long),
    )  # fmt: skip
    size = {"n_positions": 48} if name == "gpt2" else {"max_position_embeddings": 48}
    for model in helpers.both_classes(helpers.tiny_hf(name, **size), tokenizer).values():
        with pytest.warns(UserWarning, match="lost"):
            assert tn.evaluate(model, task)["n"].item() == 2
    short, other = encode(task, tokenizer, max_length=48).items
    assert short.prompt == other.prompt  # the length of an input doesn't tell its label
    assert len(other) + len(other.end) <= 48


@pytest.mark.parametrize(
    ("said", "wanted", "score"),
    [
        ("Москва", "москва", 1.0),
        ("東京タワー", "東京タワー", 1.0),
        ("東京駅", "東京タワー", 2 * (2 / 3) * (2 / 5) / (2 / 3 + 2 / 5)),
        ("le café", "le cafe", 0.5),
        ("हिन्दी भाषा", "हिन्दी", 2 / 3),
        ("!!!", "!!!", 1.0),
        ("", "Paris", 0.0),
    ],
)
def test_words_of_any_script_count(said: str, wanted: str, score: float):
    scorer = RougeScorer(["rougeL"], tokenizer=Words())
    assert scorer.score(wanted, said)["rougeL"].fmeasure == pytest.approx(score)


@pytest.mark.parametrize("text", ["It's 3.5% of x_y, isn't it?", "A-b c/D", "", "£20 – “ok”"])
def test_words_in_ascii_are_those_of_rouge_score(text: str):
    from rouge_score.tokenizers import DefaultTokenizer

    assert Words().tokenize(text) == DefaultTokenizer().tokenize(text)


def test_a_metric_and_generation_have_no_place_together(model: Any):
    with pytest.raises(InputError, match="nothing is generated"):
        tn.evaluate(model, helpers.toy_task(), metric="prob", generation=True)


def test_generation_changes_nothing_for_tasks_that_are_judged_by_loss(model: Any):
    task = tn.Task.from_texts("text", ["some words of plain text " * 4, "others"])
    plain = evaluate_items(model, task)
    generated = evaluate_items(model, task, generation=True, max_new_tokens=40)
    pd.testing.assert_frame_equal(plain, generated)


def test_silencing_refuses_what_it_would_ignore(model: Any):
    task = helpers.toy_task()
    means = tn.activation_mean(model, task)
    sets = {"toy": tn.NeuronSet.from_pairs(model, [(0, 1)], "toy")}
    with pytest.raises(InputError, match="doesn't use them"):
        tn.deactivation_items(model, [task], sets, means=means)
    untyped: dict[str, Any] = {"ablation": means}
    with pytest.raises(InputTypeError, match="tables need a name"):
        tn.deactivation_items(model, [task], sets, **untyped)
    with (
        pytest.raises(InputError, match="changes all positions"),
        tn.scale(model, sets["toy"], 0.5, how="weights", positions=slice(0, 1)),
    ):
        pass


def test_more_examples_of_others_than_the_plain_model_has_are_not_measured(model: Any):
    task = helpers.toy_task()
    two = tn.Task("two", task.train, task.test, labels=task.labels)
    sets = {"toy": tn.NeuronSet.from_pairs(model, [(0, 1)], "toy")}
    table = tn.deactivation_matrix(
        tn.deactivation_items(model, [task, two], sets, controls=0, limit=2, limit_others=4)
    )
    assert table["change"].notna().all()


def test_ranks_are_no_shares():
    items = pd.DataFrame(
        {"task": "a", "metric": "rank", "item": range(4), "score": 1.0, "loss": 1.0,
         "n_truncated": 0}
    )  # fmt: skip
    row = summarise(items).iloc[0]
    assert (row["low"], row["high"]) == (1.0, 1.0)


def test_a_metric_of_ones_own_is_taken_for_itself_whatever_its_name(model: Any):
    task = helpers.toy_task()

    def loss(logits: torch.Tensor, item: Item) -> torch.Tensor:
        lengths.append(len(item.prompt))
        return logits[0].max()

    def other(logits: torch.Tensor, item: Item) -> torch.Tensor:  # noqa: ARG001
        return logits[0].max()

    lengths: list[int] = []
    scores = tn.score_neurons(model, task)
    tables = [
        tn.ablation_curves(model, task, scores, fractions=[0.1, 0.5], metric=metric).table["value"]
        for metric in (loss, other)
    ]
    assert tables[0].tolist() == tables[1].tolist()
    prompt = tn.Prompt(shots=2)
    seen = []
    for share in (False, True):
        lengths.clear()
        tn.evaluate(model, task, prompt=prompt, metric=loss, share_prefix=share)
        seen.append(sorted(lengths))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("bad", [-3, 99_999])
@pytest.mark.parametrize("where", ["wrong", "counterfactual"])
def test_ids_that_the_model_has_not_are_told(model: Any, bad: int, where: str):
    item = Item(0, (5, 6, 7), (8,), ())
    item = replace(item, **{where: ((bad,),) if where == "wrong" else (bad, 5)})
    with pytest.raises(InputError, match=f"token id {bad}"):
        tn.score_items(model, [item], metric="logit_diff" if where == "wrong" else "loss")


def test_wrong_labels_end_like_labels(tokenizer: Any):
    labels = ("Science", "Science Fiction")
    task = tn.Task(
        "genres", (tn.Example("x", labels[0]),),
        (tn.Example("y", labels[1], wrong=(labels[0],)), tn.Example("y", labels[1])),
        labels=labels,
    )  # fmt: skip
    own, default = encode(task, tokenizer, contrast=True).items
    assert own.wrong == default.wrong
