"""Checkpoints: a run that was broken off ends as if it had not been."""

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
from training_runs import interrupt_at, same, trained

from tl_taskneurons.runtime import tensor_files as files
from tl_taskneurons.runtime.errors import FileError
from tl_taskneurons.training import loop as training_loop
from tl_taskneurons.training.finetune import finetune
from tl_taskneurons.training.settings import Training


@pytest.fixture
def model(tokenizer: Any) -> Any:
    return helpers.tiny_lens("llama", tokenizer=tokenizer)


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
