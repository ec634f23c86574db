"""Tables, JSON and tensors in files: digests, damage, names, modes and full disks."""

import hashlib
import os
import random
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from tl_taskneurons.runtime.atomic import require_writable
from tl_taskneurons.runtime.errors import FileError
from tl_taskneurons.runtime.run_folder import file_name
from tl_taskneurons.runtime.table_files import (
    read_csv,
    read_json,
    read_table,
    write_csv,
    write_json,
    write_table,
)
from tl_taskneurons.runtime.tensor_files import load_tensors, save_tensors

FRAME = pd.DataFrame({"task": ["a", "b", "a"], "value": [0.5, 1.25, -2.0], "n": [1, 2, 3]})
TENSORS = {"x": torch.arange(6.0).reshape(2, 3), "mask": torch.tensor([0, 1], dtype=torch.uint8)}

# name -> (write, read)
KINDS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "table.parquet": (lambda path: write_table(path, FRAME), read_table),
    "facts.json": (lambda path: write_json(path, {"b": [1.5, None], "a": "é"}), read_json),
    "list.json": (lambda path: write_json(path, [1, 2, {"c": 3}]), read_json),
    "table.csv": (lambda path: write_csv(path, FRAME), read_csv),
    "x.safetensors": (
        lambda path: save_tensors(path, "Thing", TENSORS, {"name": "n", "digest": "d"}),
        lambda path: load_tensors(path, "Thing", ("name",)),
    ),
}
each_kind = pytest.mark.parametrize("name", list(KINDS))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple):  # tensors and their header
        (a, facts), (b, others) = one, other
        return facts == others and all(torch.equal(a[key], b[key]) for key in {**a, **b})
    return one.equals(other) if isinstance(one, pd.DataFrame) else one == other


@each_kind
def test_a_file_comes_back_and_its_bytes_are_those_of_its_content(tmp_path: Path, name: str):
    write, read = KINDS[name]
    write(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    first = read(tmp_path / name)
    write(tmp_path / name)
    assert (tmp_path / name).read_bytes() == content
    assert same(first, read(tmp_path / name))
    assert "file_digest" not in str(first)


@each_kind
def test_any_flipped_bit_is_named_and_deleting_the_file_mends_it(tmp_path: Path, name: str):
    write, read = KINDS[name]
    file = tmp_path / name
    write(file)
    content = bytearray(file.read_bytes())
    bits = random.Random(0).sample(range(8 * len(content)), 60)
    mark = content.find(b"tl_taskneurons sha256")
    key = content.find(b"file_digest")
    bits += [8 * at + 5 for start in (mark, key) if start >= 0 for at in range(start, start + 11)]
    for bit in bits:
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        with pytest.raises(ValueError, match=f"{name} (is|holds|was)"):
            read(file)
    file.unlink()
    write(file)
    read(file)


@each_kind
def test_a_cut_or_empty_file_is_named(tmp_path: Path, name: str):
    write, read = KINDS[name]
    file = tmp_path / name
    write(file)
    content = file.read_bytes()
    for size in (0, 1, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:size])
        with pytest.raises(ValueError, match=name):
            read(file)


def test_files_without_digests_load_as_before(tmp_path: Path):
    FRAME.to_parquet(tmp_path / "old.parquet", index=False)
    assert read_table(tmp_path / "old.parquet").equals(FRAME)
    (tmp_path / "old.json").write_text('[{"a": 1}]')
    assert read_json(tmp_path / "old.json") == [{"a": 1}]
    FRAME.to_csv(tmp_path / "old.csv", index=False)
    assert read_csv(tmp_path / "old.csv").equals(FRAME)
    header = {"tl_taskneurons": '{"kind": "Thing", "name": "n"}'}
    save_file(TENSORS, tmp_path / "old.safetensors", metadata=header)
    tensors, found = load_tensors(tmp_path / "old.safetensors", "Thing", ("name",))
    assert torch.equal(tensors["x"], TENSORS["x"]) and found == {"kind": "Thing", "name": "n"}


def test_a_format_of_the_future_is_refused(tmp_path: Path):
    save_tensors(tmp_path / "x.safetensors", "Thing", TENSORS, {"format": 99})
    with pytest.raises(ValueError, match="x.safetensors is of a format"):
        load_tensors(tmp_path / "x.safetensors", "Thing")


def test_sums_are_those_of_sha256sum_and_formulas_become_text(tmp_path: Path):
    frame = pd.DataFrame({"=x": ["=1+1", "@a", "plain", "-"], "n": [-1.0, 2.0, 3.0, 4.0]})
    for name in ("b.csv", "a.csv"):
        write_csv(tmp_path / name, frame)
    lines = (tmp_path / "SHA256SUMS").read_text().splitlines()
    digest = hashlib.sha256((tmp_path / "a.csv").read_bytes()).hexdigest()
    assert lines == [f"{digest}  a.csv", f"{digest}  b.csv"]
    assert (tmp_path / "a.csv").read_text().splitlines() == [
        "'=x,n", "'=1+1,-1.0", "'@a,2.0", "plain,3.0", "'-,4.0",
    ]  # fmt: skip


def test_what_was_made_text_for_spreadsheets_is_read_as_it_was(tmp_path: Path):
    frame = pd.DataFrame({"=x": ["=1", "'=1", "''@a", "'quoted'", "plain"]})
    write_csv(tmp_path / "a.csv", frame)
    assert read_csv(tmp_path / "a.csv").equals(frame)


def test_sums_of_others_stay_as_they_are(tmp_path: Path):
    theirs = f"{'0' * 64} *theirs.bin\n# a remark\n{'1' * 64}  z.txt\n"
    (tmp_path / "SHA256SUMS").write_text(theirs)
    for value in (1, 2):
        write_csv(tmp_path / "a.csv", pd.DataFrame({"x": [value]}))
    digest = hashlib.sha256((tmp_path / "a.csv").read_bytes()).hexdigest()
    assert (tmp_path / "SHA256SUMS").read_text() == (
        f"{'0' * 64} *theirs.bin\n# a remark\n{digest}  a.csv\n{'1' * 64}  z.txt\n"
    )
    (tmp_path / "SHA256SUMS").write_bytes(b"\xff")
    with pytest.raises(FileError, match="SHA256SUMS, which lists digests, can't be read"):
        read_csv(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("text", "told"),
    [("[" * 100_000, "nested too deeply"), ('{"a": 1, "a": 2}', "'a' twice"), ("{", "not JSON")],
)
def test_json_of_strangers_ends_in_a_line(tmp_path: Path, text: str, told: str):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=f"x.json is damaged or not JSON .*{told}|{told}"):
        read_json(tmp_path / "x.json")
    save_file(TENSORS, tmp_path / "x.safetensors", metadata={"tl_taskneurons": text})
    with pytest.raises(ValueError, match="x.safetensors is damaged"):
        load_tensors(tmp_path / "x.safetensors", "Thing")


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask(tmp_path: Path, mask: int):
    before = os.umask(mask)
    try:
        for name, (write, _) in KINDS.items():
            write(tmp_path / name)
            assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~mask
    finally:
        os.umask(before)


@contextmanager
def full_disk() -> Iterator[None]:
    """No file takes more than 20 bytes, as if the disk were full then.

    Only for as long as needed, as pytest's own output may go to a file.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@each_kind
def test_a_full_disk_is_one_line_with_the_files_name(tmp_path: Path, name: str):
    write, _ = KINDS[name]
    told = f"{name} could not be written: .*File too large"
    with pytest.raises(FileError, match=told) as caught, full_disk():
        write(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_before_the_work(tmp_path: Path):
    with pytest.raises(FileError, match="could not be written: File too large"), full_disk():
        require_writable(tmp_path)


def test_unreadable_files_are_named(tmp_path: Path):
    for name, (_, read) in KINDS.items():
        (tmp_path / name).mkdir()  # opening a folder fails for any user
        with pytest.raises(FileError, match=f"{name} can't be read: Is a directory"):
            read(tmp_path / name)
        with pytest.raises(FileNotFoundError, match="nowhere"):
            read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "task",
    ["情感分析" * 10, "x" * 300, "../../up", "..", ".hidden", "a/b\\c:d", "é ü", "=1", "\x1b[0m"],
)
def test_any_name_is_a_file_of_its_folder(tmp_path: Path, task: str):
    file = tmp_path / f"random-{file_name(task)}-12.safetensors"
    save_tensors(file, "Thing", TENSORS, {})
    assert [p.name for p in tmp_path.iterdir()] == [file.name]
    assert load_tensors(file, "Thing")[1]["kind"] == "Thing"
    assert not file_name(task).startswith(".")
    assert file_name(task) != file_name(task + "x")


def test_writers_of_one_folder_keep_each_others_digests(tmp_path: Path):
    def write(name: str) -> None:
        for k in range(25):
            write_csv(tmp_path / name, FRAME.assign(n=k))

    names = ["a.csv", "b.csv", "c.csv"]
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(write, names))
    assert len((tmp_path / "SHA256SUMS").read_text().splitlines()) == len(names)
    for name in names:
        assert read_csv(tmp_path / name)["n"].eq(24).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["SHA256SUMS", *names]


def test_words_for_nothing_are_words(tmp_path: Path):
    frame = pd.DataFrame({"task": ["None", "NA", "x"], "value": [1.0, float("nan"), 2.0]})
    write_csv(tmp_path / "t.csv", frame)
    pd.testing.assert_frame_equal(read_csv(tmp_path / "t.csv"), frame, check_dtype=False)
