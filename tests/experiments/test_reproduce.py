import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import helpers
import pandas as pd
import pytest

from tl_taskneurons.cli import main
from tl_taskneurons.cli.reproduce import Sizes
from tl_taskneurons.experiments import planning
from tl_taskneurons.experiments import reproduce as module
from tl_taskneurons.experiments.lab.plan import SequenceSizes
from tl_taskneurons.experiments.lab.presets import (
    PAPER_TASKS,
    PRESETS,
    Subject,
    find_preset,
    overridden,
    subject_of,
)
from tl_taskneurons.experiments.lab.store import Unit
from tl_taskneurons.experiments.paper.table2 import END_POINT, SPEED
from tl_taskneurons.experiments.planning import estimate
from tl_taskneurons.experiments.reproduce import EXPERIMENTS, Job, find_experiments, reproduce
from tl_taskneurons.loading.hub_tasks import hub_task_names
from tl_taskneurons.runtime.atomic import below
from tl_taskneurons.runtime.run_folder import RunFolder
from tl_taskneurons.runtime.table_files import read_json, read_table, write_json, write_table

ONLY = ("table1", "table2", "figure6", "table8", "figure3", "table4", "table5")
PLAN = replace(
    PRESETS["smoke"], preset="tiny", n_test=3, n_detect=3, n_train=6, max_new_tokens=3,
    detections=2, controls=2,
    sequences=SequenceSizes(("mini1",), ("ncft", "w-ncft"), 2, 2, 6, 2, (1e-2,)),
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    return str(helpers.save_tiny("llama", folder / "tiny", max_position_embeddings=512))


def job(model: str, folder: Path, names: tuple[str, ...] = ONLY) -> Job:
    return Job(Subject(model, "base", "smoke", "mini"), PLAN, names, folder, threads=1)


def tables(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.parquet")}


def results(folder: Path) -> set[Path]:
    kinds = (".parquet", ".safetensors")
    return {file for file in below(folder / "store") if file.suffix in kinds and written(file)}


def written(file: Path) -> bool:
    return not any(part.startswith(".") for part in file.parts)


_CHILD = """
import pickle, sys
from tl_taskneurons.experiments.reproduce import reproduce
reproduce(pickle.loads(bytes.fromhex(sys.argv[1])))
"""


@pytest.mark.slow
@pytest.mark.needs("once")
def test_a_run_that_was_killed_resumes_to_the_same_tables_byte_for_byte(model, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    verdicts = reproduce(job(model, whole))
    assert {verdict.claim for verdict in verdicts} == {f"C{k}" for k in range(1, 12)}
    n_all = len(results(whole))

    content = pickle.dumps(job(model, broken)).hex()
    moment = int.from_bytes(os.urandom(2)) % (n_all - 10) + 5
    command = [sys.executable, "-c", _CHILD, content]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as child:
        while len(results(broken)) < moment and child.poll() is None:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    kept = results(broken)
    assert child.returncode == -signal.SIGKILL and len(kept) < n_all, f"killed at {moment}"
    times = {file: file.stat().st_mtime_ns for file in kept if file.stem != "delta"}

    reproduce(job(model, broken))
    assert tables(broken) == tables(whole)
    # What was there was not computed again.
    assert {file: file.stat().st_mtime_ns for file in times} == times
    assert (broken / "report.html").exists()
    # With another model beside it, the claims about all architectures are compared.
    again = reproduce(job(model, whole), also=[broken])
    assert again[-1].claim == "C11" and "needs two" not in again[-1].note


def test_the_sizes_of_smoke_test_no_claim(model, tmp_path):
    smoke = replace(job(model, tmp_path, ("table8",)), plan=replace(PLAN, preset="smoke"))
    for verdict in reproduce(smoke):
        assert verdict.verdict == "not testable" and "sizes can't test" in verdict.note
    assert set(read_table(tmp_path / "claims.parquet")["verdict"]) == {"not testable"}


def test_a_part_can_be_run_alone_and_added_to(model, tmp_path):
    verdicts = {v.claim: v for v in reproduce(job(model, tmp_path / "run", ("table8",)))}
    assert set(tables(tmp_path / "run")) == {
        "claims.parquet", "comparisons.parquet", "overlap.parquet", "table8.parquet",
    }  # fmt: skip
    assert verdicts["C2"].verdict == "not testable"
    before = results(tmp_path / "run")
    reproduce(job(model, tmp_path / "run", ("table8", "table1")))
    assert before < results(tmp_path / "run")
    assert "table1.parquet" in tables(tmp_path / "run")
    # What is not asked for any more is not left lying among the results.
    reproduce(job(model, tmp_path / "run", ("table1",)))
    assert set(tables(tmp_path / "run")) == {
        "claims.parquet", "comparisons.parquet", "gates.parquet", "table1.parquet",
    }  # fmt: skip
    assert not (tmp_path / "run" / "table8.png").exists()


def test_a_part_of_the_tasks_can_be_silenced_and_speed_be_asked_alone(model, tmp_path):
    part = ("mini_news", "mini_film")
    asked = replace(PLAN, silenced_tasks=part, questions=("speed",))
    small = replace(
        job(model, tmp_path, ("table1", "table2", "figure5")),
        subject=Subject(model, "all", "smoke", "mini"), plan=asked,
    )  # fmt: skip
    reproduce(small)
    found = {name: read_table(tmp_path / f"{name}.parquet") for name in ("table1", "table2")}
    assert set(found["table1"]["task"]) == set(part)
    assert set(found["table2"]["task"]) == set(PLAN.tasks or ())
    assert set(found["table2"]["question"]) == {"speed"}
    gates = read_table(tmp_path / "gates.parquet")
    assert set(gates.loc[gates["table"] == "deactivation", "task"]) == set(part)
    assert set(gates.loc[gates["table"] == "trained", "task"]) == set(PLAN.tasks or ())
    assert "figure5_trained.parquet" not in tables(tmp_path)
    # Other tasks are silenced too where they are asked for.
    assert overridden(asked, {"tasks": ("mini_food",)}, {}).silenced_tasks == ()


def test_the_plan_counts_pieces_and_runs_nothing(model, tmp_path, monkeypatch):
    # The machine's speed, which the estimate of time rests on, differs from call to call.
    monkeypatch.setattr(planning, "_speed", lambda lab: 1e9)
    planned = job(model, tmp_path / "run")
    first = estimate(planned)
    assert results(tmp_path / "run") == set()
    assert sum(line.n_done for line in first.lines) == 0
    assert first.seconds > 0 and first.memory > 0
    by_title = {line.title: line.n_units for line in first.lines}
    assert by_title["neurons"] == 2 * 4 and not any(line.spent for line in first.lines)
    assert by_title["table1"] == 1 + 4 + 4 * 2 * PLAN.controls
    module.work(job(model, tmp_path / "run", ("table1",)))
    second = estimate(planned)
    done = {line.title: line.n_done for line in second.lines}
    assert done["table1"] == {line.title: line.n_units for line in second.lines}["table1"]
    assert done["neurons"] == 4
    spent = {line.title: line.spent for line in second.lines}
    assert spent["neurons"] > 0 and spent["table1"] > 0 and spent["table5"] == 0
    assert second.seconds < first.seconds


@pytest.mark.parametrize(
    ("only", "pieces"), [("table5", 0), ("table1", 0), ("table8", 8), ("figure6", 4)]
)
def test_neurons_are_looked_for_where_an_experiment_needs_them(model, tmp_path, only, pieces):
    asked = replace(job(model, tmp_path, (only,)), subject=Subject(model, "all", "smoke", "mini"))
    found = {line.title: line.n_units for line in estimate(asked).lines}
    assert found["neurons"] == pieces
    assert found.get("neurons of the tuned model", 0) == (4 if only == "table1" else 0)


def test_a_plan_counts_what_units_share_once_and_the_time_of_each(model, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "_speed", lambda lab: 1.0)
    shared = [
        Unit(name, "shared lock", (tmp_path / f"{name}.parquet",), lambda: None, flops)
        for name, flops in (("small", 2.0), ("large", 3.0))
    ]
    own = Unit("own", "own lock", (tmp_path / "own.parquet",), lambda: None, 5.0)
    monkeypatch.setattr(planning, "preparations", lambda *_: [("work", [*shared, shared[0], own])])
    for name, seconds in (("small", 10.0), ("own", 100.0)):
        (tmp_path / f"{name}.parquet").touch()
        write_json(tmp_path / f"{name}.json", {"seconds": seconds})
    (line,) = estimate(job(model, tmp_path / "run", ())).lines
    assert (line.n_units, line.n_done) == (2, 1)
    assert (line.planned, line.spent, line.seconds) == (8.0, 110.0, 3.0)


def test_the_command_shows_the_claims_and_writes_tables(tmp_path, capsys):
    out, csv = tmp_path / "run", tmp_path / "csv"
    arguments = ["reproduce", "--model", "mini-llama", "--preset", "smoke", "--only", "table8"]
    arguments += ["--out", str(out), "--workers", "1"]
    assert main([*arguments, "--plan"]) == 0
    assert "Nothing was run" in capsys.readouterr().out
    assert main([*arguments, "--csv", str(csv)]) == 0
    shown = capsys.readouterr().out
    assert "C5" in shown and "not testable" in shown
    assert {file.name for file in csv.iterdir()} >= {"table8_mini-llama.csv"}
    assert main([*arguments, "--csv", str(csv), "--plan"]) == 0
    plan = pd.read_csv(csv / "plan_smoke_mini-llama.csv").set_index("work")
    assert (plan["done"] == plan["pieces"]).all() and set(plan["model"]) == {"mini-llama"}
    assert (plan.loc[["neurons"], ["pieces", "taken"]] > 0).all(axis=None)
    table = read_table(out / "table8.parquet")
    assert set(table["fraction"]) == {0.1, 1.0} and set(table["model"]) == {"mini-llama-base"}


@pytest.mark.slow
def test_the_smoke_preset_runs_everything_with_two_processes(tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["reproduce", "--model", "mini-llama", "--preset", "smoke", "--out", str(out)]
    assert main([*arguments, "--workers", "2"]) == 0
    assert "C10" in capsys.readouterr().out
    for name, experiment in EXPERIMENTS.items():
        assert (out / f"{name}.parquet").exists() or name == "figure5", experiment.title
    pictures = {file.stem for file in out.glob("*.png")}
    assert pictures >= {
        "table1", "figure2", "figure3", "figure5_silenced", "figure5_trained", "figure6", "table8",
        "tables9_11",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "table22"], "did you mean 'table2'"),
        (["--model", "smollm2-135m"], "give --data"),
        (["--workers", "0"], "at least 1"),
        (["--also", "nowhere"], "nowhere"),
        (["--tasks", "mini_food,mini_fim", "--preset", "smoke"], "mini_film"),
    ],
)
def test_bad_input_is_refused_before_anything_is_run(arguments, message, tmp_path, capsys):
    out = tmp_path / "run"
    given = ["reproduce", "--preset", "smoke", "--out", str(out), "--workers", "1", *arguments]
    assert main(given) == 2
    assert message in capsys.readouterr().err
    assert not results(out)


def test_a_folder_of_another_model_is_refused(model, tmp_path):
    reproduce(job(model, tmp_path, ("table8",)))
    other = replace(job(model, tmp_path, ("table8",)), subject=Subject("x", "base", "smoke", ""))
    with pytest.raises(ValueError, match="another configuration"):
        reproduce(other)


def test_a_folder_of_the_old_design_is_refused_with_the_way_to_rename_it(model, tmp_path):
    folder = tmp_path / "run"
    reproduce(job(model, folder, ("table8",)))
    file = folder / "run.json"
    stated = read_json(file)
    del stated["arguments"]["design"]
    write_json(file, stated)
    before = tables(folder)
    with pytest.raises(ValueError, match=r"design 1 .*mv .*run .*run-design1"):
        reproduce(job(model, folder, ("table8",)))
    assert tables(folder) == before


def test_presets_and_subjects_fit_together():
    assert {"smoke", "mini", "full", "hour", "real", "paper"} == set(PRESETS)
    assert subject_of("meta-llama/Llama-2-7b-hf").preset == "paper"
    assert subject_of("gpt2").tuned == "lora"
    assert set(PAPER_TASKS) <= set(hub_task_names())
    for name in ("mini", "full", "real", "paper"):
        assert find_preset(name).controls >= 5
        assert len(find_preset(name).rates) == 5
    assert len(find_preset("mini").seeds) == 3 and len(find_preset("full").seeds) == 5
    changed = overridden(find_preset("mini"), {"steps": 3, "shots": None}, {"n_test": 7})
    assert (changed.steps, changed.shots, changed.sequences.n_test) == (3, 0, 7)
    assert changed.map == find_preset("mini").map
    sizes = Sizes(map_fractions=(0.001, 0.1), map_updates=(8, 16), row_rates=(1e-3,), steps=3)
    changed = overridden(find_preset("hour"), *sizes.changes())
    assert (changed.map.fractions, changed.map.updates) == ((0.001, 0.1), (8, 16))
    assert changed.map.rates == find_preset("hour").map.rates
    assert (changed.sequences.rates, changed.steps) == ((1e-3,), 3)
    sizes = Sizes(questions=("end-point", "speed"), fractions=(0.01, 0.1))
    changed = overridden(find_preset("hour"), *sizes.changes())
    assert changed.questions == (END_POINT, SPEED) == find_preset("full").questions
    assert changed.fractions == (0.01, 0.1)
    with pytest.raises(ValueError, match="mini"):
        find_preset("minni")
    assert find_experiments(None) == tuple(EXPERIMENTS)


def test_a_folder_of_another_command_is_refused_and_keeps_all_its_files(model, tmp_path):
    out = tmp_path / "deactivated"
    with RunFolder.open(out, {"data": "mini"}, kind="detect/deactivate") as run:
        write_table(run.file("deactivation_table.parquet"), pd.DataFrame({"a": [1]}))
        run.finish()
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    with pytest.raises(ValueError, match="holds the results of 'detect/deactivate'"):
        reproduce(job(model, out, ("table8",)))
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before
