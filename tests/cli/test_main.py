"""The commands detect, deactivate and info: files, going on, and bad input."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import helpers
import pandas as pd
import pytest

from tl_taskneurons.cli import app as cli
from tl_taskneurons.cli import study as runs
from tl_taskneurons.loading.models import load_model
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.sets import NeuronSet, exclusive
from tl_taskneurons.report import terminal

TABLES = [f"deactivation_{name}.parquet" for name in ("items", "table", "matrix")]
TABLES += ["neurons.parquet", "layers.parquet"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return helpers.save_tiny("llama", tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small classification tasks in a folder."""
    folder = tmp_path_factory.mktemp("data")
    labels = {"parity": ["odd", "even"], "size": ["big", "small"], "tone": ["up", "down"]}
    for name, (one, other) in labels.items():
        (folder / name).mkdir()
        for split, start in (("train", 0), ("test", 100)):
            rows = [
                {"input": f"{name} {start + k}", "target": one if k % 2 else other}
                for k in range(8)
            ]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / name / f"{split}.jsonl").write_text(text)
    described = {
        name: {"instruction": "Say it.", "labels": pair, "metric": "accuracy", "family": "toy"}
        for name, pair in labels.items()
    }
    (folder / "tasks.json").write_text(json.dumps(described))
    return folder


@pytest.fixture(scope="module")
def command_into(model: Path, data: Path):
    """Arguments of a small run into a folder, with changes."""

    def make(name: str, out: Path, **changes: str) -> list[str]:
        options = {
            "--model": str(model), "--data": str(data), "--tasks": "parity,size,tone",
            "--fraction": "0.2", "--selection": "plain,exclusive", "--shots": "1", "--limit": "5",
            "--device": "cpu", "--out": str(out),
        }  # fmt: skip
        if name == "deactivate":
            options |= {"--test-limit": "4", "--controls": "2"}
        options |= {f"--{key.replace('_', '-')}": value for key, value in changes.items()}
        return [name, *(word for pair in options.items() for word in pair)]

    return make


@pytest.fixture
def command(command_into: Any, tmp_path: Path):
    """Arguments of a small run into ``tmp_path / "out"``."""
    return lambda name, **changes: command_into(name, tmp_path / "out", **changes)


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time of a tiny run."""
    monkeypatch.setattr(terminal, "draw", lambda *arguments: [])


@pytest.fixture(scope="module")
def straight(command_into: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in one go."""
    folder = tmp_path_factory.mktemp("straight")
    assert cli.main(command_into("deactivate", folder)) == 0
    return folder


def run(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def read(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(folder / f"{name}.parquet")


def fails(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a user's error prints."""
    code, out, err = run(arguments, capsys)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert err.rstrip().endswith(line)
    return line


def test_detect_writes_scores_sets_and_tables(command: Any, tmp_path: Path, model: Path, capsys):
    code, out, _ = run(command("detect"), capsys)
    assert code == 0
    folder = tmp_path / "out"
    assert "parity" in out and str(folder) in out.replace("\n", "")
    here = view(load_model(model, device="cpu"))
    scores = {n: NeuronScores.load(folder / "scores" / f"{n}.safetensors")
              for n in ("parity", "size", "tone")}  # fmt: skip
    plain = {name: own.top(fraction=0.2) for name, own in scores.items()}
    wanted = {"plain": plain, "exclusive": exclusive(plain)}
    neurons = read(folder, "neurons")
    assert set(neurons["fingerprint"]) == {here.fingerprint}
    needed = {"model", "fingerprint", "task", "seed", "method", "fraction", "selection"}
    assert needed | {"layer", "neuron", "score"} == set(neurons.columns)
    for selection, sets in wanted.items():
        for name, expected in sets.items():
            assert NeuronSet.load(folder / "sets" / selection / f"{name}.safetensors") == expected
            rows = neurons[(neurons["selection"] == selection) & (neurons["task"] == name)]
            pairs = list(zip(rows["layer"], rows["neuron"], strict=True))
            assert pairs == [tuple(pair) for pair in expected.mask.nonzero().tolist()]
            values = [scores[name].values[pair].item() for pair in pairs]
            assert rows["score"].tolist() == values
    layers = read(folder, "layers")
    assert layers.groupby(["selection", "task"])["share"].sum().tolist() == [pytest.approx(1)] * 6
    assert layers["n_neurons"].sum() == len(neurons)
    assert (folder / "layers-exclusive.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"


def test_deactivate_uses_the_scores_of_detect_and_writes_every_table(
    command: Any, tmp_path: Path, capsys, monkeypatch, no_figures, straight: Path
):
    assert cli.main(command("detect")) == 0
    monkeypatch.setattr(runs, "score_neurons", None)  # not to be called again
    code, out, _ = run(command("deactivate"), capsys)
    assert code == 0 and str(tmp_path / "out") in out.replace("\n", "")
    folder = tmp_path / "out"
    for name in TABLES:  # as without a separate detect
        assert (folder / name).read_bytes() == (straight / name).read_bytes(), name
    items = read(folder, "deactivation_items")
    # per selection: the plain model and 3 sets on 3 tasks, 2 controls for each set on its own task
    assert len(items) == 2 * 4 * (3 + 9 + 6)
    table, matrix = read(folder, "deactivation_table"), read(folder, "deactivation_matrix")
    needed = {"model", "fingerprint", "task", "seed", "method", "fraction", "selection"}
    for frame, rows in ((items, 144), (table, 6), (matrix, 18)):
        assert needed <= set(frame.columns) and len(frame) == rows
    original = items[(items["kind"] == "none") & (items["selection"] == "plain")]
    for name, value in original.groupby("task")["score"].mean().items():
        assert (table.loc[table["task"] == name, "original"] == value).all()
    assert (table["n_controls"] == 2).all()


def test_deactivate_draws_every_figure(straight: Path):
    names = {f"{kind}-{s}" for kind in ("matrix", "bars", "layers") for s in ("plain", "exclusive")}
    assert {file.stem for file in straight.glob("*.png")} == {"overview", *names}
    for file in straight.glob("*.png"):
        assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError("killed")])
def test_a_stopped_run_goes_on_and_gives_the_same_bytes(
    command: Any, tmp_path: Path, capsys, monkeypatch, no_figures, straight: Path,
    error: BaseException,
):  # fmt: skip
    real, conditions = runs.evaluate_condition, []

    def breaking(model: Any, tasks: Any, condition: Any, **options: Any) -> pd.DataFrame:
        if len(conditions) == 5:
            raise error
        conditions.append((condition.silenced, condition.kind, condition.seed))
        return real(model, tasks, condition, **options)

    monkeypatch.setattr(runs, "evaluate_condition", breaking)
    capsys.readouterr()
    if isinstance(error, KeyboardInterrupt):
        code, _, err = run(command("deactivate"), capsys)
        assert code == 130
        assert "stopped" in err and str(tmp_path / "out") in err and "Traceback" not in err
    else:
        with pytest.raises(MemoryError):
            cli.main(command("deactivate"))
    folder = tmp_path / "out"
    assert len(list((folder / "units").rglob("*.parquet"))) == 5
    assert not (folder / "deactivation_table.parquet").exists()

    def counting(model: Any, tasks: Any, condition: Any, **options: Any) -> pd.DataFrame:
        conditions.append((condition.silenced, condition.kind, condition.seed))
        return real(model, tasks, condition, **options)

    monkeypatch.setattr(runs, "evaluate_condition", counting)
    assert cli.main(command("deactivate")) == 0
    assert len(conditions) == 1 + 2 * (3 + 3 * 2)  # each condition once, the plain model once
    for name in TABLES:
        assert (folder / name).read_bytes() == (straight / name).read_bytes(), name
    for file in (folder / "units").rglob("*.parquet"):
        assert file.read_bytes() == (straight / file.relative_to(folder)).read_bytes()


def test_another_configuration_is_refused(command: Any, tmp_path: Path, capsys, no_figures):
    assert cli.main(command("detect")) == 0
    capsys.readouterr()
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    line = fails(command("detect", fraction="0.3", shots="2"), capsys)
    assert "fraction: 0.2 there, 0.3 now" in line and "shots: 1 there, 2 now" in line
    assert before == {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}


def test_a_changed_model_or_task_under_the_same_name_is_refused(
    command: Any, tmp_path: Path, capsys, no_figures
):
    folder = helpers.save_tiny("llama", tmp_path / "mine", seed=1)
    arguments = command("detect", model=str(folder))
    assert cli.main(arguments) == 0
    helpers.save_tiny("llama", folder, seed=2)
    capsys.readouterr()
    assert "fingerprint" in fails(arguments, capsys)


@pytest.mark.parametrize(
    ("selection", "ablation"), [("exclude", "zero"), ("difference", "mean"), ("rank", "zero")]
)
def test_every_selection_and_ablation_runs(
    command: Any, tmp_path: Path, no_figures, selection: str, ablation: str
):
    arguments = command("deactivate", selection=selection, ablation=ablation, controls="1",
                        test_limit="2", tasks="parity,size")  # fmt: skip
    assert cli.main(arguments) == 0
    table = read(tmp_path / "out", "deactivation_table")
    assert set(table["selection"]) == {selection} and set(table["ablation"]) == {ablation}
    assert (table["n_controls"] == 1).all()
    assert (tmp_path / "out" / "activation_means.safetensors").exists() == (ablation == "mean")
    neurons = read(tmp_path / "out", "neurons")
    counts = neurons.groupby("task").size()
    assert (counts <= round(0.2 * 96)).all() and (counts > 0).all()
    if selection != "exclude":  # a neuron can be above the others in one task only
        assert not neurons.duplicated(["layer", "neuron"]).any()


def test_info_shows_the_model_and_the_tasks(model: Path, data: Path, capsys):
    code, out, _ = run(["info", "--model", str(model), "--data", str(data)], capsys)
    here = view(load_model(model, device="cpu"))
    assert code == 0
    for text in (
        "48",
        here.fingerprint,
        "blocks.0.mlp.hook_post",
        "float32",
        "parity",
        "odd, even",
    ):
        assert text in out
    code, out, _ = run(["info"], capsys)
    assert code == 0 and "present_past" in out and "Model" not in out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tasks": "parity,sizes"}, ["'sizes'", "size"]),
        ({"method": "grad_atc"}, ["'grad_atc'", "did you mean 'grad_act'"]),
        ({"method": "exact"}, ["'exact'", "neurons="]),
        ({"selection": "exclusiv"}, ["'exclusiv'", "did you mean 'exclusive'"]),
        ({"fraction": "0"}, ["fraction is 0.0", "(0, 1]"]),
        ({"fraction": "1.5"}, ["fraction is 1.5"]),
        ({"fraction": "ten"}, ["--fraction", '"ten"']),
        ({"limit": "0"}, ["limit is 0", "at least 1"]),
        ({"shots": "-1"}, ["shots is -1"]),
        ({"tasks": "parity"}, ["at least two tasks"]),
        ({"tasks": ","}, ["tasks is ()"]),
        ({"data": "nowhere/at/all"}, ["nowhere/at/all"]),
        ({"model": "nowhere/at/all/tiny"}, ["nowhere/at/all/tiny"]),
        ({"dtype": "float12"}, ["--dtype", '"float12"', "float32"]),
        ({"kind": "hocked"}, ["--kind", '"hocked"', "hooked"]),
        ({"seed": "-1"}, ["seed is -1"]),
        ({"seed": str(2**70)}, [f"seed is {2**70}", "2**63"]),
        ({"device": "cuda"}, ["device is 'cuda'", "no CUDA device"]),
        ({"device": "gpu"}, ["device is 'gpu'"]),
        ({"device": "cuda;1"}, ["device is 'cuda;1'"]),
        ({"model": "mini-lama"}, ["'mini-lama'", "mini-llama"]),
        ({"shosts": "1"}, ["--shosts", "--shots"]),
    ],
)
def test_bad_input_is_one_clear_line(
    command: Any, capsys, change: dict[str, str], words: list[str]
):
    line = fails(command("detect", **change), capsys)
    for word in words:
        assert word in line


def test_bad_commands_are_one_clear_line_too(capsys):
    assert "COMMAND" in fails([], capsys)
    assert "--tasks" in fails(["detect", "--out", "x"], capsys)
    assert "detcet" in fails(["detcet"], capsys)


def test_debug_shows_the_traceback(command: Any):
    with pytest.raises(ValueError, match="fraction is 2"):
        cli.main([*command("detect", fraction="2"), "--debug"])
