import json
from pathlib import Path
from typing import Any

import helpers
import pandas as pd
import pytest

from tl_taskneurons.cli import main
from tl_taskneurons.cli.options import Source
from tl_taskneurons.cli.question import Asked
from tl_taskneurons.cli.results import results_folder
from tl_taskneurons.cli.settings import Detection
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.report.folder import read_folder
from tl_taskneurons.report.page import _facts
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.run_folder import RunFolder

COLUMNS = ["--columns", "input=question,label=kind"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(helpers.save_tiny("llama", tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two tasks in files whose columns have other names than ours."""
    folder = tmp_path_factory.mktemp("data")
    for name, (one, other) in {"parity": ("odd", "even"), "tone": ("up", "down")}.items():
        rows = [{"question": f"{name} {k}", "kind": one if k % 2 else other} for k in range(12)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    return str(folder)


@pytest.fixture(scope="module")
def common(model: str, data: str) -> list[str]:
    return ["--model", model, "--data", data, *COLUMNS, "--tasks", "parity,tone", "--shots", "1",
            "--device", "cpu", "--limit", "4"]  # fmt: skip


@pytest.fixture(scope="module")
def found(common: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that detect wrote, for a question of its own."""
    folder = tmp_path_factory.mktemp("found")
    asked = ["--metric", "log_prob", "--ablation", "mean", "--positions", "answer"]
    asked += ["--layers", "1", "--fraction", "0.1"]
    assert main(["detect", *common, *asked, "--out", str(folder)]) == 0
    return folder


def test_detect_asks_what_it_is_told_to(found: Path):
    scores = NeuronScores.load(found / "scores" / "parity.safetensors")
    facts = {name: scores.info[name] for name in ("metric", "ablation", "positions", "layers")}
    assert facts == {"metric": "log_prob", "ablation": "mean", "positions": "answer",
                     "layers": [1]}  # fmt: skip
    assert not scores.values[0].any() and scores.values[1].any()


def test_sets_know_how_much_of_them_would_return(found: Path, capsys: Any):
    share = NeuronSet.load(found / "sets" / "plain" / "tone.safetensors").info["split_half"]
    assert 0 <= share <= 1
    layers = pd.read_parquet(found / "layers.parquet")
    assert layers[layers["task"] == "tone"]["split_half"].unique().tolist() == [share]


def test_overlap_compares_the_sets_of_a_folder_or_of_files(
    found: Path, tmp_path: Path, capsys: Any
):
    assert main(["overlap", str(found), "--out", str(tmp_path / "shared")]) == 0
    said = capsys.readouterr().out
    assert "parity" in said and "p (Holm)" in said
    table = pd.read_csv(tmp_path / "shared" / "overlap.csv")
    assert table[["task_x", "task_y"]].to_numpy().tolist() == [["parity", "tone"]]
    assert (tmp_path / "shared" / "overlap.png").stat().st_size > 5_000
    files = sorted(map(str, (found / "sets" / "plain").iterdir()))
    assert main(["overlap", *files]) == 0
    assert capsys.readouterr().out == said.partition("Results are in")[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "There is no file or folder nothing"),
        (["{found}", "--selection", "exclusive"], "by the selection 'exclusive' (it has plain)"),
        (["{found}/sets/plain/tone.safetensors"], "give at least two sets"),
        (["{found}/units"], "There is no file or folder"),
        (["{found}/scores/tone.safetensors", "{found}/scores/parity.safetensors"], "NeuronScores"),
    ],
)
def test_what_holds_no_sets_is_told(
    found: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["overlap", *(word.format(found=found) for word in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_generate_shows_answers_side_by_side(
    found: Path, common: list[str], tmp_path: Path, capsys: Any
):
    arguments = ["generate", *common, "--examples", "2", "--max-new-tokens", "3"]
    assert main([*arguments, "--neurons", str(found), "--out", str(tmp_path)]) == 0
    assert "undisturbed" in capsys.readouterr().out
    answers = pd.read_csv(tmp_path / "tone_generations.csv")
    columns = ["input", "target", "undisturbed", "without parity", "without tone"]
    assert list(answers.columns) == columns
    assert len(answers) == 2
    run = json.loads((tmp_path / "run.json").read_text())
    assert (run["status"], run["arguments"]["command"]) == ("finished", "generate")
    assert main([*arguments, "--ablation", "mean", "--fraction", "0.1"]) == 0
    assert "without tone" in capsys.readouterr().out.replace("\n", " ")
    (tmp_path / "own.json").write_text('{"0": [1, 2]}')
    own = [*arguments, "--neurons", str(tmp_path / "own.json")]
    assert main([*own, "--out", str(tmp_path / "own")]) == 0
    (tmp_path / "own.json").write_text('{"0": [3]}')  # other neurons by the same name
    capsys.readouterr()
    assert main([*own, "--out", str(tmp_path / "own")]) == 2
    assert "neurons: ['own.json (" in capsys.readouterr().err
    assert main(["overlap", str(tmp_path / "own.json"), str(found)]) == 2
    assert "says nothing of their model" in capsys.readouterr().err
    assert main([*arguments, "--neurons", str(found), "--layers", "0"]) == 2
    assert "has no neuron in the layers [0]" in capsys.readouterr().err


def test_results_are_not_mixed_with_those_of_another_model_or_command(
    found: Path, common: list[str], tmp_path: Path, capsys: Any
):
    before = sorted(found.rglob("*"))
    other = [*common]
    other[other.index("--model") + 1] = "mini-llama-base"
    for command in ("find", "curves", "generate"):
        assert main([command, *other, "--out", str(found)]) == 2
        assert "holds results of the model" in capsys.readouterr().err
    with RunFolder.open(tmp_path / "row", {"model": "a"}, kind="continual") as run:
        (run.path / "units").mkdir()
        run.finish()
    assert main(["generate", *common, "--out", str(tmp_path / "row")]) == 2
    assert "holds the results of 'continual', and this is 'generate'" in capsys.readouterr().err
    assert sorted(found.rglob("*")) == before


def test_results_of_other_arguments_are_not_written_over(tmp_path: Path):
    facts = {"model": "m", "tasks": ["parity", "tone"], "limit": 24}
    first = ("find", facts, ["parity"])
    others: list[tuple[str, dict[str, Any], list[str]]] = [
        first, ("find", {**facts, "limit": 4}, ["tone"]), ("curves", {**facts, "limit": 4}, []),
        ("generate", facts, ["parity", "tone"]),
    ]  # fmt: skip
    with results_folder(tmp_path / "row", *first) as file:
        assert file is not None
    for command, given, tasks in others:
        with results_folder(tmp_path / "row", command, given, tasks) as file:
            assert file is not None
            with (
                pytest.raises(BlockingIOError, match="Another process is writing"),
                results_folder(tmp_path / "row", command, given, tasks),
            ):
                pass
    for command, given, tasks in others:
        with (
            pytest.raises(ValueError, match=r"limit: (24|4) there, 9 now"),
            results_folder(tmp_path / "row", command, {**given, "limit": 9}, tasks[-1:]),
        ):
            pass
    # The report lists the arguments of what was added, and those of the folder once.
    groups = _facts(read_folder(tmp_path / "row"), {})
    assert groups["curves"] == {**facts, "limit": 4} and "find parity" not in groups
    assert not any(isinstance(fact, dict) for fact in groups["Run"].values())


def test_nothing_is_written_through_a_link_out_of_the_folder(
    common: list[str], tmp_path: Path, capsys: Any
):
    with RunFolder.open(tmp_path / "run", {}, kind="results") as run:
        run.finish()
    (tmp_path / "elsewhere").mkdir()
    (run.path / "scores").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert main(["find", *common, "--out", str(run.path)]) == 2
    assert "leads out of the folder" in capsys.readouterr().err
    assert not [*(tmp_path / "elsewhere").iterdir()]


def test_control_characters_in_names_are_shown(found: Path, tmp_path: Path, capsys: Any):
    neurons = NeuronSet.load(found / "sets" / "plain" / "tone.safetensors")
    neurons.rename("\x1b[31mred [b]bold[/b]").save(tmp_path / "set.safetensors")
    words = ["export", str(tmp_path / "set.safetensors"), "--out", str(tmp_path / "n.json")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "\\x1b[31mred [b]bold[/b]" in said and "\x1b" not in said


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--layers", "0-999999999999", "layers has '0-999999999999'"),
        ("--layers", "5-2", "the lower number first"),
        ("--examples", "0", "examples is 0"),
        ("--max-new-tokens", "-1", "max_new_tokens is -1"),
    ],
)
def test_numbers_are_refused_before_any_model_is_loaded(
    option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["generate", "--tasks", "present_past", option, value]) == 2
    assert message in capsys.readouterr().err


def test_layers_and_positions_are_read():
    source = Detection(tasks=("a",), positions="1:", layers=(2,))
    assert (source.place, source.scoring()["layers"]) == (slice(1, None), (2,))
    assert Asked(positions="-3:").place == slice(-3, None)
    assert Source(columns=("input=question", "target=a=b")).mapping == {
        "question": "input", "a=b": "target",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"metric": "los"}, "did you mean 'loss'"),
        ({"ablation": "zer"}, "did you mean 'zero'"),
        ({"positions": "answers"}, "did you mean 'answer'"),
        ({"columns": ("question",)}, "columns has 'question'"),
        ({"method": "random", "layers": (1,)}, "positions and layers mean nothing"),
        ({"method": "activation", "metric": "prob"}, "means nothing to it"),
    ],
)
def test_what_can_not_be_asked_is_told_before_anything_is_loaded(wrong: Any, message: str):
    with pytest.raises(InputError, match=message):
        Detection(tasks=("a",), **wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["detect", "--layers", "1-x"], "layers has '1-x'"),
        (["detect", "--method", "activation", "--ablation", "mean"], "silences nothing"),
        (["deactivate", "--ablation", "resample"], "ablation is 'resample'"),
        (["generate", "--ablation", "counterfactual"], "ablation is 'counterfactual'"),
        (["generate", "--columns", "input=questions"], "did you mean 'question'"),
    ],
)
def test_commands_tell_what_they_can_not_do(
    arguments: list[str], message: str, data: str, capsys: Any, tmp_path: Path
):
    given = [*arguments, "--data", data, "--tasks", "tone"]
    given += [] if "--columns" in arguments else COLUMNS
    given += [] if arguments[0] == "generate" else ["--out", str(tmp_path)]
    assert main(given) == 2
    assert message in capsys.readouterr().err
