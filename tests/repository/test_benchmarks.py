"""The benchmarks run, in seconds and on the mini model, and say what they found."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import helpers
import pandas as pd
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
TL4_ONLY = {"TL 4 cache_activation_and_gradient", "TL 4 attribution_patch"}


def run(*words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent)}
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=900, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of the benchmarks by name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def content(folder: Path, script: str) -> dict[str, Any]:
    (file,) = [f for f in folder.glob("*.json") if f.stem.split("-")[0] == script]
    return json.loads(file.read_text())


def check_attribution(found: dict[str, Any], module: Any) -> None:
    attribution = module("attribution")
    names = set(attribution.default_names())
    assert set(found["table"]) | set(found["left_out"]) == names
    assert not set(found["table"]) & set(found["left_out"])
    needed = {"forward, all logits", "training forward + backward", "floor", "tl_taskneurons"}
    assert needed <= set(found["table"])
    for name, row in found["table"].items():
        assert row["seconds"] > 0, name
        if found["kinds"][name] == "same":
            assert row["difference"] < found["tolerance"] == 1e-4, name
    for package in ("captum", "nnsight"):
        if package in names and importlib.util.find_spec(package) is None:
            assert "not installed" in found["left_out"][package]
        elif package in names:
            assert found["table"][package]["difference"] is not None
    if module("measure").tl_major() < 4:
        assert set(found["left_out"]) >= TL4_ONLY
        assert found["table"]["notebook way"]["batch"] == 1
    else:
        assert set(found["table"]) >= TL4_ONLY
        assert found["kinds"]["TL 4 attribution_patch"] == "other"
    measured = [row["peak MiB"] for row in found["table"].values() if row["peak MiB"] is not None]
    assert min(measured) > 0


@pytest.mark.slow
def test_attribution_is_measured(tmp_path: Path, module: Any) -> None:
    run(str(FOLDER / "attribution.py"), "--quick", "--results", str(tmp_path))
    check_attribution(content(tmp_path, "attribution"), module)


@pytest.mark.needs("once")
@pytest.mark.slow
def test_the_suite_runs_and_ends_with_a_summary(tmp_path: Path) -> None:
    scripts = ["evaluation", "growth", "similarity", "training", "sharing", "large", "sequences"]
    shown = run(str(FOLDER / "suite.py"), *scripts, "--quick", "--results", str(tmp_path))
    assert set(content(tmp_path, "evaluation")["table"]) == {
        "plain", *(f"{share} of neurons silenced" for share in ("1%", "10%", "100%")),
    }  # fmt: skip
    growth = content(tmp_path, "growth")
    assert {name.split(":")[0] for name in growth["table"]} == {"gated", "plain"}
    assert all(len(series["seconds"]) == 2 for series in growth["series"].values())
    training = content(tmp_path, "training")["table"]
    assert {"all weights", "LoRA rank 16", "top neurons 10%", "forward alone"} <= set(training)
    assert set(content(tmp_path, "sharing")["table"]) == {"detection", "evaluation", "training"}
    large = content(tmp_path, "large")["table"]
    assert set(large) == {"evaluation", "detection", "training"}
    assert all(
        row["planned / measured peak"] == pytest.approx(1, abs=0.2) for row in large.values()
    )
    sequences = content(tmp_path, "sequences")["table"]
    assert {f"mini-llama: {name}" for name in ("plain", "routed", "w-ncft")} <= set(sequences)
    assert "masked, with masked copies" in content(tmp_path, "similarity")["table"]
    for script in scripts:
        found = content(tmp_path, script)
        assert found["machine"]["cpu"] and found["machine"]["cores"] >= 1, script
        assert found["machine"]["versions"]["torch"]
        assert found["arguments"]["quick"] is True
        assert found["targets"], script
    n_targets = sum(len(content(tmp_path, script)["targets"]) for script in scripts)
    counts = [int(words.split()[0]) for words in shown.splitlines()[-1].split(", ")]
    assert sum(counts) == n_targets


@pytest.mark.needs("chromium")
@pytest.mark.slow
def test_the_report_is_measured(tmp_path: Path) -> None:
    run(str(FOLDER / "report.py"), "--quick", "--results", str(tmp_path))
    row = content(tmp_path, "report")["table"]["report"]
    assert 0 < row["megabytes"] < 5
    assert {"seconds to write", "open", "ready"} <= set(row)


@pytest.mark.needs("once")
@pytest.mark.slow
def test_the_harness_answers_alike_with_its_own_class_and_ours(tmp_path: Path) -> None:
    run(str(FOLDER / "harness.py"), "--quick", "--results", str(tmp_path))
    found = content(tmp_path, "harness")
    assert len(found["table"]) == 9  # three kinds of requests in three conditions
    for name, row in found["table"].items():
        assert row["ours"] == pytest.approx(row["HFLM"], rel=1e-4), name
    assert all(target["value"] is not None for target in found["targets"])
    values = {row["ours"] for name, row in found["table"].items() if "texts" in name}
    assert len(values) == 2  # silencing counts; the harness puts BOS before texts anyway


def test_summary_says_met_and_missed(tmp_path: Path) -> None:
    def target(what: str, value: float | None, at_least: bool = False) -> dict[str, Any]:
        return {"what": what, "value": value, "limit": 2.0, "at_least": at_least}

    stated = [
        target("at the limit", 2.0), target("above", 2.1), target("fast", 2.1, True),
        target("slow", 1.9, True), target("unknown", None),
    ]  # fmt: skip
    new = {"targets": stated, "left_out": {"a rival": "not installed"}}
    (tmp_path / "some.json").write_text(json.dumps(new))
    old = {"targets": {"megabytes": 5.0}, "table": {}}  # as an earlier version wrote it
    (tmp_path / "old.json").write_text(json.dumps(old))
    lines = run(str(FOLDER / "summary.py"), "--results", str(tmp_path)).splitlines()
    assert lines[-1] == "2 met, 2 missed, 1 not measured"
    verdicts = {what: line for line in lines for what in ("limit", "above", "fast", "slow", "unkn")
                if what in line}  # fmt: skip
    assert verdicts["limit"].endswith(" met") and verdicts["fast"].endswith(" met")
    assert verdicts["above"].endswith(" missed") and verdicts["slow"].endswith(" missed")
    assert verdicts["unkn"].endswith("not measured")
    assert "left out: some: a rival: not installed" in lines


def test_summary_of_an_empty_folder(tmp_path: Path) -> None:
    shown = run(str(FOLDER / "summary.py"), "--results", str(tmp_path))
    assert shown.splitlines() == [f"no targets in {tmp_path}", "0 met, 0 missed, 0 not measured"]


def test_a_missing_rival_is_named(module: Any) -> None:
    attribution = module("attribution")
    one = attribution.Contender(attribution.ours, "same", needs="no_such_package")
    assert "no_such_package is not installed" in one.missing("mini-llama")
    assert attribution.CONTENDERS["tl_taskneurons"].missing("mini-llama") == ""
    other = 5 - module("measure").tl_major() + 2
    wrong = attribution.Contender(attribution.ours, "same", tl=other)
    assert wrong.missing("mini-llama") == f"needs TransformerLens {other}"


def test_contenders_run_in_turn_and_ratios_are_paired(module: Any) -> None:
    measure = module("measure")
    calls: list[str] = []
    runs = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    times = measure.in_turn(runs, repeats=2)
    assert calls == ["a", "b"] * 3
    assert {name: len(taken) for name, taken in times.items()} == {"a": 2, "b": 2}
    slow_day = {"a": [2.0, 20.0, 3.0], "b": [1.0, 10.0, 1.0]}
    assert measure.ratio(slow_day, "a", "b") == 2.0
    assert str(measure.ratio(slow_day, "a", "c")) == "nan"


@pytest.mark.needs("once")
def test_peak_is_of_the_call_alone(tmp_path: Path) -> None:
    script = tmp_path / "peak.py"
    script.write_text(
        "import measure, torch\n"
        "def child():\n"
        "    kept = torch.ones(2**22)\n"  # 16 MiB before the call
        "    freed = torch.ones(2**24)\n"
        "    del freed\n"
        "    return measure.peak_of(lambda: lambda: torch.ones(2**23).sum() + kept[0])\n"
        "print(measure.apart(child))\n"
    )
    paths = os.pathsep.join([str(FOLDER), str(FOLDER.parent)])
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=120,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert float(done.stdout) == pytest.approx(32, abs=2)  # 2**23 numbers of 4 bytes


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_exponent_of_growth(power: float, module: Any) -> None:
    sizes = [1, 2, 4, 8]
    assert module("growth").exponent(sizes, [3 * s**power for s in sizes]) == pytest.approx(power)


def test_growth_needs_times_above_zero(module: Any) -> None:
    assert str(module("growth").exponent([1, 2], [0.0, 1.0])) == "nan"


@pytest.mark.needs("once")
@pytest.mark.slow
def test_methods_are_compared_on_a_mini_model(
    tmp_path: Path, module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(module("methods_search").LIMITS, budget=8, checks=1)
    monkeypatch.setattr(module("methods_search"), "LIMITS", few)
    some = ("grad_act", "grad_act, signed", "random")
    known = module("methods").METHODS
    monkeypatch.setattr(module("methods"), "METHODS", {name: known[name] for name in some})
    tasks = "mini_film,mini_news,mini_reword"
    words = ["--model", "mini-llama", "--data", "mini", "--tasks", tasks, "--sizes", "tiny",
             "--out", str(tmp_path)]  # fmt: skip
    table = tmp_path / "search.csv"
    found = module("methods_search").main([*words, "--table", str(table)])
    best = found[found["set"] == "find_neurons"]
    assert len(best) >= 2 and best["n_neurons"].between(1, 8).all()
    assert {"top, as many", "random, as many", "exclude, as many"} <= set(found["set"])
    assert {"mask, as many", "mask outside 3%, as many"} <= set(found["set"])
    before = table.read_text()
    again = module("methods_search").main([*words, "--table", str(table)])  # nothing is missing
    assert table.read_text() == before and len(again) == len(found)
    gate = pd.read_csv(table.with_name("methods_gate_mini-llama.csv"))
    assert set(best["task"]) == set(gate.loc[gate["able"], "task"]) and len(gate) == 3
    alone = module("methods_search").main([*words, "--no-masks"])
    assert set(alone["set"]) == {name for name in found["set"] if not name.startswith("mask")}
    ranked = module("methods").main(words)
    assert set(some) < set(ranked["method"])
    assert ranked[["necessity", "sufficiency", "spearman", "forward_passes"]].notna().any().all()


def test_agreement_of_pairs_is_measured(tmp_path: Path, module: Any) -> None:
    model = helpers.save_tiny("llama", tmp_path / "model")
    rows = [
        {"clean_prefix": f"The cat{i}", "patch_prefix": f"The men{i}", "clean_answer": " is",
         "patch_answer": " are"}
        for i in range(4)
    ]  # fmt: skip
    longer = {**rows[0], "patch_prefix": "The children"}  # has no counterpart token by token
    for split in ("train", "test"):
        lines = [json.dumps(row) for row in [*rows, longer]]
        (tmp_path / f"simple_{split}.jsonl").write_text("\n".join(lines))
    words = [str(tmp_path), "--model", str(model), "--cases", "simple"]
    found = module("sva").main([*words, "--table", str(tmp_path / "sva.csv")])
    assert set(found["ranking"]) == set(module("sva").METHODS)
    last = found[(found["curve"] == "necessity") & (found["n_neurons"] == found["n_neurons"].max())]
    assert last["taken"].tolist() == pytest.approx([1.0] * len(last))
    fewest = module("sva").enough(found)
    assert fewest["n_neurons"].between(1, 96).all() and len(fewest) == len(last)
