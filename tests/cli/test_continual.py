"""``tl-taskneurons continual``, on a tiny model."""

import json
from pathlib import Path

import helpers
import pandas as pd
import pytest

from tl_taskneurons.cli import app as cli
from tl_taskneurons.runtime.table_files import read_json, read_table

SMALL = ["--steps", "2", "--batch-size", "4"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return helpers.save_tiny("llama", tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    labels = {"parity": ["odd", "even"], "size": ["big", "small"]}
    for name, pair in labels.items():
        (folder / name).mkdir()
        for split, n in (("train", 12), ("test", 4)):
            rows = [{"input": f"{split} {k}", "target": pair[k % 2]} for k in range(n)]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / name / f"{split}.jsonl").write_text(text)
    described = {name: {"labels": pair, "metric": "accuracy"} for name, pair in labels.items()}
    (folder / "tasks.json").write_text(json.dumps(described))
    return folder


def command(base: Path, data: Path, out: Path, *more: str) -> list[str]:
    return [
        "continual", "--model", str(base), "--data", str(data), "--device", "cpu", "--shots", "0",
        "--out", str(out), *SMALL, *more,
    ]  # fmt: skip


def test_the_command_writes_tables_and_the_curves(
    base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = command(base, data, tmp_path, "--tasks", "size,parity", "--method", "ncft,w-ncft")
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "ncft: score of each task" in said
    assert "mean score (CL)" in said
    summary = read_table(tmp_path / "summary.parquet")
    assert summary["method"].tolist() == ["ncft", "w-ncft"]
    scores = read_table(tmp_path / "scores.parquet")
    assert len(scores) == 2 * 3 * 2
    assert scores["task"].tolist()[:2] == ["size", "parity"]
    assert read_table(tmp_path / "stages.parquet")["stage"].tolist() == [1, 2, 1, 2]
    assert (tmp_path / "forgetting.png").stat().st_size > 5000
    # W-NCFT has the same pieces: two tasks in a row, and the second alone.
    assert len(list((tmp_path / "pieces").glob("*/piece.json"))) == 3
    assert cli.main(words) == 0


def test_methods_of_several_calls_add_up_and_other_folders_are_refused(
    base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "row"
    row = command(base, data, out, "--tasks", "size,parity")
    assert cli.main([*row, "--method", "w-ncft"]) == 0
    first = read_table(out / "scores.parquet")
    assert cli.main([*row, "--method", "ncft", "--lr", "1e-3"]) == 0
    assert read_table(out / "summary.parquet")["method"].tolist() == ["ncft", "w-ncft"]
    both = read_table(out / "scores.parquet")
    kept = both[both["method"] == "w-ncft"].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, first)
    assert read_json(out / "run.json")["kind"] == "continual"
    # A table that is lost or damaged is made anew from the rows.
    (out / "stages.parquet").unlink()
    assert cli.main([*row, "--method", "ncft", "--lr", "1e-3"]) == 0
    assert read_table(out / "stages.parquet")["method"].nunique() == 2
    capsys.readouterr()
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert cli.main(["continual", "--tasks", "parity,size", *row[1:-2], "--method", "ncft"]) == 2
    error = capsys.readouterr().err
    assert "order: ['size', 'parity'] there, ['parity', 'size'] now" in error
    assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--order", "order1", "--tasks", "size"], "either --order or --tasks"),
        ([], "either --order or --tasks"),
        (["--order", "ordr1"], "Unknown order 'ordr1'; did you mean"),
        (["--tasks", "size", "--method", "ncfd"], "Unknown method 'ncfd'; did you mean 'ncft'"),
        (["--tasks", "size,nothing"], "nothing"),
        (["--tasks", "size,size"], "tasks has size more than once"),
    ],
)
def test_bad_input_is_one_line(
    base: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
):
    assert cli.main(command(base, data, tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
