"""Several processes: the same results as one, and errors in all of them instead of a hang.

One torchrun call runs every job of ``sharing_jobs`` in two processes; most tests compare what they
wrote with the same job done here.
"""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helpers
import pandas as pd
import pytest
import sharing_jobs as jobs
import torch

import tl_taskneurons as tn
from tl_taskneurons.runtime import errors, sharing
from tl_taskneurons.runtime.atomic import write_atomically
from tl_taskneurons.runtime.roles import acting, current_role
from tl_taskneurons.runtime.sharing import Team, share_work

# A hang must fail the tests long before anyone stops them.
SECONDS = 240
MODELS = [f"{name}-{kind}" for name, kind in jobs.MODELS]
BRIDGES = [name for name in MODELS if name.endswith("bridge")]

# What the processes import: the package's folder, and what tests share.
HERE = Path(__file__).parents[1:3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the two processes left what they found."""
    path = tmp_path_factory.mktemp("shared")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        str(HERE[0] / "sharing_jobs.py"), str(path),
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, HERE))},
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        pytest.fail(f"The processes still ran after {SECONDS} s:\n{output}")
    assert process.returncode == 0, output
    return path


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    """What each process found, by rank."""
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def alone(tokenizer: Any) -> dict[str, Any]:
    return jobs.models(tokenizer)


def test_the_work_is_shared(found: list[dict[str, Any]], alone: dict[str, Any]):
    whole = jobs.rows_run(alone["llama-bridge"])
    assert whole == (7, 7)
    assert found[0]["outside"] == whole
    shares = [one["rows"] for one in found]
    assert [sum(rows) for rows in zip(*shares, strict=True)] == [7, 7]
    assert all(3 <= rows <= 4 for share in shares for rows in share)


def test_the_team(found: list[dict[str, Any]]):
    assert [one["team"] for one in found] == [(0, 2, "cpu", True), (1, 2, "cpu", False)]
    for one in found:
        assert one["nested"]
        assert one["still in use"]  # it was in use before
        assert one["taken down"]  # what the command line set up


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_one_process(
    name: str, found: list[dict[str, Any]], alone: dict[str, Any]
):
    expected = jobs.detected(alone[name], every=name == "llama-bridge")
    mine, theirs = (one[f"detected {name}"] for one in found)
    assert list(mine) == list(expected)
    for method, values in expected.items():
        assert torch.equal(mine[method], theirs[method]), method
        assert (mine[method] - values).abs().max() <= 1e-6 * values.abs().max(), method
        n_top = 3 if method == "exact" else 10
        top = [scores.flatten().topk(n_top).indices.sort()[0] for scores in (mine[method], values)]
        assert torch.equal(*top), method


@pytest.mark.parametrize("name", BRIDGES)
def test_answers_are_those_of_one_process(
    name: str, found: list[dict[str, Any]], alone: dict[str, Any]
):
    expected = jobs.evaluated(alone[name])
    mine, theirs = (one[f"evaluated {name}"] for one in found)
    assert mine == theirs
    for key, frame in expected.items():
        same = pd.read_json(io.StringIO(mine[key]), dtype=dict(frame.dtypes), convert_axes=False)
        same.index = frame.index
        # Another batch rounds differently; all else is equal.
        pd.testing.assert_frame_equal(same, frame, rtol=1e-6, atol=1e-6, obj=key)
    assert expected["match"]["score"].notna().all()
    assert len(set(expected["rank"]["prediction"])) > 0


@pytest.mark.parametrize("name", MODELS)
def test_training_is_that_of_one_process(
    name: str, found: list[dict[str, Any]], alone: dict[str, Any], tmp_path: Path
):
    expected = jobs.trained(alone[name], tmp_path)
    mine, theirs = (one[f"trained {name}"] for one in found)
    for how, (weights, history) in expected.items():
        for column, values in history.items():
            shared = mine[how][1][column]
            assert shared == pytest.approx(theirs[how][1][column], rel=0, abs=0, nan_ok=True)
            assert shared == pytest.approx(values, rel=1e-5, nan_ok=True), column
        assert list(mine[how][0]) == list(weights)
        for part in weights:
            assert torch.equal(mine[how][0][part], theirs[how][0][part]), (how, part)
        gaps = torch.cat([(mine[how][0][part] - v).abs().flatten() for part, v in weights.items()])
        assert gaps.mean() <= 1e-6, how
        # A weight whose gradient is rounding alone still moves, by AdamW, with the rounding's sign.
        assert gaps.max() <= (1e-3 if how == "all weights" else 2e-5), how


def test_the_checkpoint_of_several_is_resumed_by_one(folder: Path, alone: dict[str, Any]):
    name = MODELS[0]
    expected = jobs.trained(alone[name], folder / name)["usual"][0]
    result = torch.load(folder / "0.pt")[f"trained {name}"]["usual"][0]
    assert all(torch.equal(expected[part], value) for part, value in result.items())


@pytest.mark.parametrize(
    ("what", "kind", "words"),
    [
        ("model", "InputError", ["model is 2x48-", "in process 0", "in process 1"]),
        ("examples", "InputError", ["examples is hash", "evaluate_items"]),
        ("settings", "InputError", ["training is"]),
        ("neurons", "InputError", ["neurons is hash"]),
        ("place", "InputError", ["'evaluate_items'", "'score_batches'", "same order"]),
        ("disk", "", ["a file"]),
        ("loss, score", "InputError", ["loss of example 2 is nan"]),
        ("loss, evaluate", "InputError", ["loss of example 2 is nan"]),
        ("loss, train", "InputError", ["Training stopped at step 1", "loss of example 2 is nan"]),
        ("loss, hold out", "InputError", ["Training stopped at step 1", "example 2 is nan"]),
    ],
)
def test_errors_are_raised_by_all(
    what: str, kind: str, words: list[str], found: list[dict[str, Any]]
):
    for one in found:
        message = one["failures"][what]
        assert message.startswith(kind) and message != "nothing was raised"
        assert all(word in message for word in words), message
    if what.startswith("loss"):
        # One says what happened to it; the other says where it happened.
        assert sum("of 2 stopped" in one["failures"][what] for one in found) == 1


def test_work_goes_on_after_errors(found: list[dict[str, Any]]):
    for one in found:
        usual = one["detected llama-bridge"]["grad_act"]
        assert torch.equal(one["after failures"]["grad_act"], usual)


def test_the_command_line(folder: Path, found: list[dict[str, Any]], tmp_path: Path):
    for what in ("command", "again", "finetune"):
        assert [one[what][0] for one in found] == [0, 0]
        assert found[0][what][1] and not found[1][what][1]
    for what in ("refused", "report"):
        assert [one[what][0] for one in found] == [2, 2]
    code, text = jobs.printed([*jobs.COMMAND, "--out", str(tmp_path / "run")])
    assert code == 0
    assert text.splitlines()[:8] == found[0]["command"][1].splitlines()[:8]
    files = sorted(path.relative_to(tmp_path) for path in (tmp_path / "run").rglob("*.*"))
    assert files == sorted(path.relative_to(folder) for path in (folder / "run").rglob("*.*"))
    for file in files:
        if file.suffix == ".parquet":
            one, several = (pd.read_parquet(place / file) for place in (tmp_path, folder))
            pd.testing.assert_frame_equal(one, several, rtol=1e-5, atol=1e-5, obj=str(file))
    delta = tn.NeuronDelta.load(folder / "delta.safetensors")
    assert delta.info["steps"] == 2
    assert not list(folder.glob("delta*.checkpoint"))


# --- one process ---


def test_every_piece_is_in_one_share():
    costs = [7, 1, 1, 9, 3, 3, 2]
    shares = [Team(rank, 3).own(costs) for rank in range(3)]
    assert sorted(i for share in shares for i in share) == list(range(7))
    assert [sum(costs[i] for i in share) for share in shares] == [9, 9, 8]
    assert all(share == sorted(share) for share in shares)
    assert [Team(rank, 3).own([5]) for rank in range(3)] == [[0], [], []]


def test_followers_write_no_files(tmp_path: Path):
    def write(path: Path) -> None:
        path.write_text("x")

    with acting(Team(1, 2)):
        write_atomically(tmp_path / "file", write)
    assert not (tmp_path / "file").exists()
    with acting(Team(0, 2)):
        write_atomically(tmp_path / "file", write)
    assert (tmp_path / "file").read_text() == "x"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace what torchrun and other launchers set."""

    def replace(**variables: str) -> None:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return replace


TORCHRUN = {
    "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost",
    "MASTER_PORT": "1",
}  # fmt: skip


@pytest.mark.parametrize("variables", [{}, {**TORCHRUN, "WORLD_SIZE": "1"}])
def test_one_process_works_alone(
    variables: dict[str, str], environment: Callable[..., None], tokenizer: Any
):
    environment(**variables)
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    expected = tn.score_neurons(model, jobs.WORDS).values
    with tn.share_work() as team:
        assert (team.rank, team.size, team.leads) == (0, 1, True)
        assert torch.equal(tn.score_neurons(model, jobs.WORDS).values, expected)
        assert not torch.distributed.is_initialized()
    assert current_role().size == 1


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "LOCAL_RANK, MASTER_ADDR, MASTER_PORT missing"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_SIZE is 4, but RANK is not set"),
        ({**TORCHRUN, "WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
    ],
)
def test_other_environments_are_refused(
    variables: dict[str, str], words: str, environment: Callable[..., None]
):
    environment(**variables)
    with pytest.raises(ValueError, match=words) as caught, share_work():
        pass
    assert "torchrun --nproc-per-node" in str(caught.value)


@pytest.mark.parametrize(
    ("device", "words"),
    [("cuda", "LOCAL_RANK is 1, but this machine has 1 GPUs"), ("cuda:1", "say 'cuda'")],
)
def test_gpus_that_do_not_fit_are_refused(
    device: str, words: str, environment: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    environment(**TORCHRUN)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=words), share_work(device):
        pass
    assert not torch.distributed.is_initialized()


def test_every_error_of_the_library_is_raised_as_itself_everywhere():
    own = {kind for kind in vars(errors).values() if isinstance(kind, type)}
    own = {kind for kind in own if issubclass(kind, errors.TaskNeuronsError)}
    assert own - {errors.TaskNeuronsError} <= set(sharing._ERRORS.values())
