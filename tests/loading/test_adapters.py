"""Adapters, weights that are computed from others, and code that comes with a model."""

import json
import warnings
from pathlib import Path
from typing import Any

import helpers
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch.nn.utils import parametrizations, prune

import tl_taskneurons as tn

KINDS = ["bridge", pytest.param("hooked", marks=pytest.mark.needs("hooked"))]
# What peft itself calls in transformers.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
IDS = torch.arange(5, 25)[None]


def lora(*targets: str, **more: Any) -> LoraConfig:
    return LoraConfig(r=4, target_modules=list(targets), init_lora_weights=False, **more)


def log_probs(model: Any) -> torch.Tensor:
    out = model(IDS)
    return getattr(out, "logits", out).log_softmax(-1).detach()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["PeftModel", "add_adapter", "add_adapter on attention"])
def test_a_model_with_an_adapter_is_merged_into_a_copy(how: str, kind: str):
    config = lora("q_proj") if "attention" in how else lora("down_proj", "q_proj")
    hf: Any = helpers.tiny_hf("llama")
    if how == "PeftModel":
        adapted: Any = get_peft_model(hf, config)
    else:
        hf.add_adapter(config)
        adapted = hf
    adapted.eval()
    expected, names = log_probs(adapted), [name for name, _ in adapted.named_parameters()]
    with pytest.warns(UserWarning, match=r"copy of the model .* merged"):
        model = tn.load_model(adapted, kind=kind, device="cpu")
    assert (log_probs(model) - expected).abs().max() < 1e-4
    assert (expected - log_probs(helpers.tiny_lens("llama"))).abs().max() > 0.1
    assert tn.view(model).fingerprint != tn.view(helpers.tiny_lens("llama", kind)).fingerprint
    # The user's model keeps its adapter.
    assert [name for name, _ in adapted.named_parameters()] == names
    assert hasattr(hf, "peft_config")
    assert torch.equal(log_probs(adapted), expected)


def test_neurons_of_a_merged_model_are_silenced_alike_by_hooks_and_by_weights():
    hf: Any = helpers.tiny_hf("llama")
    hf.add_adapter(lora("down_proj", "up_proj"))
    with pytest.warns(UserWarning, match="merged"):
        model = tn.load_model(hf.eval(), device="cpu")
    neurons = tn.NeuronSet.from_pairs(model, [(0, 3), (1, 40)])
    with tn.deactivate(model, neurons):
        by_hooks = log_probs(model)
    with tn.deactivate(model, neurons, how="weights"):
        assert (log_probs(model) - by_hooks).abs().max() < 1e-5


def test_an_adapter_that_is_switched_off_is_left_out():
    hf: Any = helpers.tiny_hf("llama")
    hf.add_adapter(lora("down_proj"))
    hf.disable_adapters()
    with pytest.warns(UserWarning, match="merged"):
        model = tn.load_model(hf.eval(), device="cpu")
    assert tn.view(model).fingerprint == tn.view(helpers.tiny_lens("llama")).fingerprint


def test_a_folder_with_an_adapter(tmp_path: Path):
    base = helpers.save_tiny("llama", tmp_path / "base")
    adapted = get_peft_model(helpers.tiny_hf("llama"), lora("down_proj", "v_proj"))
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(str(tmp_path / "tuned"))
    with pytest.warns(UserWarning, match=r"adapter in .*tuned.* was merged"):
        model = tn.load_model(tmp_path / "tuned", device="cpu")
    assert (log_probs(model) - log_probs(adapted.eval())).abs().max() < 1e-4
    assert model.cfg.model_name == "tuned"
    assert model.tokenizer is not None
    file = tmp_path / "tuned" / "adapter_config.json"
    config = json.loads(file.read_text())
    for bad in (None, "/nowhere/base"):
        file.write_text(json.dumps(config | {"base_model_name_or_path": bad}))
        with pytest.raises((ValueError, FileNotFoundError), match="adapter|no file or folder"):
            tn.load_model(tmp_path / "tuned")


def test_a_learned_prompt_cannot_be_merged():
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=3)
    adapted: Any = get_peft_model(helpers.tiny_hf("llama"), config)
    with pytest.raises(ValueError, match="PromptTuningConfig learns a prompt"):
        tn.load_model(adapted)


def test_an_active_adapter_on_the_neurons_of_a_bridge_is_refused_by_name():
    model = helpers.tiny_lens("llama")
    homes = [n for n, _ in model.original_model.named_modules() if "0" in n and "down_proj._" in n]
    inject_adapter_in_model(lora(*homes), model.original_model)
    with pytest.raises(ValueError, match=r"Layer 0 of .* active adapter .* on W_out.*merge"):
        tn.view(model)
    for module in model.original_model.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(False)
    assert tn.view(model).fingerprint == tn.view(helpers.tiny_lens("llama")).fingerprint


def test_lora_training_refuses_to_displace_the_adapters_of_a_user(tokenizer: Any):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    homes = [n for n, _ in model.original_model.named_modules() if "q_proj._" in n]
    inject_adapter_in_model(lora(*homes), model.original_model)
    before = log_probs(model)
    neurons = tn.NeuronSet.from_pairs(model, [(0, 3)])
    with pytest.raises(ValueError, match="adapters of its own"):
        tn.finetune_lora(model, helpers.toy_task(), neurons, tn.Training(steps=1))
    assert torch.equal(log_probs(model), before)


# --- weights that are computed from others ---


def pruned(linear: Any) -> None:
    prune.l1_unstructured(linear, "weight", amount=0.3)


def spectral(linear: Any) -> None:
    parametrizations.spectral_norm(linear)


def old_weight_norm(linear: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.nn.utils.weight_norm(linear)


def tied(linear: Any) -> None:
    weight = linear.weight.detach()
    del linear.weight
    linear.weight = weight


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pruned, r"is pruned .*prune\.remove"),
        (spectral, r"is parametrised .*remove_parametrizations"),
        (old_weight_norm, r"is split by weight_norm"),
        (tied, r"is no parameter of its module"),
    ],
)
@pytest.mark.parametrize("part", ["gate_proj", "up_proj", "down_proj"])
def test_weights_that_are_no_leaves_are_refused_by_name(part: str, change: Any, message: str):
    model = helpers.tiny_lens("llama")
    module = getattr(model.original_model.model.layers[1].mlp, part)
    change(module.original_component)
    name = {"gate_proj": "W_gate", "up_proj": "W_in", "down_proj": "W_out"}[part]
    with pytest.raises(ValueError, match=rf"Layer 1 of .* {name} that {message}"):
        tn.view(model)


def test_pruning_made_permanent_is_an_ordinary_model():
    hf: Any = helpers.tiny_hf("llama")
    for layer in hf.model.layers:
        pruned(layer.mlp.down_proj)
    for layer in hf.model.layers:
        prune.remove(layer.mlp.down_proj, "weight")
    model = tn.load_model(hf, device="cpu")
    neurons = tn.NeuronSet.from_pairs(model, [(0, 3), (1, 40)])
    with tn.deactivate(model, neurons):
        by_hooks = log_probs(model)
    with tn.deactivate(model, neurons, how="weights"):
        assert (log_probs(model) - by_hooks).abs().max() < 1e-5


# --- code that comes with a model ---


def test_code_that_comes_with_a_model_runs_only_when_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = helpers.save_tiny("llama", tmp_path / "mine")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "mine",
        "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    ran = tmp_path / "ran"
    (folder / "mine.py").write_text(f"open({str(ran)!r}, 'w').close()\nraise OSError('stop')\n")
    monkeypatch.setattr("builtins.input", lambda *args: "y")
    with pytest.raises(ValueError, match="pass trust_remote_code=True"):
        tn.load_model(folder)
    assert not ran.exists()
    with pytest.raises(ValueError, match="cannot read a causal model"):
        tn.load_model(folder, trust_remote_code=True)
    assert ran.exists()


# --- a hub out of reach ---


def test_a_hub_that_does_not_answer_is_told_within_seconds(monkeypatch: pytest.MonkeyPatch):
    import time

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=r"'gpt2' is .* out of reach \(http") as caught:
        tn.load_model("gpt2")
    assert time.monotonic() - start < 10
    assert "nearest" not in str(caught.value)
