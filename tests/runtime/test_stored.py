"""What is stored is computed once, by one process at a time, and the locks for it."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import filelock
import pandas as pd
import pytest

from tl_taskneurons.runtime import locks
from tl_taskneurons.runtime.locks import NoLocksWarning, locked
from tl_taskneurons.runtime.stored import stored
from tl_taskneurons.runtime.table_files import read_table, write_table

FRAME = pd.DataFrame({"task": ["a", "b", "a"], "value": [0.5, 1.25, -2.0], "n": [1, 2, 3]})


def test_stored_computes_once_and_again_after_deleting(tmp_path: Path):
    calls = []

    def compute() -> pd.DataFrame:
        calls.append(1)
        return FRAME

    def find() -> pd.DataFrame:
        return stored(
            tmp_path / "t.parquet", compute, load=read_table, save=write_table,
            lock=tmp_path / "locks" / "t",
        )  # fmt: skip

    assert find().equals(FRAME) and find().equals(FRAME) and len(calls) == 1
    content = bytearray((tmp_path / "t.parquet").read_bytes())
    content[10] ^= 4
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(ValueError, match="t.parquet is damaged"):
        find()
    (tmp_path / "t.parquet").unlink()
    assert find().equals(FRAME) and len(calls) == 2


def test_of_several_processes_one_computes(tmp_path: Path):
    code = """
import sys, time
from pathlib import Path
from tl_taskneurons.runtime.stored import stored
from tl_taskneurons.runtime.table_files import read_json, write_json
folder = Path(sys.argv[1])

def compute():
    with (folder / "calls").open("a") as calls:
        calls.write("x")
    time.sleep(0.3)
    return {"a": 1}

load, save = read_json, write_json
assert stored(folder / "a.json", compute, load=load, save=save, lock=folder / "lock") == {"a": 1}
"""
    runs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [run.wait() for run in runs] == [0, 0, 0]
    assert (tmp_path / "calls").read_text() == "x"


def test_locks_are_held_and_let_go(tmp_path: Path):
    with locked(tmp_path / "new" / "lock") as mine:
        assert mine
        with locked(tmp_path / "new" / "lock", wait=False) as again:
            assert not again
    with locked(tmp_path / "new" / "lock", wait=False) as mine:
        assert mine


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_disk_without_locks_is_told_and_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(filelock.FileLock, "_acquire", refuse)
    with (
        pytest.warns(NoLocksWarning, match="Locking is not supported here"),
        locks.locked(tmp_path / "lock", wait=False) as mine,
    ):
        assert mine


def test_a_lock_in_a_missing_or_moved_folder_needs_no_cleaning(tmp_path: Path):
    with locked(tmp_path / "a" / "lock"):
        shutil.rmtree(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
