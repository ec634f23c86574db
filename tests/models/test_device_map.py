"""Models that accelerate spreads over devices; here all of them are the CPU, with its hooks on."""

import copy
from pathlib import Path
from typing import Any

import helpers
import pytest
import torch
from accelerate import dispatch_model
from micro import words

import tl_taskneurons as tn
from tl_taskneurons.loading.models import load_model


def by_layers(hf: Any) -> dict[str, Any]:
    """A device map that names every layer."""
    modules = dict(hf.named_modules())
    layers = next(name for name in modules if name.endswith((".layers", ".h")))
    root = layers.split(".")[0]
    beside = [f"{root}.{name}" for name, _ in modules[root].named_children()]
    rest = [name for name, _ in hf.named_children() if name != root]
    each = [f"{layers}.{i}" for i in range(len(modules[layers]))]
    return dict.fromkeys([*(name for name in beside if name != layers), *rest, *each], "cpu")


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "phi3"])
def test_accelerates_hooks_change_nothing(name: str, tokenizer: Any):
    hf = helpers.tiny_hf(name)
    plain = load_model(copy.deepcopy(hf), tokenizer=tokenizer, device="cpu")
    # accelerate compares the main device by its name.
    main: Any = "cpu"
    spread = dispatch_model(hf, by_layers(hf), main_device=main, force_hooks=True)
    assert sum(hasattr(part, "_hf_hook") for part in spread.modules()) > 2
    model = load_model(spread, tokenizer=tokenizer, device="cpu")
    task, training = words(4), tn.Training(lr=1e-2, steps=2)
    found = []
    for one in (plain, model):
        scores = tn.score_neurons(one, task)
        neurons = scores.top(n=5)
        with tn.deactivate(one, neurons):
            losses = tn.evaluate_items(one, task)["loss"].tolist()
        found.append((scores.values, losses, tn.finetune(one, task, neurons, training).trained))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert all(torch.equal(found[0][2][part], value) for part, value in found[1][2].items())


def test_a_device_map_is_followed(tmp_path: Path):
    folder = helpers.save_tiny("llama", tmp_path / "tiny")
    model = load_model(folder, device_map={"": "cpu"})
    assert tn.view(model).fingerprint == tn.view(load_model(folder, device="cpu")).fingerprint


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "cpu"}, "device is 'cpu', but the model is spread over devices"),
        ({"kind": "hooked"}, "use kind='bridge'|removed HookedTransformer"),
    ],
)
def test_arguments_that_do_not_go_together(options: dict[str, str], words: str, tmp_path: Path):
    with pytest.raises((ValueError, ImportError), match=words):
        load_model(tmp_path, device_map="auto", **options)  # pyright: ignore[reportArgumentType]


def test_a_model_in_memory_takes_no_map():
    hf: Any = helpers.tiny_hf("llama")
    with pytest.raises(ValueError, match="accelerate.dispatch_model"):
        load_model(hf, device_map="auto")
    hf.hf_device_map = {"model": 0, "lm_head": 1}
    with pytest.raises(ValueError, match="leave device out"):
        load_model(hf, device="cpu")


def test_offloaded_weights_are_refused():
    hf: Any = helpers.tiny_hf("llama")
    hf.to("meta")
    hf.hf_device_map = {"model": 0, "lm_head": "cpu"}
    with pytest.raises(ValueError, match="offloaded, such as 'model.embed_tokens.weight'"):
        load_model(hf)
