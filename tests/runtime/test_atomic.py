"""Files and folders are written whole or not at all, and leftovers are removed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tl_taskneurons.runtime.atomic import (
    below,
    remove_leftovers,
    require_writable,
    write_atomically,
    write_folder,
)
from tl_taskneurons.runtime.errors import FileError
from tl_taskneurons.runtime.roles import Role, acting
from tl_taskneurons.runtime.table_files import write_json


def test_places_that_cannot_be_written_are_told_before_the_work(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileError, match="file/.probe could not be written: Not a directory"):
        require_writable(tmp_path / "file")
    require_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_programming_errors_stay_what_they_are(tmp_path: Path):
    def write(_: Path) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "x", write)
    assert list(tmp_path.iterdir()) == []


def test_processes_that_do_not_lead_write_nothing(tmp_path: Path):
    class Follower(Role):
        @property
        def leads(self) -> bool:
            return False

    with acting(Follower()):
        write_json(tmp_path / "x.json", {})
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_killed_writers_go_and_others_stay(tmp_path: Path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine = f".x.json.{os.getpid()}-0123abcd.tmp"
    names = {
        f".x.json.{ended.pid}-0123abcd.tmp": True,
        mine: True,  # an earlier process had this number
        f".x.json.{os.getppid()}-0123abcd.tmp": False,  # at work
        ".notes.tmp": False,
        ".x.json.abcd_123.tmp": False,  # perhaps another program's
    }
    for name in names:
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (1e9, 1e9))
    (tmp_path / f".y.{ended.pid}-0123abcd.tmp").write_text("newer than this process")
    write_json(tmp_path / "x.json", {})
    left = {file.name for file in tmp_path.iterdir()}
    assert {name for name in names if name not in left} == {n for n, goes in names.items() if goes}
    assert f".y.{ended.pid}-0123abcd.tmp" in left
    remove_leftovers(tmp_path, ours=True)
    assert ".x.json.abcd_123.tmp" not in {file.name for file in tmp_path.iterdir()}


def test_folders_that_vanish_while_they_are_walked_are_passed_over(tmp_path: Path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    seen = []
    for path in below(tmp_path):
        seen.append(path.name)
        if path.name == "file":
            for folder in tmp_path.iterdir():
                shutil.rmtree(folder)
    assert sorted(seen) == ["a", "b", "c", "file"]


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path):
    target = tmp_path / "out"
    target.mkdir()  # an empty one is replaced

    def fail(part: Path) -> None:
        (part / "half").write_text("x")
        raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off"):
        write_folder(target, fail)
    assert list(target.iterdir()) == []
    write_folder(target, lambda part: (part / "whole").write_text("x"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in target.iterdir()] == ["whole"]
    with pytest.raises(OSError, match="out could not be written"):
        write_folder(target, lambda part: None)
    assert [path.name for path in target.iterdir()] == ["whole"]
    with pytest.raises(OSError, match="could not be written"):
        write_folder(target / "whole" / "below", lambda part: None)  # a file in a folder's place
