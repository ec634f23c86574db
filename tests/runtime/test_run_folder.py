import json
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pandas as pd
import pytest

from tl_taskneurons.runtime import table_files
from tl_taskneurons.runtime.run_folder import RunFolder
from tl_taskneurons.runtime.run_record import provenance
from tl_taskneurons.runtime.table_files import (
    read_json,
    read_table,
    stamp,
    write_csv,
    write_json,
    write_table,
)

ROOT = Path(__file__).parents[2]
ARGUMENTS = {"model": "tiny", "fraction": 0.01, "tasks": ("a", "b"), "seed": 3}
# The package itself imports torch; this stands in for it, so that its modules can be met alone.
WITHOUT_PACKAGE = f"""
import sys, types
package = types.ModuleType("tl_taskneurons")
package.__path__ = [{str(ROOT / "tl_taskneurons")!r}]
sys.modules["tl_taskneurons"] = package
"""


def table(n: int = 3) -> pd.DataFrame:
    return pd.DataFrame({"task": ["a"] * n, "value": [0.5] * n, "count": range(n)})


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WITHOUT_PACKAGE + textwrap.dedent(code), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_tables_and_json_come_back_as_they_were(tmp_path: Path):
    write_table(tmp_path / "new" / "t.parquet", table())
    pd.testing.assert_frame_equal(read_table(tmp_path / "new" / "t.parquet"), table())
    write_json(tmp_path / "j.json", {"b": 1, "a": [1.5, "é"]})
    assert read_json(tmp_path / "j.json") == {"a": [1.5, "é"], "b": 1}


def test_csv_files_are_rounded_but_keep_small_learning_rates(tmp_path: Path):
    frame = pd.DataFrame({"lr": [1e-4 / 3], "lr_task": [2e-5], "cl": [2 / 3], "order": ["all"]})
    write_csv(tmp_path / "t.csv", frame)
    assert (tmp_path / "t.csv").read_text() == "lr,lr_task,cl,order\n3.333e-05,2e-05,0.6667,all\n"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    write_table(tmp_path / "t.parquet", table())

    def full_disk(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        table_files.write_atomically(tmp_path / "t.parquet", full_disk)
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.parquet"), table())


def test_missing_and_damaged_files_are_named(tmp_path: Path):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and then nothing")
    (tmp_path / "bad.json").write_text('{"half": ')
    for name, read in (("bad.parquet", read_table), ("bad.json", read_json)):
        with pytest.raises(ValueError, match=rf"{name} is damaged"):
            read(tmp_path / name)
        with pytest.raises(FileNotFoundError, match="nowhere"):
            read(tmp_path / "nowhere")


def test_stamp_adds_columns_in_front_and_keeps_those_there():
    stamped = stamp(table(2), model="m", task="other")
    assert list(stamped.columns) == ["model", "task", "value", "count"]
    assert stamped["task"].tolist() == ["a", "a"]


def test_provenance_names_versions_but_neither_user_nor_path():
    found = provenance()
    assert found["versions"]["numpy"] and found["versions"]["torch"]
    text = json.dumps(found)
    assert str(Path.home()) not in text
    assert sys.prefix not in text


def test_a_run_notes_its_arguments_seeds_status_and_times(tmp_path: Path):
    with RunFolder.open(tmp_path / "run", ARGUMENTS) as run:
        begun = run.read()
        assert begun["status"] == "running" and not run.resumed
        assert begun["arguments"] == {**ARGUMENTS, "tasks": ["a", "b"]}
        assert begun["seeds"] == {"seed": 3}
        run.unit("one", table)
        run.finish()
    done = read_json(tmp_path / "run" / "run.json")
    assert done["status"] == done["sessions"][0]["status"] == "finished"
    assert done["sessions"][0]["seconds"] > 0 < done["units"]["one"]["seconds"]


def test_finished_units_are_not_computed_again_and_read_the_same(tmp_path: Path):
    calls = []

    def compute() -> pd.DataFrame:
        calls.append(1)
        return table()

    with RunFolder.open(tmp_path, ARGUMENTS) as run:
        first = run.unit("deep/one", compute)
    with RunFolder.open(tmp_path, ARGUMENTS) as run:
        assert run.resumed
        again = run.unit("deep/one", compute)
    assert len(calls) == 1
    pd.testing.assert_frame_equal(first, again)


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("x"), "failed"), (KeyboardInterrupt(), "stopped")]
)
def test_a_run_that_breaks_says_so_and_lets_go(tmp_path: Path, error: BaseException, status: str):
    def broken() -> pd.DataFrame:
        raise error

    with pytest.raises(type(error)), RunFolder.open(tmp_path, ARGUMENTS) as run:
        run.unit("one", broken)
    content = read_json(tmp_path / "run.json")
    assert content["status"] == status and content["units"] == {}
    with RunFolder.open(tmp_path, ARGUMENTS) as run:
        run.unit("one", table)
        run.finish()
    assert [s["status"] for s in read_json(tmp_path / "run.json")["sessions"]] == [
        status, "finished",
    ]  # fmt: skip


def test_another_configuration_is_refused_with_both_values(tmp_path: Path):
    with RunFolder.open(tmp_path, ARGUMENTS) as run:
        run.unit("one", table)
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(ValueError) as caught:
        RunFolder.open(tmp_path, {**ARGUMENTS, "fraction": 0.1, "seed": 4})
    assert "fraction: 0.01 there, 0.1 now" in str(caught.value)
    assert "seed: 3 there, 4 now" in str(caught.value)
    assert "model" not in str(caught.value)
    assert (tmp_path / "run.json").read_bytes() == before


def test_new_arguments_are_added_and_then_binding(tmp_path: Path):
    for controls in (5, 5):
        with RunFolder.open(tmp_path, {**ARGUMENTS, "controls": controls}) as run:
            run.unit("one", table)
        with RunFolder.open(tmp_path, ARGUMENTS) as run:
            assert run.read()["arguments"]["controls"] == 5
    with pytest.raises(ValueError, match="controls: 5 there, 6 now"):
        RunFolder.open(tmp_path, {**ARGUMENTS, "controls": 6})


def test_facts_must_agree_with_those_of_an_earlier_call(tmp_path: Path):
    for _ in range(2):
        with RunFolder.open(tmp_path, ARGUMENTS) as run:
            run.confirm(fingerprint="f1")
            run.unit("one", table)
    with (
        pytest.raises(ValueError, match="fingerprint: 'f1' there, 'f2' now"),
        RunFolder.open(tmp_path, ARGUMENTS) as run,
    ):
        run.confirm(fingerprint="f2")


def test_settings_in_settings_are_named(tmp_path: Path):
    with RunFolder.open(tmp_path, {"training": {"steps": 5, "lr": 0.1}}) as run:
        run.unit("one", table)
    with pytest.raises(ValueError) as caught:
        RunFolder.open(tmp_path, {"training": {"steps": 6, "lr": 0.1}})
    assert "(training.steps: 5 there, 6 now)" in str(caught.value)


def test_the_folder_of_another_command_is_refused_and_untouched(tmp_path: Path):
    for kind in ("reproduce", "run_sequence"):
        with RunFolder.open(tmp_path / kind, {"model": "m"}, kind=kind) as run:
            run.publish({"table.parquet": lambda path: write_table(path, table())})
    old = read_json(tmp_path / "reproduce" / "run.json")
    del old["kind"], old["files"]  # as older versions wrote it
    old["arguments"] = {"data": "d", "method": "grad_act"}
    write_json(tmp_path / "reproduce" / "run.json", old)
    for folder, name in (("run_sequence", "run_sequence"), ("reproduce", "detect/deactivate")):
        before = {p: p.read_bytes() for p in (tmp_path / folder).iterdir()}
        with pytest.raises(ValueError, match=f"results of {name!r}, and this is 'planted'"):
            RunFolder.open(tmp_path / folder, {}, kind="planted")
        assert {p: p.read_bytes() for p in (tmp_path / folder).iterdir()} == before


def test_a_run_without_results_leaves_its_folder_free(tmp_path: Path):
    with pytest.raises(KeyError), RunFolder.open(tmp_path, {"model": "wrong"}) as run:
        run.confirm(fingerprint="f1")
        raise KeyError
    with RunFolder.open(tmp_path, {"model": "right"}, kind="other") as run:
        run.confirm(fingerprint="f2")
        run.unit("one", table)
        assert run.read()["arguments"] == {"model": "right"}


def test_only_what_was_published_is_removed(tmp_path: Path):
    def write(path: Path) -> None:
        path.write_text(path.name)

    with RunFolder.open(tmp_path, {}) as run:
        run.publish({"a.txt": write, "b.txt": write})
        (tmp_path / "notes.txt").write_text("the user's")
        (tmp_path / "own.parquet").write_text("the user's")
    with RunFolder.open(tmp_path, {}) as run:
        run.publish({"b.txt": write, "c.txt": write})
        assert run.read()["files"] == ["b.txt", "c.txt"]
        with pytest.raises(ValueError, match="leads out of the folder"):
            run.publish({"../d.txt": write})
    left = {p.name for p in tmp_path.iterdir() if not p.name.startswith(".")}
    assert left == {"run.json", "b.txt", "c.txt", "notes.txt", "own.parquet"}


def test_a_damaged_record_is_named_and_deleting_it_is_enough(tmp_path: Path):
    file = tmp_path / "run.json"
    with RunFolder.open(tmp_path, ARGUMENTS) as run:
        run.confirm(fingerprint="f1")
        run.unit("one", table)
    intact = file.read_text()
    for damaged in ("[]", "null", "3", "{}", '{"format": 99}', '{"format": 1, "units": []}', "{",
                    intact.replace("tiny", "tinz")):  # fmt: skip
        file.write_text(damaged)
        with pytest.raises(ValueError, match="run.json is (damaged|of format)"):
            RunFolder.open(tmp_path, ARGUMENTS)
        file.unlink()
        with pytest.raises(ValueError, match="seed: 3 there, 4 now"):
            RunFolder.open(tmp_path, {**ARGUMENTS, "seed": 4})
        with RunFolder.open(tmp_path, ARGUMENTS) as run:
            assert run.read()["facts"] == {"fingerprint": "f1"}
            run.unit("one", lambda: pytest.fail("computed again"))


def test_foreign_folders_and_files_are_refused(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("keep me")
    with pytest.raises(FileExistsError, match="thesis.tex"):
        RunFolder.open(tmp_path, ARGUMENTS)
    with pytest.raises(NotADirectoryError, match="is a file"):
        RunFolder.open(tmp_path / "thesis.tex", ARGUMENTS)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_units_stay_in_the_folder(tmp_path: Path):
    with (
        RunFolder.open(tmp_path / "run", ARGUMENTS) as run,
        pytest.raises(ValueError, match="leads out of the folder"),
    ):
        run.unit("../../outside", table)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_two_runs_at_once_in_one_folder_are_refused(tmp_path: Path):
    with (
        RunFolder.open(tmp_path, ARGUMENTS),
        pytest.raises(BlockingIOError, match="Another process is writing"),
    ):
        RunFolder.open(tmp_path, ARGUMENTS)
    RunFolder.open(tmp_path, ARGUMENTS).finish()


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path: Path):
    code = """
    import sys, time
    import pandas as pd
    from tl_taskneurons.runtime.run_folder import RunFolder
    from tl_taskneurons.runtime.table_files import write_table

    def compute(k):
        if k == 2 and sys.argv[2] == "slow":
            print("here", flush=True)
            time.sleep(60)
        return pd.DataFrame({"k": [k], "half": [k / 2], "name": [f"unit {k}"]})

    with RunFolder.open(sys.argv[1], {"seed": 0}) as run:
        frames = [run.unit(f"u{k}", lambda k=k: compute(k)) for k in range(4)]
        write_table(run.file("all.parquet"), pd.concat(frames, ignore_index=True))
        run.finish()
    """
    killed = python(code, str(tmp_path / "killed"), "slow")
    assert killed.stdout is not None and killed.stdout.readline() == "here\n"
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "killed" / "all.parquet").exists()
    assert read_json(tmp_path / "killed" / "run.json")["status"] == "running"
    first_unit = tmp_path / "killed" / "units" / "u0.parquet"
    (first_unit.parent / ".u2.parquet.x3abc_12.tmp").write_bytes(b"half a write")
    written = first_unit.stat().st_mtime_ns
    time.sleep(0.01)
    runs = [python(code, str(tmp_path / name), "fast") for name in ("killed", "straight")]
    assert [run.communicate()[1] for run in runs] == ["", ""]
    assert first_unit.stat().st_mtime_ns == written
    assert not list((tmp_path / "killed").rglob("*.tmp"))
    one, other = (tmp_path / name / "all.parquet" for name in ("killed", "straight"))
    assert one.read_bytes() == other.read_bytes()


def test_tables_figures_and_reports_do_not_import_torch():
    code = """
    from tl_taskneurons import plots
    from tl_taskneurons.report import terminal
    from tl_taskneurons.runtime import run_folder, table_files
    print("torch" in sys.modules)
    """
    assert python(code).communicate() == ("False\n", "")
