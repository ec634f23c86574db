"""``tl-taskneurons continual`` and the Table-5 experiment, on a tiny model."""

import json
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pandas as pd
import pytest

from tl_taskneurons.cli import app as cli
from tl_taskneurons.continual.orders import ORDERS
from tl_taskneurons.experiments.studies import table5
from tl_taskneurons.runtime.table_files import read_table

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


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--order", "order1", "--tasks", "size"], "either --order or --tasks"),
        ([], "either --order or --tasks"),
        (["--order", "ordr1"], "Unknown order 'ordr1'; did you mean"),
        (["--tasks", "size", "--method", "ncfd"], "Unknown method 'ncfd'; did you mean 'ncft'"),
        (["--tasks", "size,nothing"], "nothing"),
        (["--tasks", "size,size"], "twice"),
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


def test_table_5_runs_and_goes_on(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    methods = "seq-ft,seq-lora,ncft,w-ncft,per-task"
    words = [
        "--model", str(base), "--data", str(data), "--orders", "parity+size", "--seeds", "0", "1",
        "--methods", methods, "--train", "8", "--test", "4", *SMALL,
        "--out", str(tmp_path / "run"), "--csv", str(tmp_path / "new" / "table5.csv"),
    ]  # fmt: skip
    monkeypatch.setitem(ORDERS, "parity+size", ("parity", "size"))
    table5.main(words)
    table = pd.read_csv(tmp_path / "new" / "table5.csv")
    assert table["method"].unique().tolist() == methods.split(",")
    assert table["order"].unique().tolist() == ["parity+size", "all"]
    curves = pd.read_csv(tmp_path / "new" / "figure4.csv")
    assert set(curves["stage"]) == {2}
    claims = pd.read_csv(tmp_path / "new" / "table5_claims.csv")
    assert claims["claim"].tolist() == ["C9", "C10"]
    assert claims["verdict"].tolist() == ["not tested"] * 2  # two rows are too few to tell
    written = (tmp_path / "new" / "table5.csv").read_bytes()
    monkeypatch.setattr(table5.Experiment, "_held_out", None)  # everything is there already
    table5.main(words)
    assert (tmp_path / "new" / "table5.csv").read_bytes() == written


def test_rates_are_chosen_on_training_examples_alone(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(ORDERS, "parity+size", ("parity", "size"))
    seen: list[tuple[str, ...]] = []
    plain = table5.score_history

    def watched(setting: Any, *rest: Any) -> pd.DataFrame:
        for task in setting.tasks:
            seen.append(tuple(example.input for example in task.test))
            assert not {e.input for e in task.train} & {e.input for e in task.test}
        return plain(setting, *rest)

    monkeypatch.setattr(table5, "score_history", watched)
    table5.main(
        ["--model", str(base), "--data", str(data), "--orders", "parity+size", "--seeds", "0",
         "--methods", "seq-ft", "--train", "8", "--test", "4", *SMALL, "--out", str(tmp_path)]
    )  # fmt: skip
    assert len(seen) == 2 * len(table5.LEARNING_RATES["WeightLearner"])
    assert all(len(inputs) == 4 for inputs in seen)
    assert all(text.startswith("train") for inputs in seen for text in inputs)


def test_rates_can_be_chosen_on_a_shorter_row(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(ORDERS, "parity+size", ("parity", "size"))
    seen: list[tuple[table5.Plan, str, float]] = []

    def watched(_model: Any, plan: table5.Plan, name: str, lr: float, _store: Path) -> float:
        seen.append((plan, name, lr))
        return -lr

    monkeypatch.setattr(table5, "held_out_score", watched)
    table5.main(
        ["--model", str(base), "--data", str(data), "--orders", "parity+size", "--seeds", "0",
         "--methods", "ncft,seq-ft,seq-lora", "--train", "8", "--test", "4", *SMALL,
         "--rates", "3e-3", "6e-3", "--choose-on", "size,parity", "--choose-steps", "1",
         "--rate", "seq-lora=5e-3", "--out", str(tmp_path)]
    )  # fmt: skip
    wanted = [("ncft", 3e-3), ("ncft", 6e-3), ("seq-ft", 1e-3), ("seq-ft", 2e-3)]
    assert [(name, pytest.approx(lr)) for _, name, lr in seen] == wanted
    assert {(plan.orders, plan.steps) for plan, _, _ in seen} == {(("size,parity",), 1)}
    table = pd.read_parquet(tmp_path / "table.parquet").set_index(["method", "order"])
    assert table["lr"].xs("all", level="order").tolist() == pytest.approx([3e-3, 1e-3, 5e-3])


@pytest.mark.parametrize(
    ("given", "message"),
    [("ncft", "not METHOD=RATE"), ("ncft=0", "above 0"), ("ncf=1e-3", "did you mean 'ncft'")],
)
def test_a_wrong_rate_is_named(given: str, message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        table5.main(["--rate", given])
    assert message in capsys.readouterr().err


def rows() -> pd.DataFrame:
    """Two methods on two orders and two seeds."""
    cl = {"ncft": [0.6, 0.7, 0.8, 0.9], "seq-lora": [0.5, 0.5, 0.5, 0.5]}
    lines = []
    for method, values in cl.items():
        for (order, seed), value in zip(
            [("a", 0), ("a", 1), ("b", 0), ("b", 1)], values, strict=True
        ):
            lines.append(
                {"method": method, "order": order, "seed": seed, "lr": 0.1, "cl": value,
                 "fg": value, "bwt": 0.0, "fwt": 0.0, "alone": 1.0, "seconds": 2.0}
            )  # fmt: skip
    return pd.DataFrame(lines)


def test_the_table_has_means_by_order_and_over_all():
    table = table5.table(rows()).set_index(["method", "order"])
    assert table.loc[("ncft", "a"), "cl"] == pytest.approx(0.65)
    assert table.loc[("ncft", "all"), "cl"] == pytest.approx(0.75)
    assert table.loc[("ncft", "all"), "rows"] == 4
    low, high = (table[name].loc[("ncft", "all")] for name in ("cl_low", "cl_high"))
    assert 0.6 <= float(low) < 0.75 < float(high) <= 0.9
    assert table.loc[("seq-lora", "all"), "cl_low"] == pytest.approx(0.5)


def test_a_row_where_nothing_can_be_forgotten_is_left_out_for_all_methods():
    stages = pd.concat([rows().assign(stage=stage) for stage in (1, 2, 3)], ignore_index=True)
    where = (stages["order"] == "a") & (stages["seed"] == 1) & (stages["stage"] == 3)
    stages.loc[where & (stages["method"] == "ncft"), "fg"] = np.nan
    kept = table5.comparable(stages)
    assert set(zip(kept["order"], kept["seed"], strict=True)) == {("a", 0), ("b", 0), ("b", 1)}
    assert set(kept["stage"]) == {2, 3} and len(kept) == 2 * 3 * 2


def test_curves_leave_out_the_first_stage():
    stages = pd.concat([rows().assign(stage=stage) for stage in (1, 2)])
    curves = table5.curves(stages)
    assert curves["stage"].tolist() == [2, 2]
    assert curves["fg"].tolist() == pytest.approx([0.75, 0.5])
