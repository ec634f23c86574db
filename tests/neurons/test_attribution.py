"""What scores must not depend on, and what scoring refuses."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import helpers
import micro
import pytest
import torch
from micro import agree, item, lens, words

from tl_taskneurons import NeuronSet, activation_mean, score_items, score_neurons
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.scoring import score_batches
from tl_taskneurons.tasks.batches import Batch, make_batches
from tl_taskneurons.tasks.prompts import Prompt, encode
from tl_taskneurons.tasks.task import Example, Task

HOOKED = pytest.param("hooked", marks=pytest.mark.needs("hooked"))
KINDS = ["bridge", HOOKED]
CLASSES = [(name, "bridge") for name in helpers.ARCHITECTURES] + [
    pytest.param(name, "hooked", marks=pytest.mark.needs("hooked"))
    for name in helpers.HOOKED_ARCHITECTURES
]
DATA_METHODS = (
    "grad_act", "grad_act_abs", "grad_act_mean", "integrated_gradients", "ig_inputs", "activation",
    "activation_weight", "frequency",
)  # fmt: skip


def all_neurons(model: Any) -> NeuronSet:
    return ~NeuronSet.from_pairs(model, [])


# --- what results must not depend on ---


@pytest.mark.parametrize(("name", "kind"), CLASSES)
def test_batches_padding_and_order_do_not_matter(name: str, kind: str, tokenizer: Any):
    model, task = lens(name, kind, tokenizer), words(8)
    together = score_neurons(model, task, token_budget=100_000).values
    assert together.shape == view(model).shape
    assert agree(score_neurons(model, task, token_budget=1).values, together)
    backwards = replace(task, train=task.train[::-1])
    assert agree(score_neurons(model, backwards, token_budget=60).values, together)
    # The same check sees one example more or less.
    with pytest.raises(AssertionError):
        agree(score_neurons(model, task, limit=7).values, together)


@pytest.mark.parametrize("method", DATA_METHODS)
def test_every_method_is_the_mean_of_batches_of_one(method: str, tokenizer: Any):
    model, task = lens("llama", "bridge", tokenizer), words(8)
    options: dict[str, Any] = {"steps": 2}
    together = score_neurons(model, task, method, token_budget=100_000, **options).values
    assert agree(score_neurons(model, task, method, token_budget=1, **options).values, together)
    assert together.dtype == torch.float32
    assert not together.requires_grad


def _padded_with(pad: int, batch: Batch) -> Batch:
    return replace(batch, tokens=batch.tokens.masked_fill(~batch.attention_mask, pad))


def test_padding_holds_no_information(tokenizer: Any):
    # The padding id must not matter, even if it is a token of the text.
    model = lens("gpt2", "bridge", tokenizer)
    items = list(encode(words(8), tokenizer, split="train").items)
    by_pad = [
        score_batches(view(model), [_padded_with(pad, b) for b in make_batches(items)], "grad_act")
        for pad in (0, 111, 257)
    ]
    assert agree(by_pad[1], by_pad[0])
    assert agree(by_pad[2], by_pad[0])


@pytest.mark.needs("hooked")
@pytest.mark.parametrize("name", helpers.HOOKED_ARCHITECTURES)
def test_hooked_and_bridge_give_the_same_scores(name: str, tokenizer: Any):
    scores = {
        kind: score_neurons(lens(name, kind, tokenizer), words()) for kind in ("bridge", "hooked")
    }
    assert agree(scores["hooked"].values, scores["bridge"].values)
    assert scores["hooked"].fingerprint == scores["bridge"].fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_scores_resemble_float32_scores(kind: str, tokenizer: Any):
    hf = helpers.tiny_hf("llama")
    full, half = (
        helpers.both_classes(hf, tokenizer, dtype)[kind]
        for dtype in (torch.float32, torch.bfloat16)
    )
    scores, rough = score_neurons(full, words()), score_neurons(half, words())
    assert rough.values.dtype == torch.float32
    assert rough.info["dtype"] == "bfloat16"
    assert (
        torch.corrcoef(torch.stack([scores.values.flatten(), rough.values.flatten()]))[0, 1] > 0.99
    )
    assert rough.fingerprint == scores.fingerprint


def test_the_same_call_gives_the_same_bytes(tokenizer: Any, tmp_path: Any):
    models = [helpers.tiny_lens("llama", tokenizer=tokenizer) for _ in "ab"]
    for method in ("grad_act", "integrated_gradients", "activation", "random"):
        files = []
        for run, model in zip("ab", models, strict=True):
            path = tmp_path / f"{method}-{run}.safetensors"
            score_neurons(model, words(4), method, steps=1, seed=4).save(path)
            files.append(path.read_bytes())
        assert files[0] == files[1]
    four, five = (score_neurons(models[0], words(), "random", seed=seed).values for seed in (4, 5))
    assert not torch.equal(four, five)


# --- bad input ---


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_the_example(value: float, tokenizer: Any):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    # Only the third example holds the letter Q, whose embedding is broken.
    with torch.no_grad():
        model.embed.original_component.weight[ord("Q")] = value
    train = [Example(text, "a") for text in ("one", "two", "Queen", "four")]
    task = Task(name="t", train=tuple(train), test=(), metric="exact_match")
    model(torch.tensor([[1, 2, 3]]))  # a bridge puts hooks of its own on at its first run
    before = micro.snapshot(model)
    for method in (*DATA_METHODS, "exact"):
        neurons = NeuronSet.from_pairs(model, [(0, 3)]) if method == "exact" else None
        with pytest.raises(ValueError, match=r"loss of example 2 is nan in .*float32"):
            score_neurons(model, task, method, neurons=neurons)
    now = micro.snapshot(model)
    assert all(now[key] == before[key] for key in ("flags", "training", "hooks", "points"))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_unknown_methods_name_the_nearest(tokenizer: Any):
    model = lens("llama", "bridge", tokenizer)
    with pytest.raises(ValueError, match=r"'gradact'; did you mean 'grad_act'"):
        score_neurons(model, words(), "gradact")
    items = encode(words(), tokenizer, split="train").items
    for method in ("grad_acts", "exact", "random", "weight_norm"):
        with pytest.raises(ValueError, match=f"Unknown method '{method}'"):
            score_items(model, items, method)


def test_exact_needs_neurons_and_only_exact_takes_them(tokenizer: Any):
    model = lens("llama", "bridge", tokenizer)
    with pytest.raises(ValueError, match="'exact' with neurons=None"):
        score_neurons(model, words(), "exact")
    with pytest.raises(ValueError, match=r"'grad_act' with neurons=NeuronSet"):
        score_neurons(model, words(), neurons=all_neurons(model))
    other = helpers.tiny_lens("llama", seed=1)
    with pytest.raises(ValueError, match="belongs to model") as caught:
        score_neurons(model, words(), "exact", neurons=all_neurons(other))
    assert view(model).fingerprint in str(caught.value)
    assert view(other).fingerprint in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: score_neurons(m, words(), steps=0), "steps is 0"),
        (lambda m: score_neurons(m, words(), limit=0), "limit is 0"),
        (lambda m: score_neurons(m, words(), token_budget=0), "token_budget is 0"),
        (lambda m: score_neurons(m, words(), split="dev"), "Unknown split 'dev'"),
        (
            lambda m: score_neurons(m, Task("e", (), (), metric="exact_match")),
            "train split of task 'e' is empty",
        ),
        (lambda m: score_items(m, []), "no examples"),
        (lambda m: score_items(m, [item((1,), (2,)), item((), (1,))]), "Item 1 has 0 prompt"),
        (lambda m: score_items(m, [item((1,), ())]), "Item 0 has 1 prompt and 0 answer"),
    ],
)
def test_bad_arguments(call: Callable[[Any], Any], message: str, tokenizer: Any):
    with pytest.raises(ValueError, match=message):
        call(lens("llama", "bridge", tokenizer))


def test_a_model_without_tokenizer_says_so():
    for model in (helpers.tiny_lens("llama"), micro.one_layer()):
        with pytest.raises(ValueError, match="no tokenizer"):
            score_neurons(model, words())


def test_a_view_does_as_well_as_a_model(tokenizer: Any):
    model = lens("llama", "bridge", tokenizer)
    expected = score_neurons(model, words(2))
    assert torch.equal(score_neurons(view(model), words(2)).values, expected.values)  # pyright: ignore[reportArgumentType]
    assert torch.equal(activation_mean(view(model), words(2)), activation_mean(model, words(2)))  # pyright: ignore[reportArgumentType]


def test_scores_say_how_they_were_made(tokenizer: Any):
    model = lens("llama", "bridge", tokenizer)
    scores = score_neurons(model, words(), "integrated_gradients", limit=3, steps=2)
    encoded = encode(words(), tokenizer, split="train", limit=3)
    assert (scores.name, scores.method, scores.fingerprint) == (
        "words", "integrated_gradients", view(model).fingerprint
    )  # fmt: skip
    assert scores.info["n_examples"] == 3
    assert scores.info["n_tokens"] == sum(map(len, encoded.items))
    assert scores.info["steps"] == 2
    plain = score_neurons(model, words(), limit=3, prompt=Prompt(instruction=False))
    assert plain.info["n_tokens"] == scores.info["n_tokens"] - 3 * len("Go\n")
