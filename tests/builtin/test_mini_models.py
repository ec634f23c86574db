"""The mini models in the package: `make mini` makes them again."""

import shutil
import time
from pathlib import Path

import helpers
import pytest
import torch

from tl_taskneurons.builtin import mini_models
from tl_taskneurons.builtin.mini_models import mini_model_folder, mini_model_names
from tl_taskneurons.cli import app as cli
from tl_taskneurons.loading.models import load_model, model_name, model_revision
from tl_taskneurons.loading.tasks import load_tasks
from tl_taskneurons.models.view import view
from tl_taskneurons.report import terminal
from tl_taskneurons.tasks.prompts import encode

KINDS = ("bridge", "hooked") if helpers.HAS_HOOKED else ("bridge",)
NAMES = mini_model_names()


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a copy of mini-llama, which the names then stand for."""
    shutil.copytree(mini_model_folder("mini-llama"), tmp_path / "mini-llama")
    monkeypatch.setattr(mini_models, "FOLDER", tmp_path)
    return tmp_path / "mini-llama"


@pytest.mark.parametrize("name", NAMES)
def test_folder_is_small_and_holds_config_tokenizer_and_weights(name):
    files = {file.name: file.stat().st_size for file in mini_model_folder(name).iterdir()}
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= set(files)
    assert sum(files.values()) <= 4_000_000


@pytest.mark.parametrize("name", NAMES)
def test_both_classes_load_in_two_seconds_and_agree(name):
    (task,) = load_tasks("mini", ["mini_scenes"], limit=4)
    log_probs = []
    load_model(name)  # what is imported on the way counts once
    for kind in KINDS:
        began = time.process_time()
        model = load_model(name, kind=kind)
        assert time.process_time() - began < 2
        assert model_name(model) == name
        assert model_revision(model).startswith("sha256:")
        ids = torch.tensor([encode(task, model.tokenizer).items[0].prompt])
        with torch.no_grad():
            log_probs.append(model(ids).log_softmax(-1))
    for other in log_probs[1:]:
        torch.testing.assert_close(other, log_probs[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_shape_is_the_promised_one(name):
    shape = view(load_model(name))
    assert shape.n_layers >= 4
    assert shape.d_mlp >= 512
    assert shape.gated == ("llama" in name)
    assert 0.5e6 < sum(p.numel() for p in shape.model.parameters()) < 2.5e6


@pytest.mark.parametrize("name", ["mini-lama", "mini-", "Mini-Bloom-7b"])
def test_unknown_name_lists_the_names(name):
    with pytest.raises(ValueError, match=rf"{name}.*mini-llama, .*mini-bloom-base"):
        load_model(name)


def test_a_name_is_found_whatever_its_case(copies):
    assert model_name(load_model("Mini-Llama")) == "mini-llama"


def test_a_model_without_weights_says_so(copies):
    with pytest.raises(FileNotFoundError, match=r"mini-bloom.config.json is missing; install"):
        load_model("mini-bloom")


def test_damaged_weights_are_recognised(copies):
    weights = copies / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"mini-llama.*are damaged: their SHA-256 is"):
        load_model("mini-llama")


@pytest.mark.parametrize("recorded", ["", f"{0:064}  model.safetensors"])
def test_a_damaged_checksum_is_recognised(copies, recorded):
    (copies / "model.safetensors.sha256").write_text(recorded)
    with pytest.raises(ValueError, match=r"mini-llama.*are damaged: their SHA-256 is"):
        load_model("mini-llama")


def test_the_command_line_asks_mini_models_without_demonstrations(tmp_path, monkeypatch):
    monkeypatch.setattr(terminal, "draw", lambda *arguments: [])
    out = tmp_path / "out"
    words = f"detect --model mini-llama --tasks mini_food,mini_news --limit 3 --out {out}"
    assert cli.main(words.split()) == 0
    assert '"shots": 0' in (out / "run.json").read_text()
    assert len(list((out / "sets" / "plain").iterdir())) == 2
