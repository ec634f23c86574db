"""The script for a GPU, on the CPU with small shapes, and the packing for a bare machine."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import torch
import wheels

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "benchmarks"
sys.path.insert(0, str(SCRIPTS))
gpu, gpu_pack = (importlib.import_module(name) for name in ("gpu", "gpu_pack"))

TINY = ["--device", "cpu", "--tiny", "--only", "b"]


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, str(SCRIPTS / "gpu.py"), "--out", str(out), *TINY, *more]


def tables(out: Path) -> dict[str, float]:
    return {file.name: file.stat().st_mtime for file in out.glob("*.csv")}


@pytest.mark.needs("once")
@pytest.mark.slow
def test_a_killed_run_goes_on_and_does_nothing_twice(tmp_path: Path):
    process = subprocess.Popen(command(tmp_path), start_new_session=True)
    while not (tmp_path / "b-detection.csv").exists():
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = tables(tmp_path)
    assert 2 <= len(before) < 4
    subprocess.run(command(tmp_path), check=True, timeout=300)
    after = tables(tmp_path)
    assert set(after) == {
        f"b-{name}.csv" for name in ("matrix_peak", "detection", "training", "plan")
    }
    assert {name: after[name] for name in before} == before
    assert not list(tmp_path.glob("*.tmp"))
    assert "failed" not in (tmp_path / "log.txt").read_text()
    steps = pd.read_csv(tmp_path / "b-training.csv")
    assert (steps["seconds"] > 0).all()
    peaks = dict(zip(steps["what"], steps["peak_gib"].astype(float), strict=True))
    assert peaks["training 10% of the neurons"] < peaks["all weights, AdamW"]


@pytest.mark.slow
def test_the_time_limit_is_honoured(tmp_path: Path):
    start = time.monotonic()
    subprocess.run(command(tmp_path, "--minutes", "0.02"), check=True, timeout=60)
    assert time.monotonic() - start < 1.2 + 10
    assert "time limit" in (tmp_path / "log.txt").read_text()


def test_what_cannot_be_is_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert gpu.main(["--out", str(tmp_path), "--work", "--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert gpu.main(["--out", str(tmp_path), "--work", *TINY[:3], "--only", "z"]) == 2
    assert "'z'" in capsys.readouterr().err


def test_a_pack_comes_out_as_it_went_in(tmp_path: Path):
    files = []
    for name, size in (("one.whl", 10), ("two.whl", 2500), ("three.whl", 0)):
        files.append(tmp_path / name)
        files[-1].write_bytes(bytes(i % 251 for i in range(size)))
    pack = tmp_path / "pack"
    pack.mkdir()
    parts = gpu_pack.split(files, pack, size=1000)
    assert [part.stat().st_size for part in parts] == [1000, 1000, 510]
    joined = gpu_pack.join(pack, tmp_path / "out")
    assert [file.read_bytes() for file in joined] == [file.read_bytes() for file in files]


@pytest.mark.needs("once")
def test_a_pack_is_installed_and_imported_from_its_folder(tmp_path: Path):
    pack, target = tmp_path / "pack", tmp_path / "site"
    for folder in (pack, tmp_path / "build"):
        folder.mkdir()
    gpu_pack.split([wheels.build(tmp_path / "build")], pack, size=100_000)
    script = [sys.executable, str(SCRIPTS / "gpu_pack.py"), "unpack", str(pack)]
    done = subprocess.run(
        [*script, "--target", str(target)], cwd=tmp_path, capture_output=True, text=True,
        timeout=300, check=True,
    )  # fmt: skip
    assert f"public names at {target / 'tl_taskneurons'}" in done.stdout


def test_missing_and_damaged_parts_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "one.whl"
    file.write_bytes(b"x" * 3000)
    pack = tmp_path / "pack"
    pack.mkdir()
    first, second, third = gpu_pack.split([file], pack, size=1000)
    first.unlink()
    third.write_bytes(b"y" + third.read_bytes()[1:])
    assert gpu_pack.main(["check", str(pack)]) == 2
    told = capsys.readouterr().err
    assert f"{first.name} is missing" in told and f"{third.name} is damaged" in told
    assert second.name not in told
    assert gpu_pack.main(["unpack", str(pack), "--target", str(tmp_path / "site")]) == 2
    assert not (tmp_path / "site").exists()


def test_what_is_packed_is_what_the_package_needs(tmp_path: Path):
    needed = gpu_pack.needed()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    own = {gpu_pack.normal(re.split("[>=<]", line)[0]) for line in project["dependencies"]}
    assert own | {"peft", "accelerate"} <= needed
    assert not {"pytest", "sphinx", "ruff"} & needed
    lines = gpu_pack.pins("torch==2.13.0\n# a comment\nnvidia-nccl-cu12==1\neinops==0.8.2\n")
    assert lines == ["einops==0.8.2"]
    with pytest.raises(FileExistsError, match="not empty"):
        (tmp_path / "x").write_text(json.dumps({}))
        gpu_pack.pack(tmp_path)


@pytest.mark.parametrize("job", ["detection", "evaluation", "evaluation, 10% silenced"])
def test_a_further_batch_waits_once_for_the_gpu(job: str) -> None:
    launches = importlib.import_module("launches")
    config = launches.with_layers(launches._config(), 2)
    model_view = launches.view(
        launches.random_model(config, "float32", torch.device("cpu"), "bridge")
    )
    one, two = (launches.count(launches.jobs(model_view, n, config)[job]) for n in (1, 2))
    # That a loss is finite is asked by us, whether tokens are padded by TransformerBridge.
    assert two[1] - one[1] == 2
    assert two[0] > one[0]
