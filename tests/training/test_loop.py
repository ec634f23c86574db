import math
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import helpers
import pandas as pd
import pytest
import torch

from tl_taskneurons import score_neurons
from tl_taskneurons.models.view import view
from tl_taskneurons.runtime import tensor_files as files
from tl_taskneurons.runtime.errors import FileError
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


@pytest.fixture
def neurons(model: Any):
    return score_neurons(model, helpers.toy_task(), "random").top(fraction=0.2)


def trained(model: Any, neurons: Any, training: Training, **options: Any):
    """Masters after training, and the history; the model is put back."""
    delta = finetune(model, helpers.toy_task(12), neurons, training, **options)
    return delta.trained, delta.history


def same(first: Any, second: Any) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


# Settings


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"epochs": -1.0}, "epochs is -1.0"),
        ({"clip": 0.0}, "clip is 0.0"),
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"warmup": 1.0}, "warmup is 1.0"),
        ({"validation": -0.1}, r"validation is -0\.1"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"weight_decay": math.inf}, "weight_decay is inf"),
        ({"betas": (0.9, 1.0)}, r"betas is \(0\.9, 1\.0\)"),
        ({"schedule": "step"}, "schedule is 'step'"),
        ({"patience": 2}, "patience is 2, but nothing is held out"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
    ],
)
def test_bad_settings_name_the_value(change: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        Training(**change)


def test_the_rate_rises_and_falls_as_computed_by_hand():
    rates = [Training(lr=2.0, warmup=0.4, schedule="linear").rate(i, 10) for i in range(10)]
    assert rates == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 5 / 3, 4 / 3, 1.0, 2 / 3, 1 / 3])
    cosine = Training(lr=1.0, warmup=0.0, schedule="cosine")
    assert [cosine.rate(i, 4) for i in range(4)] == pytest.approx(
        [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    )
    constant = Training(lr=3.0, warmup=0.25, schedule="constant")
    assert [constant.rate(i, 8) for i in range(8)] == [1.5, *[3.0] * 7]
    assert Training(lr=1.0, warmup=0.1).rate(0, 1) == 1.0


# Order of examples


def items_of(n: int) -> list[Item]:
    return [Item(i, (1, 2, 3), (4,), ()) for i in range(n)]


def seen(n: int, per_step: int, steps: int, seed: int = 0) -> list[list[int]]:
    return [
        [item.index for item in examples.examples_of(items_of(n), seed, step, per_step)]
        for step in range(steps)
    ]


def test_every_epoch_shows_each_example_once_in_an_order_of_its_own():
    steps = [i for chosen in seen(6, 4, 3) for i in chosen]
    assert sorted(steps[:6]) == sorted(steps[6:]) == list(range(6))
    assert steps[:6] != steps[6:]
    assert seen(6, 4, 3) == seen(6, 4, 3) != seen(6, 4, 3, seed=1)


def test_the_held_out_part_is_a_share_drawn_by_the_seed():
    train, held = examples.split(items_of(20), Training(validation=0.2))
    assert len(held) == 4
    assert sorted(i.index for i in (*train, *held)) == list(range(20))
    other = examples.split(items_of(20), Training(validation=0.2, seed=1))[1]
    assert held != other
    assert len(examples.split(items_of(2), Training(validation=0.9))[0]) == 1
    with pytest.raises(ValueError, match="at least two"):
        examples.split(items_of(1), Training(validation=0.5))
    with pytest.raises(ValueError, match="no examples"):
        examples.split([], Training())


@pytest.mark.parametrize(
    ("training", "steps"),
    [
        (Training(batch_size=4), 3),
        (Training(batch_size=5), 3),
        (Training(batch_size=100, epochs=3), 3),
        (Training(batch_size=3, accumulate=2, epochs=0.5), 1),
        (Training(batch_size=4, steps=5), 5),
    ],
)
def test_steps_follow_epochs(model: Any, neurons: Any, training: Training, steps: int):
    _, history = trained(model, neurons, training)
    assert list(history["step"]) == list(range(1, steps + 1))
    assert list(history["lr"]) == [training.rate(i, steps) for i in range(steps)]


def test_a_generated_answer_is_learnt_with_its_end_and_a_label_without(model: Any):
    label = helpers.toy_task(3)
    free = replace(label, labels=(), metric="exact_match")
    items = training_items(view(model), [label, free], Prompt())
    assert [item.index for item in items] == list(range(6))
    assert [item.end for item in items] == [()] * 3 + [(10,)] * 3
    with pytest.raises(ValueError, match="no task"):
        training_items(view(model), [], Prompt())


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


# Checkpoints


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Make the given update (from 1) end as by Ctrl-C."""
    real, calls = training_loop.update, []

    def update(*arguments: Any):
        calls.append(None)
        if len(calls) == step:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(training_loop, "update", update)


RESUMED = Training(
    lr=1e-2, steps=8, batch_size=2, accumulate=2, weight_decay=0.1, validation=0.25,
    evaluate_every=3, checkpoint_every=3,
)  # fmt: skip


@pytest.mark.parametrize(
    "kind", ["bridge", pytest.param("hooked", marks=pytest.mark.needs("hooked"))]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resumed_run_ends_with_the_same_bytes(
    kind: str, dtype: torch.dtype, tokenizer: Any, neurons: Any, monkeypatch, tmp_path: Path
):
    model = helpers.both_classes(helpers.tiny_hf("llama"), tokenizer, dtype)[kind]
    task = helpers.toy_task(12)
    unbroken = finetune(model, task, neurons, RESUMED)
    unbroken.save(tmp_path / "unbroken")
    file = tmp_path / "run.safetensors"
    for step in (5, 3):  # the second run and the third begin at the checkpoint of step 3
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt_at(patch, step)
            finetune(model, task, neurons, RESUMED, checkpoint=file)
    resumed = finetune(model, task, neurons, RESUMED, checkpoint=file)
    resumed.save(tmp_path / "resumed")
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "unbroken").read_bytes()
    pd.testing.assert_frame_equal(resumed.history, unbroken.history)
    monkeypatch.setattr(training_loop, "update", None)  # a finished run has nothing to do
    finetune(model, task, neurons, RESUMED, checkpoint=file).save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "unbroken").read_bytes()


@pytest.mark.slow
def test_a_killed_process_is_taken_up(tmp_path: Path, model: Any, neurons: Any):
    task = helpers.toy_task(12)
    neurons.save(tmp_path / "neurons")
    program = """
        import os, signal, sys
        import torch
        torch.set_num_threads(1)
        import helpers
        from tl_taskneurons import NeuronSet
        from tl_taskneurons.training import loop as training_loop
        from tl_taskneurons.training.finetune import finetune
        from tl_taskneurons.training.settings import Training
        real, calls = training_loop.update, []
        def update(*arguments):
            calls.append(None)
            if len(calls) == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)
        training_loop.update = update
        here = sys.argv[1]
        model = helpers.tiny_lens("llama", tokenizer=helpers.tiny_tokenizer(f"{here}/tokenizer"))
        neurons = NeuronSet.load(f"{here}/neurons")
        finetune(model, helpers.toy_task(12), neurons, Training(**eval(sys.argv[2])),
                 checkpoint=f"{here}/run.safetensors")
    """
    settings = {"lr": 1e-2, "steps": 8, "batch_size": 4, "checkpoint_every": 2}
    here = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path), repr(settings)],
        env={**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"},
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    training = Training(**settings)
    unbroken = finetune(model, task, neurons, training)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 5)  # only four updates are left
        resumed = finetune(model, task, neurons, training, checkpoint=tmp_path / "run.safetensors")
    assert same(resumed.trained, unbroken.trained)
    assert len(resumed.history) == 8


@pytest.mark.parametrize("what", ["settings", "neurons", "examples", "dtype"])
def test_the_checkpoint_of_another_run_is_refused(
    model: Any, neurons: Any, tokenizer: Any, tmp_path: Path, what: str
):
    file = tmp_path / "run.safetensors"
    training = Training(steps=2, batch_size=4)
    task = helpers.toy_task(12)
    finetune(model, task, neurons, training, checkpoint=file)
    before = file.read_bytes()
    if what == "settings":
        training = replace(training, lr=1e-4)
    elif what == "neurons":
        neurons = neurons.random_like(0)
    elif what == "examples":
        task = helpers.toy_task(13)
    else:
        model = helpers.both_classes(helpers.tiny_hf("llama"), tokenizer, torch.bfloat16)["bridge"]
    named = {"settings": "lr: 0.001 there, 0.0001 now", "neurons": "trained: ",
             "examples": "n_examples: 12 there, 13 now",
             "dtype": "dtype: 'torch.float32' there, 'torch.bfloat16' now"}  # fmt: skip
    with pytest.raises(ValueError, match="checkpoint of another training") as caught:
        finetune(model, task, neurons, training, checkpoint=file)
    assert named[what] in str(caught.value)
    assert file.read_bytes() == before


def test_a_checkpoint_that_cannot_be_written_is_told_before_any_update(
    model: Any, neurons: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "a file").write_text("in the way")
    monkeypatch.setattr(training_loop, "update", lambda *_: pytest.fail("trained"))
    with pytest.raises(FileError, match="a file"):
        finetune(
            model, helpers.toy_task(4), neurons, checkpoint=tmp_path / "a file" / "run.safetensors"
        )


def test_a_damaged_checkpoint_and_an_interrupted_save(
    model: Any, neurons: Any, monkeypatch, tmp_path: Path
):
    file = tmp_path / "run.safetensors"
    training = Training(steps=4, batch_size=4, checkpoint_every=2)
    wanted, _ = trained(model, neurons, training)
    real, calls = files.save_file, []

    def full_disk(tensors: Any, path: Path, metadata: Any) -> None:
        calls.append(None)
        if len(calls) == 2:
            path.write_bytes(b"half")
            raise OSError("No space left on device")
        real(tensors, path, metadata=metadata)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(files, "save_file", full_disk)
        trained(model, neurons, training, checkpoint=file)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert same(trained(model, neurons, training, checkpoint=file)[0], wanted)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        trained(model, neurons, training, checkpoint=file)


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
