"""Labels that are said in other words, or in several: what is read, ranked and refused."""

from dataclasses import replace

import helpers
import micro
import pytest
import torch

import tl_taskneurons as tn
from tl_taskneurons.tasks.prompts import encode, label_ids, word_ids
from tl_taskneurons.tasks.task import tasks_digest
from tl_taskneurons.tasks.verbalizers import checked_words

KINDS = ("bridge", "hooked") if helpers.HAS_HOOKED else ("bridge",)
TASK = helpers.toy_task()
WORDS = {"odd": ["uneven", "not even"], "even": "level"}


def test_the_first_word_is_what_is_read_and_scored(tokenizer):
    task = TASK.verbalize(WORDS)
    item = encode(task, tokenizer, prompt=tn.Prompt(shots=2)).items[0]
    text = tokenizer.decode(list(item.prompt))
    assert "Output: uneven\n" in text or "Output: level\n" in text
    assert "Output: odd" not in text and "Output: even" not in text
    assert tokenizer.decode(list(item.answer)) == " uneven"  # y0 is odd
    ids = word_ids(task, tokenizer, tn.Prompt())
    assert label_ids(task, tokenizer, tn.Prompt()) == {k: v[0] for k, v in ids.items()}
    assert {k: [tokenizer.decode(list(i)) for i in v] for k, v in ids.items()} == {
        "odd": [" uneven", " not even"], "even": [" level"],
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_is_as_probable_as_its_words_together(kind: str, tokenizer):
    model = micro.lens("llama", kind, tokenizer)
    hf = helpers.tiny_hf("llama")
    task = TASK.verbalize(WORDS)
    found = tn.evaluate_items(model, task)
    firsts = {"odd": "uneven", "even": "level"}
    for row, example in zip(found.to_dict("records"), task.test, strict=True):
        prompt = [256, *f"Input: {example.input}\nOutput:".encode()]

        def log_prob(word: str, prompt: list[int] = prompt) -> torch.Tensor:
            ids = [*f" {word}".encode()]
            with torch.no_grad():
                rows = hf(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
            return rows[range(len(prompt) - 1, len(prompt) + len(ids) - 1), ids]

        odd = torch.stack([log_prob(word).sum() for word in WORDS["odd"]]).logsumexp(0)
        best = "odd" if odd >= log_prob("level").sum() else "even"
        assert row["prediction"] == best
        assert row["score"] == float(best == example.target)
        loss = -log_prob(firsts[example.target]).mean().item()
        assert row["loss"] == pytest.approx(loss, abs=1e-4)


def test_words_together_can_win_where_each_alone_loses(tokenizer):
    model = micro.lens("llama", "bridge", tokenizer)
    # Any first byte in place of one: the label with nearly all of them is nearly certain.
    letters = [chr(k) for k in range(ord("a"), ord("z") + 1)]
    bare = tn.Prompt(template="{input}{answer}", raw=True)
    for few, many in (("odd", "even"), ("even", "odd")):
        task = TASK.verbalize({few: letters[:1], many: letters[1:]})
        found = tn.evaluate_items(model, task, prompt=bare)
        assert found["prediction"].tolist() == [many] * len(task.test)


def test_one_word_is_a_label_by_another_name(tokenizer):
    model = micro.lens("llama", "bridge", tokenizer)
    said = TASK.verbalize({"odd": "uneven", "even": "level"})
    named = {"odd": "uneven", "even": "level"}
    renamed = replace(
        TASK, labels=("uneven", "level"),
        train=tuple(replace(e, target=named[e.target]) for e in TASK.train),
        test=tuple(replace(e, target=named[e.target]) for e in TASK.test),
    )  # fmt: skip
    ours, theirs = (tn.evaluate_items(model, task) for task in (said, renamed))
    assert ours["prediction"].map(named).tolist() == theirs["prediction"].tolist()
    assert ours["loss"].tolist() == theirs["loss"].tolist()
    scores = [tn.score_neurons(model, task, limit=3).values for task in (said, renamed)]
    assert torch.equal(*scores)


def test_a_generated_answer_may_be_any_of_the_words(tokenizer, monkeypatch):
    task = TASK.verbalize(WORDS)
    odd, even = (next(e for e in task.test if e.target == name) for name in ("odd", "even"))
    assert task.accepted(odd) == ("uneven", "not even") and task.accepted(even) == ("level",)
    assert TASK.accepted(odd) == ("odd",)


def test_tasks_without_are_known_as_before_and_with_are_others():
    assert tasks_digest([TASK.verbalize({})]) == tasks_digest([TASK])
    assert tasks_digest([TASK.verbalize(WORDS)]) != tasks_digest([TASK])
    assert hash(TASK.verbalize(WORDS)) == hash(TASK) and TASK.verbalize(WORDS) != TASK


@pytest.mark.parametrize(
    ("words", "error", "told"),
    [
        ({"ood": "x"}, ValueError, "no label 'ood' to verbalize; did you mean 'odd'"),
        ({"odd": []}, ValueError, "give at least one word"),
        ({"odd": ["x", " "]}, ValueError, "none of them empty"),
        ({"odd": "x", "even": "x"}, ValueError, "'x' says 'odd' and 'even'"),
        ({"odd": "even"}, ValueError, "'even' says 'odd' and 'even'"),
        ({"odd": ["x", "x"]}, ValueError, "'x' says 'odd' and 'odd'"),
    ],
)
def test_words_that_can_not_be_are_told(words, error, told):
    with pytest.raises(error, match=told):
        TASK.verbalize(words)


def test_words_of_another_kind_and_of_no_label_are_told():
    with pytest.raises(TypeError, match="give label to words"):
        checked_words(TASK, ["x"])
    with pytest.raises(TypeError, match="a word or a list of words"):
        checked_words(TASK, {"odd": [1]})
    with pytest.raises(ValueError, match="no label 'x' to verbalize; it has none"):
        micro.words().verbalize({"x": "y"})
