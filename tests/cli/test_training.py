import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import helpers
import pytest
import torch
import transformers

from tl_taskneurons.cli import app as cli
from tl_taskneurons.evaluation.evaluate import evaluate
from tl_taskneurons.loading.models import load_model
from tl_taskneurons.loading.tasks import load_tasks
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.tasks.prompts import Prompt
from tl_taskneurons.training import loop as training_loop
from tl_taskneurons.training.deltas import NeuronDelta


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return helpers.save_tiny("llama", tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    labels = {"parity": ["odd", "even"], "size": ["big", "small"]}
    for name, pair in labels.items():
        (folder / name).mkdir()
        for split in ("train", "test"):
            rows = [{"input": f"{split} {k}", "target": pair[k % 2]} for k in range(8)]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / name / f"{split}.jsonl").write_text(text)
    described = {name: {"labels": pair, "metric": "accuracy"} for name, pair in labels.items()}
    (folder / "tasks.json").write_text(json.dumps(described))
    return folder


@pytest.fixture
def words(base: Path, data: Path, tmp_path: Path):
    """Arguments of a small finetune, with changes; None takes an argument out."""

    def make(**changes: str | None) -> list[str]:
        options: dict[str, str | None] = {
            "model": str(base), "data": str(data), "tasks": "parity", "device": "cpu",
            "fraction": "0.2", "shots": "1", "limit": "6", "test-limit": "4", "lr": "0.01",
            "steps": "4", "batch-size": "3", "out": str(tmp_path / "d.safetensors"),
        }  # fmt: skip
        options |= {name.replace("_", "-"): value for name, value in changes.items()}
        given = {name: value for name, value in options.items() if value is not None}
        return [
            "finetune",
            *(word for name, value in given.items() for word in (f"--{name}", value)),
        ]

    return make


def run(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def fails(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a user's error prints."""
    code, out, err = run(arguments, capsys)
    assert (code, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    return line


def test_finetune_apply_and_merge(words: Any, base: Path, data: Path, tmp_path: Path, capsys):
    code, out, _ = run(words(), capsys)
    assert code == 0
    file = tmp_path / "d.safetensors"
    assert [path.name for path in tmp_path.iterdir()] == [file.name]  # no checkpoint is left
    delta = NeuronDelta.load(file)
    assert delta.info["training"]["lr"] == 0.01 and delta.info["steps"] == 4
    assert delta.info["training"]["batch_size"] == 3 and delta.info["examples"] == 6
    assert len(delta.neurons) == round(0.2 * delta.neurons.mask.numel())
    for text in ("19 neurons, 19.8% of all", "4 steps, loss", "d.safetensors", "parity"):
        assert text in out.replace("\n", "")

    # The table says what evaluate says, before and after.
    model = load_model(base, device="cpu")
    tasks = load_tasks(data, ["parity"])
    prompt = Prompt(shots=1)
    plain = evaluate(model, tasks, prompt=prompt, limit=4)
    with delta.applied(model):
        trained = evaluate(model, tasks, prompt=prompt, limit=4)
        ids = torch.arange(1, 9)[None]
        wanted = model(ids).log_softmax(-1)
        fingerprint = view(model).fingerprint
    row = next(line for line in out.splitlines() if "parity" in line)
    for frame in (plain, trained):
        assert f"{frame['value'][0]:.1%}" in row and f"{frame['loss'][0]:.3f}" in row
    assert f"{plain['loss'][0]:.3f}" != f"{trained['loss'][0]:.3f}"

    # apply takes tasks and prompt from the file.
    given = ["--delta", str(file), "--model", str(base)]
    arguments = ["apply", *given, "--data", str(data), "--device", "cpu", "--test-limit", "4"]
    code, shown, _ = run(arguments, capsys)
    assert code == 0 and row in shown.splitlines()
    code, shown, _ = run([*arguments, "--scale", "0"], capsys)
    (row,) = [line for line in shown.splitlines() if "parity" in line]
    assert row.count(f"{plain['loss'][0]:.3f}") == 2
    code, shown, _ = run([*arguments, "--tasks", "size", "--shots", "0"], capsys)
    assert code == 0 and "size" in shown and "parity" not in shown

    code, shown, _ = run(["merge", *given, "--out", str(tmp_path / "merged")], capsys)
    assert code == 0 and "merged" in shown
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits.log_softmax(-1), wanted, atol=2e-5, rtol=0)
    assert view(load_model(tmp_path / "merged", device="cpu")).fingerprint == fingerprint


def test_neurons_of_a_run_and_sums_of_deltas(words: Any, base: Path, tmp_path: Path, capsys):
    model = load_model(base, device="cpu")
    mask = torch.zeros(view(model).shape, dtype=torch.bool)
    sets = {}
    for name, layer in (("parity", 0), ("size", 1)):
        chosen = mask.clone()
        chosen[layer, :5] = True
        sets[name] = NeuronSet(chosen, view(model).fingerprint, name)
        sets[name].save(tmp_path / "run" / "sets" / "exclusive" / f"{name}.safetensors")
    both = words(neurons=str(tmp_path / "run"), selection="exclusive", tasks="parity,size")
    assert run(both, capsys)[0] == 0
    delta = NeuronDelta.load(tmp_path / "d.safetensors")
    assert delta.neurons == sets["parity"] | sets["size"]
    assert delta.info["tasks"] == ["parity", "size"]

    total = delta + delta.scaled(-1.0)
    total.save(tmp_path / "sum.safetensors")
    given = ["apply", "--model", str(base), "--device", "cpu", "--delta"]
    line = fails([*given, str(tmp_path / "sum.safetensors")], capsys)
    assert "sum.safetensors" in line and "--tasks" in line
    line = fails(words(neurons=str(tmp_path / "run"), out=str(tmp_path / "e")), capsys)
    assert "selection 'plain'" in line and "exclusive" in line


def test_a_stopped_call_goes_on(words: Any, tmp_path: Path, capsys, monkeypatch):
    assert run(words(), capsys)[0] == 0
    whole = (tmp_path / "d.safetensors").read_bytes()
    (tmp_path / "d.safetensors").unlink()
    steps = words(checkpoint_every="2")
    real, calls = training_loop.update, []

    def update(*arguments: Any) -> tuple[float, float]:
        calls.append(None)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(training_loop, "update", update)
    code, _, err = run(steps, capsys)
    assert code == 130 and "Call the same command again" in err
    assert [path.name for path in tmp_path.iterdir()] == ["d.safetensors.checkpoint"]
    checkpoint = (tmp_path / "d.safetensors.checkpoint").read_bytes()
    assert run(steps, capsys)[0] == 0
    assert len(calls) == 6  # three updates, the stop, and the two that were left
    found, wanted = (NeuronDelta.load(tmp_path / "d.safetensors"), tmp_path / "whole")
    wanted.write_bytes(whole)
    expected = NeuronDelta.load(wanted)
    assert all(torch.equal(found.trained[k], v) for k, v in expected.trained.items())
    # Killed between writing the file and removing the checkpoint, it writes the same file again.
    before = (tmp_path / "d.safetensors").read_bytes()
    (tmp_path / "d.safetensors.checkpoint").write_bytes(checkpoint)
    assert run(steps, capsys)[0] == 0
    assert (tmp_path / "d.safetensors").read_bytes() == before
    assert not (tmp_path / "d.safetensors.checkpoint").exists()


def test_a_checkpoint_that_cannot_be_written_is_told_before_the_work(
    words: Any, tmp_path: Path, capsys, monkeypatch
):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr("tl_taskneurons.loading.models.load_model", lambda *_, **__: 1 / 0)
    line = fails(words(checkpoint=str(tmp_path / "file" / "c")), capsys)
    assert "is a file, so nothing can be written" in line


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        ({"lr": "-1"}, ["lr is -1.0"]),
        ({"patience": "3"}, ["patience is 3", "validation"]),
        ({"tasks": "pariti"}, ["pariti", "parity"]),
        ({"fraction": "2"}, ["fraction is 2.0"]),
        ({"method": "exact"}, ["'exact'", "neurons="]),
        ({"neurons": "nowhere"}, ["nowhere", "detect"]),
        ({"out": None}, ["--out"]),
    ],
)
def test_errors_are_one_clear_line(words: Any, change: dict[str, Any], texts: list[str], capsys):
    line = fails(words(**change), capsys)
    for text in texts:
        assert text in line


def test_existing_and_missing_files(words: Any, base: Path, tmp_path: Path, capsys):
    (tmp_path / "d.safetensors").write_text("mine")
    assert "d.safetensors exists" in fails(words(), capsys)
    assert (tmp_path / "d.safetensors").read_text() == "mine"
    for command in (["apply"], ["merge", "--out", str(tmp_path / "merged")]):
        given = ["--model", str(base), "--delta"]
        assert "No file" in fails([*command, *given, str(tmp_path / "none")], capsys)
        assert "damaged" in fails([*command, *given, str(tmp_path / "d.safetensors")], capsys)


def test_neurons_of_a_list(words: Any, base: Path, tmp_path: Path, capsys):
    model, run_folder = load_model(base, device="cpu"), tmp_path / "run"
    chosen = {
        name: NeuronSet.from_pairs(model, [(layer, 1), (layer, 5)], name)
        for name, layer in (("parity", 0), ("size", 1))
    }
    for name, neurons in chosen.items():
        neurons.save(run_folder / "sets" / "plain" / f"{name}.safetensors")
    code, shown, _ = run(["export", str(run_folder), "--out", str(tmp_path / "n.json")], capsys)
    assert code == 0 and "parity 2, size 2" in shown
    assert run(words(neurons=str(tmp_path / "n.json"), tasks="parity,size"), capsys)[0] == 0
    delta = NeuronDelta.load(tmp_path / "d.safetensors")
    assert delta.neurons == chosen["parity"] | chosen["size"]

    again = {"out": str(tmp_path / "e")}
    (tmp_path / "other.json").write_text('{"a": {"0": [1]}, "b": {"1": [2]}}')
    line = fails(words(neurons=str(tmp_path / "other.json"), **again), capsys)
    assert "the sets a, b, none for parity" in line
    (tmp_path / "far.csv").write_text("layer,neuron\n7,1\n")
    line = fails(words(neurons=str(tmp_path / "far.csv"), **again), capsys)
    assert "(7, 1)" in line and "far.csv" in line


def test_neurons_are_exported_from_folders_of_detect_and_find(tmp_path: Path, capsys):
    neurons = NeuronSet(torch.eye(3, dtype=torch.bool), "3x3-a-b", "film")
    neurons.save(tmp_path / "found" / "film.safetensors")
    neurons.save(tmp_path / "run" / "sets" / "exclusive" / "film.safetensors")
    for source in (["found"], ["found/film.safetensors"], ["run", "--selection", "exclusive"]):
        file = tmp_path / f"{len([*tmp_path.iterdir()])}.csv"
        arguments = ["export", str(tmp_path / source[0]), *source[1:], "--out", str(file)]
        assert run(arguments, capsys)[0] == 0
        assert file.read_text() == "set,layer,neuron\nfilm,0,0\nfilm,1,1\nfilm,2,2\n"
    for arguments, told in (
        (["export", str(tmp_path / "run")], "by the selection 'plain' (it has exclusive)"),
        (["export", str(tmp_path)], "holds no sets; give a folder"),
        (["export", str(tmp_path / "none")], "There is no file or folder"),
    ):
        assert told in fails([*arguments, "--out", str(tmp_path / "x.json")], capsys)
    line = fails(["export", str(tmp_path / "found"), "--out", str(tmp_path / "x.txt")], capsys)
    assert "ends in .json or .csv" in line
    line = fails(["export", str(tmp_path / "found"), "--out", str(file)], capsys)
    assert "exists" in line
