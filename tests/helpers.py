"""Tiny random models of many architectures, and a real byte-level tokenizer for them."""

import copy
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tl_taskneurons.loading.models import load_model
from tl_taskneurons.tasks.task import Example, Task

try:
    from transformer_lens import HookedTransformer  # noqa: F401
except ImportError:
    HAS_HOOKED = False
else:
    HAS_HOOKED = True

D_MODEL, D_MLP, N_LAYERS = 32, 48, 2
# Room for the tokenizer's 256 bytes and its three special tokens.
VOCAB = 264

_HEADS: dict[str, Any] = {"num_attention_heads": 4}
_GROUPED: dict[str, Any] = {**_HEADS, "num_key_value_heads": 2}
_HIDDEN: dict[str, Any] = {"hidden_size": D_MODEL, "num_hidden_layers": N_LAYERS}
_MLP: dict[str, Any] = {"intermediate_size": D_MLP}
_SPECIAL: dict[str, Any] = {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258}

# name -> (transformers prefix, arguments of the config)
_ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {**_HIDDEN, **_MLP, **_GROUPED}),
    "gpt2": ("GPT2", {"n_embd": D_MODEL, "n_layer": N_LAYERS, "n_head": 4, "n_inner": D_MLP}),
    "bloom": ("Bloom", {"hidden_size": D_MODEL, "n_layer": N_LAYERS, "n_head": 4}),
    "gpt_neox": ("GPTNeoX", {**_HIDDEN, **_MLP, **_HEADS}),
    "gemma": ("Gemma", {**_HIDDEN, **_MLP, **_GROUPED, "head_dim": 8}),
    "gemma2": ("Gemma2", {**_HIDDEN, **_MLP, **_GROUPED, "head_dim": 8}),
    "phi3": ("Phi3", {**_HIDDEN, **_MLP, **_GROUPED}),
    "qwen2": ("Qwen2", {**_HIDDEN, **_MLP, **_GROUPED}),
    "opt": ("OPT", {**_HIDDEN, **_HEADS, "ffn_dim": D_MLP, "word_embed_proj_dim": D_MODEL}),
    "gptj": (
        "GPTJ",
        {"n_embd": D_MODEL, "n_layer": N_LAYERS, "n_head": 4, "n_inner": D_MLP, "rotary_dim": 4},
    ),
    "falcon": ("Falcon", {**_HIDDEN, **_HEADS, "ffn_hidden_size": D_MLP}),
    # The last two are there to be refused.
    "mixtral": ("Mixtral", {**_HIDDEN, **_MLP, **_GROUPED, "num_local_experts": 2}),
    "mamba": ("Mamba", _HIDDEN),
}
ARCHITECTURES = tuple(name for name in _ARCHITECTURES if name not in ("mixtral", "mamba"))
REFUSED = ("mixtral", "mamba")
# HookedTransformer has no Falcon, and knows Gemma by its official shapes only.
HOOKED_ARCHITECTURES = tuple(
    name for name in ARCHITECTURES if name not in ("falcon", "gemma", "gemma2")
)


def tiny_hf(name: str, seed: int = 0, **overrides: Any) -> transformers.PreTrainedModel:
    """A random Hugging Face model: d_model 32, 2 layers, d_mlp 48 (Bloom: 128), vocabulary 264.

    Weights are larger than at a real initialisation, and biases and norms are random too, so that
    every neuron matters and a lost bias shows. ``overrides`` go to the config.
    """
    prefix, arguments = _ARCHITECTURES[name]
    config_class = getattr(transformers, f"{prefix}Config")
    model_class = getattr(transformers, f"{prefix}ForCausalLM", None)
    if model_class is None:
        model_class = getattr(transformers, f"{prefix}LMHeadModel")
    config = config_class(**{"vocab_size": VOCAB, **_SPECIAL, **arguments, **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 2:
                    weight.normal_(std=0.2)
                elif weight.ndim == 1:
                    weight.add_(0.1 * torch.randn_like(weight))
    return model.eval()


def tiny_tokenizer(folder: Path | str) -> transformers.PreTrainedTokenizerFast:
    """A byte-level tokenizer without merges: id = byte, then <bos> 256, <eos> 257, <pad> 258.

    It is saved to ``folder`` and loaded from there, because TransformerLens loads it again.
    """
    special = ["<bos>", "<eos>", "<pad>"]
    # Byte-level BPE writes bytes as printable letters; the printable ones stand for themselves.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in letters]
    letters |= {byte: chr(256 + position) for position, byte in enumerate(others)}
    tokenizer = Tokenizer(models.BPE({letters[byte]: byte for byte in range(256)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens(special)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )
    fast.save_pretrained(folder)
    return transformers.PreTrainedTokenizerFast.from_pretrained(folder)


def save_tiny(name: str, folder: Path, seed: int = 0, **overrides: Any) -> Path:
    """Write a tiny model and its tokenizer as a Hugging Face folder."""
    tiny_hf(name, seed, **overrides).save_pretrained(folder)
    tiny_tokenizer(folder)
    return folder


def tiny_lens(
    name: str, kind: str = "bridge", seed: int = 0, tokenizer: Any = None, **overrides: Any
) -> Any:
    """A tiny TransformerBridge or HookedTransformer; the same seed gives the same weights."""
    return load_model(
        tiny_hf(name, seed, **overrides), kind=kind, tokenizer=tokenizer, device="cpu"
    )


def both_classes(
    hf: transformers.PreTrainedModel, tokenizer: Any = None, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """A model as every class that TransformerLens has here: "bridge", and on 3.9 "hooked"."""
    kinds = ("bridge", "hooked") if HAS_HOOKED else ("bridge",)
    return {
        kind: load_model(
            copy.deepcopy(hf), kind=kind, tokenizer=tokenizer, dtype=dtype, device="cpu"
        )
        for kind in kinds
    }


def toy_task(n: int = 8) -> Task:
    """A classification task of ``n`` train examples of growing length, and four to test."""
    train = tuple(Example("x" * (i % 5 + 1) + str(i), ("odd", "even")[i % 2]) for i in range(n))
    test = tuple(Example(f"y{i}", ("odd", "even")[i % 2]) for i in range(4))
    return Task("toy", train, test, labels=("odd", "even"))
