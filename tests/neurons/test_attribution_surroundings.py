"""What scoring leaves as it was, and the modes and interventions that it may be called in."""

from contextlib import contextmanager
from typing import Any

import helpers
import micro
import pytest
import torch
from intervening import failing_forward
from micro import agree, lens, words
from torch import Tensor

from tl_taskneurons import NeuronSet, activation_mean, deactivate, score_items, score_neurons
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.attribution import METHODS
from tl_taskneurons.neurons.scoring import score_batches
from tl_taskneurons.neurons.settings import ScoreSettings
from tl_taskneurons.tasks.batches import make_batches
from tl_taskneurons.tasks.prompts import encode

HOOKED = pytest.param("hooked", marks=pytest.mark.needs("hooked"))
KINDS = ["bridge", HOOKED]
GRADIENT_METHODS = ("grad_act", "grad_act_abs", "grad_act_mean", "integrated_gradients")
DATA_METHODS = (*GRADIENT_METHODS, "activation", "frequency")


@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_scores_inside_no_grad_and_inference_mode(method: str, tokenizer: Any):
    model, task = lens("phi3", "bridge", tokenizer), words(3)
    plain = score_neurons(model, task, method, steps=1).values
    items = encode(task, tokenizer, split="train").items
    batches = list(make_batches(items))
    with torch.no_grad():
        assert agree(
            score_batches(view(model), batches, method, settings=ScoreSettings(steps=1)), plain
        )
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            inside = score_neurons(model, task, method, steps=1).values
            of_items = score_items(model, items, method)
            means = activation_mean(model, task)
        assert torch.equal(inside, plain)
        assert not inside.is_inference()
        assert not of_items.is_inference()
        assert not means.is_inference()


@pytest.mark.parametrize("kind", KINDS)
def test_flags_and_training_mode_do_not_matter(kind: str, tokenizer: Any):
    hf = helpers.tiny_hf("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    model = helpers.both_classes(hf, tokenizer)[kind]
    task = words(4)
    expected = score_neurons(model, task).values
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 3 == 0)
    model.train()
    before = micro.snapshot(model)
    assert torch.equal(score_neurons(model, task).values, expected)
    assert micro.unchanged(model, before)
    assert any(before["flags"])
    assert not all(before["flags"])
    assert any(before["training"])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_model_changes(kind: str, tokenizer: Any):
    model = helpers.tiny_lens("llama", kind, tokenizer=tokenizer)
    model(torch.tensor([[1, 2, 3]]))
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 2 == 0)
        if i % 4 == 0:
            parameter.grad = torch.full_like(parameter, float(i))
    before = micro.snapshot(model)
    for method in METHODS:
        neurons = NeuronSet.from_pairs(model, [(0, 3)]) if method == "exact" else None
        task = words(6 if METHODS.find(method).whole else 2)
        scores = score_neurons(model, task, method, neurons=neurons, steps=1)
        assert scores.values.count_nonzero() > 0
        assert micro.unchanged(model, before), method


class Interrupted(Exception):
    pass


@contextmanager
def broken(model: Any, where: str, error: type[BaseException]):
    """Make a model raise in its unembedding, or while gradients pass the upper MLP's output."""
    if where == "forward":
        with failing_forward(model, error):
            yield
        return

    def fail_backward(gradient: Tensor) -> None:
        raise error

    def plant(activation: Tensor, hook: Any) -> Tensor:
        if activation.requires_grad:
            activation.register_hook(fail_backward)
        return activation

    with model.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", plant)]):
        yield


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [Interrupted, KeyboardInterrupt])
def test_nothing_of_the_model_changes_when_it_fails(
    error: type[BaseException], kind: str, tokenizer: Any
):
    model = helpers.tiny_lens("llama", kind, tokenizer=tokenizer).train()
    model(torch.tensor([[1, 2, 3]]))
    next(model.parameters()).requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = micro.snapshot(model)
    places = [("forward", method) for method in (*DATA_METHODS, "exact")]
    places += [("backward", method) for method in GRADIENT_METHODS]
    for where, method in places:
        neurons = NeuronSet.from_pairs(model, [(0, 3)]) if method == "exact" else None
        with pytest.raises(error), broken(model, where, error):
            score_neurons(model, words(2), method, neurons=neurons)
        assert micro.unchanged(model, before), (where, method)


def test_activation_mean_fails_cleanly(tokenizer: Any):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer).train()
    model(torch.tensor([[1, 2, 3]]))
    before = micro.snapshot(model)
    with pytest.raises(KeyboardInterrupt), broken(model, "forward", KeyboardInterrupt):
        activation_mean(model, words(2))
    assert micro.unchanged(model, before)


def test_an_intervention_around_it_is_seen(tokenizer: Any):
    model, task = lens("llama", "bridge", tokenizer), words(4)
    plain = score_neurons(model, task).values
    silenced = NeuronSet.from_pairs(model, [(0, 1), (0, 2), (1, 40)])
    for how in ("hooks", "weights"):
        with deactivate(model, silenced, how=how):
            inside = score_neurons(model, task)
        assert (inside.values[silenced.mask] == 0).all()
        assert (plain[silenced.mask] > 0).all()
        assert (inside.values[~silenced.mask] > 0).all()
        assert not agree_or_not(inside.values, plain)
    assert torch.equal(score_neurons(model, task).values, plain)


def agree_or_not(values: Tensor, others: Tensor) -> bool:
    try:
        return agree(values, others)
    except AssertionError:
        return False
