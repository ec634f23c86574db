"""Models from folders, from memory and by name, in both classes of TransformerLens."""

from pathlib import Path
from typing import Any

import helpers
import jaxtyping
import micro
import pytest
import safetensors.torch
import torch
import transformers
from huggingface_hub.errors import RepositoryNotFoundError
from model_outputs import IDS, gap, log_probs

from tl_taskneurons.loading import huggingface as sources
from tl_taskneurons.loading.models import load_model, model_name, model_revision
from tl_taskneurons.models.forward import answer_losses
from tl_taskneurons.models.view import view
from tl_taskneurons.tasks.batches import make_batches

KINDS = ["bridge", pytest.param("hooked", marks=pytest.mark.needs("hooked"))]
pytestmark = pytest.mark.usefixtures("cache")


def test_runtime_type_checks_are_on():
    with pytest.raises(jaxtyping.TypeCheckError):
        load_model("gpt2", kind=3)  # pyright: ignore[reportArgumentType]


# --- folders and models in memory ---


def test_loading_writes_no_bars_where_nobody_sees_them(tmp_path: Path, capfd: Any):
    bars = transformers.utils.logging
    helpers.save_tiny("llama", tmp_path / "tiny")
    assert bars.is_progress_bar_enabled()
    capfd.readouterr()
    load_model(tmp_path / "tiny")
    assert "Loading" not in capfd.readouterr().err and bars.is_progress_bar_enabled()


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
