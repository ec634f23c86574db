"""What is said of inputs beyond the model's context."""

import warnings

import helpers
import pytest
import torch

import tl_taskneurons as tn
from tl_taskneurons.models.inputs import CutInputWarning
from tl_taskneurons.tasks.prompts import encode

KINDS = ("bridge", "hooked") if helpers.HAS_HOOKED else ("bridge",)
SHORT = tuple(tn.Example(f"in {k}", "yes") for k in range(4))


def task(*inputs: str) -> tn.Task:
    tests = tuple(tn.Example(text, "yes") for text in inputs)
    return tn.Task("long", SHORT, tests, metric="exact_match")


def lens(kind: str, tokenizer, n_ctx: int = 64):
    return helpers.tiny_lens("llama", kind, tokenizer=tokenizer, max_position_embeddings=n_ctx)


@pytest.mark.parametrize("kind", KINDS)
def test_cut_inputs_and_lost_demonstrations_are_told_with_their_number(kind: str, tokenizer):
    model = lens(kind, tokenizer)
    given = task("word " * 30, "short", "word " * 20)
    with pytest.warns(CutInputWarning) as told:
        found = tn.evaluate(model, given, prompt=tn.Prompt(shots=0))
    assert found["n_truncated"].tolist() == [2]
    assert str(told[0].message) == (
        f"Of 3 test examples of task 'long', 2 lost the ends of their inputs, since "
        f"{tn.view(model).name} reads 64 tokens. Shorten them, use fewer demonstrations (shots is "
        "0), or take a model of longer context."
    )
    with pytest.warns(CutInputWarning, match="2 lost the ends of .* and 3 lost demonstrations"):
        tn.evaluate(model, given, prompt=tn.Prompt(shots=4))
    with pytest.warns(CutInputWarning, match="reads 64 tokens, less 40 for the answer"):
        tn.evaluate(model, task("word"), prompt=tn.Prompt(shots=0), generation=True,
                    max_new_tokens=40)  # fmt: skip


def test_nothing_is_said_where_all_fits(tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tn.evaluate(lens("bridge", tokenizer), task("a", "b"), prompt=tn.Prompt(shots=0))


def test_a_message_is_shown_once(tokenizer):
    model = lens("bridge", tokenizer)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for _ in range(3):
            tn.evaluate(model, task("word " * 31), prompt=tn.Prompt(shots=0))
            tn.score_neurons(model, task("word " * 31), split="test", prompt=tn.Prompt(shots=0))
    assert len(told) == 1


def test_a_counterfactual_input_that_is_cut_counts(tokenizer):
    changed = tn.Example("in", "yes", counterfactual="word " * 40, wrong=("no",))
    given = tn.Task("pairs", SHORT, (changed,), metric="exact_match")
    assert encode(given, tokenizer, max_length=64, prompt=tn.Prompt(shots=0)).n_truncated == 0
    found = encode(given, tokenizer, max_length=64, prompt=tn.Prompt(shots=0), contrast=True)
    assert found.n_truncated == 1
    assert torch.tensor(found.items[0].counterfactual).numel() <= 64
