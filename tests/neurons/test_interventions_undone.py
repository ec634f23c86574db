"""Interventions inside one another, hooks of others around them, and how all are undone."""

from typing import Any

import helpers
import micro
import pytest
import torch
from intervening import INTERVENTIONS, WAYS, How, activations, failing_forward, logits, some
from micro import lens, snapshot, unchanged
from torch import Tensor

from tl_taskneurons import deactivate, evaluate_items, mean_ablate, scale
from tl_taskneurons.models.forward import is_prepared, weights_are_changed
from tl_taskneurons.models.view import view

HOOKED = pytest.param("hooked", marks=pytest.mark.needs("hooked"))
KINDS = ["bridge", HOOKED]


def test_interventions_nest_and_are_undone_one_by_one():
    model = helpers.tiny_lens("llama")
    first, second = some(model, 0), some(model, 1)
    plain, before = logits(model), micro.snapshot(model)
    with deactivate(model, first | second):
        both = logits(model)
    with deactivate(model, first):
        one = logits(model)
    assert not torch.equal(one, both)
    for outer in ("hooks", "weights"):
        for inner in ("hooks", "weights"):
            with deactivate(model, first, how=outer):
                with deactivate(model, second, how=inner):
                    assert torch.equal(logits(model), both)
                assert torch.equal(logits(model), one)
                with scale(model, first & second, 1.0, how=inner):
                    assert torch.equal(logits(model), one)
            assert torch.equal(logits(model), plain)
    assert micro.unchanged(model, before)


def test_the_inner_intervention_has_the_last_word():
    model = helpers.tiny_lens("llama")
    neurons = some(model)
    ones, layer = torch.ones(view(model).shape), view(model).layers[0]
    chosen = neurons.mask[0]
    with deactivate(model, neurons), mean_ablate(model, neurons, ones):
        assert (activations(model)[layer.hook][..., chosen] == 1).all()
    with mean_ablate(model, neurons, ones), deactivate(model, neurons):
        assert (activations(model)[layer.hook][..., chosen] == 0).all()


def test_hooks_of_the_caller_stay(tokenizer: Any):
    model, calls = lens("llama", "bridge", tokenizer), []

    def count(activation: Tensor, hook: Any) -> Tensor:
        calls.append(1)
        return activation

    with model.hooks(fwd_hooks=[("blocks.0.mlp.hook_post", count)]):
        with deactivate(model, some(model)):
            logits(model)
        logits(model)
    logits(model)
    assert len(calls) == 2


@pytest.mark.parametrize("kind", ["bridge", HOOKED])
def test_hooks_that_come_and_go_inside_leave_the_intervention(kind: str, tokenizer: Any):
    model = lens("llama", kind, tokenizer)
    neurons, layer = some(model), view(model).layers[0]
    chosen = neurons.mask[0]
    with deactivate(model, neurons):
        silenced = logits(model)
        with model.hooks(fwd_hooks=[(layer.hook, lambda act, hook: act * 2)]):  # noqa: ARG005
            assert not torch.equal(logits(model), silenced)
        assert torch.equal(logits(model), silenced)
        assert (activations(model)[layer.hook][..., chosen] == 0).all()
    assert not layer.point.fwd_hooks


def test_hooks_reset_inside_stay_or_are_told(tokenizer: Any):
    model = lens("llama", "bridge", tokenizer)
    neurons = some(model)
    before = snapshot(model)
    with deactivate(model, neurons):
        silenced = logits(model)
        model.reset_hooks()
        assert torch.equal(logits(model), silenced)
    assert unchanged(model, before)
    with (
        pytest.raises(RuntimeError, match="blocks.0.*taken away inside.*did not act in the passes"),
        deactivate(model, neurons),
    ):
        logits(model)
        model.reset_hooks(including_permanent=True)
    assert unchanged(model, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_everything_is_undone_after_an_exception(
    error: type[BaseException], kind: str, tokenizer: Any
):
    model = helpers.tiny_lens("gpt2", kind, tokenizer=tokenizer)
    plain = logits(model)
    for parameter in list(model.parameters())[::2]:
        parameter.grad = torch.ones_like(parameter)
    before, fingerprint = micro.snapshot(model), view(model).fingerprint
    for name, enter in INTERVENTIONS.items():
        # In the block, in the model, and in an inner intervention.
        with pytest.raises(error), enter(model, some(model)):
            raise error
        assert micro.unchanged(model, before), name
        with pytest.raises(error), enter(model, some(model)), failing_forward(model, error):
            logits(model)
        assert micro.unchanged(model, before), name
        for inner in (INTERVENTIONS["mean_ablate"], INTERVENTIONS["scale by weights"]):
            with (
                pytest.raises(error),
                enter(model, some(model)),
                inner(model, some(model, 1)),
                failing_forward(model, error),
            ):
                logits(model)
        assert micro.unchanged(model, before), name
        assert view(model).fingerprint == fingerprint
    assert torch.equal(logits(model), plain)


def test_weights_are_put_back_when_surgery_itself_fails(monkeypatch: pytest.MonkeyPatch):
    model = helpers.tiny_lens("llama")
    plain, before, written = logits(model), micro.snapshot(model), []
    copy = Tensor.index_copy_

    def failing(self: Tensor, *args: Any) -> Tensor:
        written.append(1)
        if len(written) == 2:  # the second layer, the first being changed already
            raise KeyboardInterrupt
        return copy(self, *args)

    monkeypatch.setattr(Tensor, "index_copy_", failing)
    with pytest.raises(KeyboardInterrupt), deactivate(model, some(model), how="weights"):
        pytest.fail("the block must not run")
    assert len(written) > 2
    assert micro.unchanged(model, before)
    assert torch.equal(logits(model), plain)


@pytest.mark.parametrize("how", WAYS)
def test_the_fingerprint_stays_inside_and_after(how: How):
    model = helpers.tiny_lens("phi3")
    fingerprint = view(model).fingerprint
    with deactivate(model, some(model), how=how):
        assert view(model).fingerprint == fingerprint
        with deactivate(model, some(model, 1), how="weights"):
            assert view(model).fingerprint == fingerprint
        assert view(model).fingerprint == fingerprint
        logits(model)
    assert view(model).fingerprint == fingerprint
    # A real change is still seen afterwards.
    view(model).write(0, torch.tensor([1]), {"W_out": torch.ones(1, 32)})
    assert view(model).fingerprint != fingerprint


@pytest.mark.parametrize("inner", [{"how": "weights"}, {"how": "hooks"}])
def test_interventions_that_end_in_another_order_are_undone(inner: dict[str, Any]):
    model = helpers.tiny_lens("llama")
    plain, before, neurons = logits(model), micro.snapshot(model), some(model)
    with scale(model, neurons, 0.5):
        halved = logits(model)
    first, second = deactivate(model, neurons, how="weights"), scale(model, neurons, 0.5, **inner)
    with first:
        second.__enter__()
        logits(model)
    torch.testing.assert_close(logits(model), halved)
    assert view(model).fingerprint == neurons.fingerprint  # also while rows are scaled
    second.__exit__(None, None, None)
    assert torch.equal(logits(model), plain)
    assert micro.unchanged(model, before)
    assert not weights_are_changed()


def test_prompts_of_interventions_that_end_in_another_order_are_forgotten(tokenizer: Any):
    model, task = lens("llama", "bridge", tokenizer), helpers.toy_task()
    plain = evaluate_items(model, task)["loss"].tolist()
    first, second = (deactivate(model, some(model), ablation="resample") for _ in range(2))
    with first:
        second.__enter__()
        changed = evaluate_items(model, task)["loss"].tolist()
    assert evaluate_items(model, task)["loss"].tolist() == changed != plain
    second.__exit__(None, None, None)
    assert not is_prepared()
    assert evaluate_items(model, task)["loss"].tolist() == plain


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_an_intervention_opens_once(name: str):
    model = helpers.tiny_lens("llama")
    intervention = INTERVENTIONS[name](model, some(model))
    with intervention:
        logits(model)
    with pytest.raises(RuntimeError, match="opened before.*make another"), intervention:
        pytest.fail("the block must not run")
