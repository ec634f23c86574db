"""The training loop: batches, validation, and losses that are no numbers."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import helpers
import pandas as pd
import pytest
import torch
from training_runs import interrupt_at, same, trained

from tl_taskneurons.models.view import view
from tl_taskneurons.runtime.progress import Progress
from tl_taskneurons.tasks.prompts import Item, Prompt
from tl_taskneurons.tasks.task import Example, Task
from tl_taskneurons.training import examples
from tl_taskneurons.training import loop as training_loop
from tl_taskneurons.training.examples import training_items
from tl_taskneurons.training.finetune import finetune
from tl_taskneurons.training.loop import fit
from tl_taskneurons.training.neuron_trainee import NeuronTrainee
from tl_taskneurons.training.settings import Training


@pytest.fixture
def model(tokenizer: Any) -> Any:
    return helpers.tiny_lens("llama", tokenizer=tokenizer)


# Batches


def test_batch_size_accumulation_and_padding_change_nothing(model: Any, neurons: Any):
    settings = Training(steps=3, lr=1e-2, clip=1.0, batch_size=8)
    whole, history = trained(model, neurons, settings)
    for size in (4, 1):
        part = replace(settings, batch_size=size, accumulate=8 // size)
        split, split_history = trained(model, neurons, part)
        for name, value in whole.items():
            torch.testing.assert_close(split[name], value, atol=1e-5, rtol=0)
        for column in ("loss", "grad_norm"):
            assert list(split_history[column]) == pytest.approx(list(history[column]), rel=1e-4)


def test_clipping_bounds_the_step(model: Any, neurons: Any):
    sgd_like: dict[str, Any] = {
        "steps": 1,
        "warmup": 0.0,
        "schedule": "constant",
        "betas": (0.0, 0.0),
    }
    free, history = trained(model, neurons, Training(**sgd_like, clip=None))
    clipped, clipped_history = trained(model, neurons, Training(**sgd_like, clip=1e-9))
    # AdamW's first step is lr * sign(gradient) unless the gradient is as small as its epsilon.
    assert history["grad_norm"][0] == clipped_history["grad_norm"][0] > 1e-3
    base, _ = trained(model, neurons, Training(**sgd_like, lr=1e-12))
    moved = torch.stack([(free[n] - base[n]).norm() for n in free]).norm()
    held = torch.stack([(clipped[n] - base[n]).norm() for n in free]).norm()
    assert held < moved / 5


def test_layers_below_the_lowest_neuron_take_no_backward_pass(model: Any, neurons: Any):
    upper = replace(neurons, mask=neurons.mask.clone().index_fill(0, torch.tensor([0]), False))
    wants_gradient: dict[str, bool] = {}

    def note(name: str) -> tuple[str, Any]:
        def hook(activation: torch.Tensor, hook: Any) -> None:
            wants_gradient[name] = activation.requires_grad

        return name, hook

    names = ["blocks.0.mlp.hook_post", "blocks.0.hook_out", "blocks.1.attn.hook_out"]
    reached = ["blocks.1.mlp.hook_post", "blocks.1.hook_out"]
    with model.hooks(fwd_hooks=[note(name) for name in (*names, *reached)]):
        trained(model, upper, Training(steps=1))
        assert wants_gradient == {**dict.fromkeys(names, False), **dict.fromkeys(reached, True)}
        trained(model, neurons, Training(steps=1))
        assert wants_gradient == dict.fromkeys((*names, *reached), True)


# Validation


def scripted(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """Held-out losses as wished."""
    script = iter(losses)
    monkeypatch.setattr(training_loop, "_mean_loss", lambda *arguments: next(script))


STOPPING = Training(
    lr=1e-2, steps=9, warmup=0.0, schedule="constant", batch_size=4, validation=0.25,
    evaluate_every=1, patience=2, checkpoint_every=1,
)  # fmt: skip


def test_early_stopping_keeps_the_best(model: Any, neurons: Any, monkeypatch):
    scripted(monkeypatch, [3.0, 2.0, 1.0, 1.0, 1.5])
    best, history = trained(model, neurons, STOPPING)
    assert list(history["validation_loss"]) == [3.0, 2.0, 1.0, 1.0, 1.5]
    scripted(monkeypatch, [3.0, 2.0, 1.0])
    assert same(best, trained(model, neurons, replace(STOPPING, steps=3))[0])


def test_without_patience_the_end_is_kept(model: Any, neurons: Any, monkeypatch):
    watched = replace(STOPPING, steps=4, patience=None)
    scripted(monkeypatch, [1.0, 2.0, 3.0, 4.0])
    end, _ = trained(model, neurons, watched)
    scripted(monkeypatch, [4.0, 3.0, 2.0, 1.0])
    assert same(end, trained(model, neurons, watched)[0])


@pytest.mark.parametrize("stop", [3, 4, 5])
def test_early_stopping_goes_on_where_it_was(
    model: Any, neurons: Any, monkeypatch, tmp_path: Path, stop: int
):
    losses = [3.0, 2.0, 1.0, 1.0, 1.5]
    scripted(monkeypatch, losses)
    wanted, history = trained(model, neurons, STOPPING)
    file = tmp_path / "run.safetensors"
    scripted(monkeypatch, losses)
    with monkeypatch.context() as patch:
        interrupt_at(patch, stop + 1)
        if stop < len(losses):
            with pytest.raises(KeyboardInterrupt):
                trained(model, neurons, STOPPING, checkpoint=file)
        else:
            trained(model, neurons, STOPPING, checkpoint=file)
    scripted(monkeypatch, losses[stop:])
    found, found_history = trained(model, neurons, STOPPING, checkpoint=file)
    assert same(found, wanted)
    pd.testing.assert_frame_equal(found_history, history)


def test_validation_looks_at_the_train_split_alone(model: Any, neurons: Any):
    task = replace(helpers.toy_task(12), test=())  # nothing there to look at
    watched = Training(steps=4, batch_size=4, validation=0.25, evaluate_every=2)
    history = finetune(model, task, neurons, watched).history
    assert list(history["validation_loss"].notna()) == [False, True, False, True]
    # The loss by hand, before any step, of the examples that are held out.
    held = examples.split(training_items(view(model), [task], Prompt()), watched)[1]
    assert len(held) == 3
    still = replace(watched, steps=1, lr=1e-12)
    first = finetune(model, task, neurons, still).history["validation_loss"][0]
    losses = [-log_prob(model, item) for item in held]
    assert first == pytest.approx(sum(losses) / 3, rel=1e-4)


def log_prob(model: Any, item: Item) -> float:
    """Mean log-probability of an item's answer tokens, one row, no padding."""
    ids = torch.tensor([item.prompt + item.answer])
    with torch.no_grad():
        table = model(ids)[0].log_softmax(-1)
    places = range(len(item.prompt) - 1, ids.shape[1] - 1)
    return sum(float(table[i, ids[0, i + 1]]) for i in places) / len(item.answer)


# Losses that are no numbers


def test_an_infinite_loss_names_step_and_examples_and_keeps_the_checkpoint(
    model: Any, neurons: Any, monkeypatch, tmp_path: Path
):
    file = tmp_path / "run.safetensors"
    training = Training(steps=6, batch_size=2, checkpoint_every=1, lr=1e-2)
    wanted, _ = trained(model, neurons, training)
    real, calls = training_loop.answer_losses, []

    def overflow(model_view: Any, batch: Any) -> torch.Tensor:
        calls.append(batch.index)
        if len(calls) == 4:
            raise ValueError(f"The loss of example {batch.index[0]} is nan.")
        return real(model_view, batch)

    before = {name: weight.clone() for name, weight in model.named_parameters()}
    with monkeypatch.context() as patch, pytest.raises(ValueError) as caught:
        patch.setattr(training_loop, "answer_losses", overflow)
        trained(model, neurons, training, checkpoint=file)
    bad = calls[3]
    message = str(caught.value)
    assert "step 4" in message
    assert f"The loss of example {bad[0]} is nan" in message
    listed = message.split("training examples ")[1].split(".")[0]
    assert sorted(map(int, listed.split(", "))) == sorted(bad)
    assert all(torch.equal(before[n], weight) for n, weight in model.named_parameters())
    assert same(trained(model, neurons, training, checkpoint=file)[0], wanted)


def test_an_exploding_run_stops_by_itself(model: Any, neurons: Any):
    wild = Training(steps=5, batch_size=4, lr=1e20, clip=None, warmup=0.0)
    with pytest.raises(ValueError, match=r"stopped at step 2.* is (nan|inf)"):
        trained(model, neurons, wild)
    assert trained(model, neurons, Training(steps=1))[1]["loss"].notna().all()


def test_a_gradient_that_is_no_number_stops_before_the_update(model: Any, neurons: Any):
    model_view = view(model)
    trainee = NeuronTrainee(model_view, neurons)
    start = [p.clone() for p in trainee.parameters]
    real = trainee._add
    trainee._add = lambda name, gradient: real(name, gradient * math.nan)  # type: ignore[method-assign]
    items = training_items(model_view, [helpers.toy_task()], Prompt())
    with pytest.raises(ValueError, match=r"stopped at step 1.*gradient's norm is nan"):
        fit(model_view, trainee, items, Training(steps=1))
    assert all(torch.equal(p, q) for p, q in zip(start, trainee.parameters, strict=True))


def test_progress_shows_the_loss(model: Any, neurons: Any, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(Progress, "say", lambda self, title: said.append(title))
    _, history = trained(model, neurons, Training(steps=2), progress=True)
    assert said == [f"training toy: loss {loss:.3f}" for loss in history["loss"]]


def test_several_tasks_are_mixed(model: Any, neurons: Any):
    other = Task("other", tuple(Example(f"{i}", "z") for i in range(4)), (), labels=("z", "y"))
    delta = finetune(model, [helpers.toy_task(4), other], neurons, Training(steps=1, batch_size=8))
    assert delta.name == "toy+other"
    assert delta.info["examples"] == 8
