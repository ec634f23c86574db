"""Sets and scores on disk."""

import json
import os
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
import safetensors.torch
import torch
from small_sets import PRINT, neuron_set, scores_of
from torch import Tensor

from tl_taskneurons import NeuronScores, NeuronSet
from tl_taskneurons.models.view import view
from tl_taskneurons.runtime import tensor_files as files


def test_round_trips(tmp_path: Path):
    info = {"n": 3, "against": ["a", "b"], "fraction": 0.1, "none": None, "é": "ü"}
    chosen = NeuronSet(neuron_set(0b1011).mask, PRINT, "nämé", info)
    chosen.save(tmp_path / "new" / "set.safetensors")
    loaded = NeuronSet.load(tmp_path / "new" / "set.safetensors")
    assert loaded == chosen
    assert loaded.mask.dtype == torch.bool
    assert (loaded.name, loaded.info) == ("nämé", info)
    found = NeuronScores(torch.rand(3, 8), PRINT, "t", "exact", info)
    found.save(str(tmp_path / "scores.safetensors"))
    back = NeuronScores.load(str(tmp_path / "scores.safetensors"))
    assert torch.equal(back.values, found.values)
    assert (back.name, back.method, back.fingerprint, back.info) == ("t", "exact", PRINT, info)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "scores.safetensors"]


def test_the_same_set_is_the_same_file(tmp_path: Path):
    values = torch.linspace(0, 1, 24).reshape(3, 8)
    for i, info in enumerate(({"a": 1, "b": 2}, {"b": 2, "a": 1})):
        NeuronScores(values.clone(), PRINT, "t", "m", info).save(tmp_path / f"{i}")
        NeuronSet(values > 0.5, PRINT, "t", info).save(tmp_path / f"set{i}")
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()
    assert (tmp_path / "set0").read_bytes() == (tmp_path / "set1").read_bytes()
    NeuronSet(values > 0.4, PRINT, "t", {"a": 1, "b": 2}).save(tmp_path / "set1")
    assert (tmp_path / "set0").read_bytes() != (tmp_path / "set1").read_bytes()


def test_files_hold_numpy_views_and_slices(tmp_path: Path):
    values = torch.rand(8, 3).T
    assert not values.is_contiguous()
    NeuronScores(values, PRINT).save(tmp_path / "s")
    assert np.array_equal(NeuronScores.load(tmp_path / "s").values.numpy(), values.numpy())


def damaged(path: Path, how: str) -> None:
    neuron_set(7).save(path)
    content = path.read_bytes()
    tensors = {"NeuronSet": torch.ones(3, 8, dtype=torch.uint8)}
    if how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(content[:-5])
    elif how == "noise":
        path.write_bytes(bytes(range(256)) * 4)
    elif how == "foreign":
        safetensors.torch.save_file({"weight": torch.ones(3)}, path)
    elif how == "scores":
        scores_of([[1.0]]).save(path)
    elif how == "not json":
        safetensors.torch.save_file(tensors, path, metadata={"tl_taskneurons": "{"})
    elif how == "no dict":
        safetensors.torch.save_file(tensors, path, metadata={"tl_taskneurons": "[1]"})
    else:
        header = {"kind": "NeuronSet", "name": "x"}
        if how == "no tensor":
            header |= {"fingerprint": PRINT, "info": {}}
            tensors = {"other": tensors["NeuronSet"]}
        safetensors.torch.save_file(tensors, path, metadata={"tl_taskneurons": json.dumps(header)})


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("empty", "damaged or no safetensors file"),
        ("cut", "x.safetensors is damaged"),
        ("noise", "damaged or no safetensors file"),
        ("not json", "damaged or no safetensors file"),
        ("foreign", "holds no NeuronSet .*it holds nothing of ours"),
        ("no dict", "holds no NeuronSet .*it holds nothing of ours"),
        ("scores", "holds no NeuronSet .*it holds NeuronScores"),
        ("no fingerprint", "holds a NeuronSet without fingerprint, info"),
        ("no tensor", "damaged or no safetensors file"),
    ],
)
def test_damaged_and_foreign_files(how: str, message: str, tmp_path: Path):
    path = tmp_path / "x.safetensors"
    damaged(path, how)
    content = path.read_bytes()
    with pytest.raises(ValueError, match=message) as caught:
        NeuronSet.load(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_missing_files(tmp_path: Path):
    path = tmp_path / "none.safetensors"
    for load in (NeuronSet.load, NeuronScores.load):
        with pytest.raises(FileNotFoundError, match=f"No file {path}"):
            load(path)
        with pytest.raises(OSError, match="Is a directory; give the file"):
            load(tmp_path)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("moment", ["while writing", "before moving"])
def test_an_interrupted_write_keeps_the_old_file(
    error: BaseException, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "s.safetensors"
    neuron_set(7).save(path)
    content = path.read_bytes()

    def half(_tensors: Any, temporary: Any, **_: Any) -> None:
        Path(temporary).write_bytes(content[:20])
        raise error

    def stop(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        if moment == "while writing":
            patched.setattr(files, "save_file", half)
        else:
            patched.setattr(Path, "replace", stop)
        with pytest.raises(type(error)):
            neuron_set(8).save(path)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["s.safetensors"]  # noqa: PTH208
    neuron_set(8).save(path)
    assert NeuronSet.load(path) == neuron_set(8)


def test_info_that_is_no_json_is_refused_before_writing(tmp_path: Path):
    neuron_set(7).save(tmp_path / "s")
    content = (tmp_path / "s").read_bytes()
    with pytest.raises(TypeError, match="not JSON serializable"):
        NeuronSet(neuron_set(1).mask, PRINT, "s", {"path": tmp_path}).save(tmp_path / "s")
    assert (tmp_path / "s").read_bytes() == content


def test_a_set_finds_its_model_again(tmp_path: Path):
    chosen = NeuronSet.from_pairs(helpers.tiny_lens("llama"), [(0, 3), (1, 40)])
    chosen.save(tmp_path / "s")
    same: Tensor = NeuronSet.load(tmp_path / "s").mask
    assert (
        NeuronSet.load(tmp_path / "s").fingerprint == view(helpers.tiny_lens("llama")).fingerprint
    )
    assert same.nonzero().tolist() == [[0, 3], [1, 40]]


@pytest.mark.parametrize("mask", [torch.ones(3), torch.ones(2, 3), torch.full((2, 3), 2).byte()])
def test_a_set_whose_mask_is_none_is_refused(tmp_path: Path, mask: torch.Tensor):
    header = {"fingerprint": "f", "name": "n", "info": {}}
    files.save_tensor(tmp_path / "set.safetensors", "NeuronSet", mask, header)
    with pytest.raises(ValueError, match=r"set.safetensors is damaged: its mask is"):
        NeuronSet.load(tmp_path / "set.safetensors")
