"""Small random models of a configuration: few layers, narrow, a short window."""

import copy
from typing import Any

import torch
from torch import nn

from tl_taskneurons.loading.huggingface import brief

_VOCAB, _WIDTH, _WINDOW = 256, 64, 8
_WIDTHS = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")
_WINDOWS = ("sliding_window", "window_size", "attention_window_size")
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id")


class NoSmallCopyError(Exception):
    """No small model of a configuration can be built and run; the message says why."""


def small_copy(hf: Any) -> Any:
    """A small model of the same class and configuration, in float32 on the CPU.

    Its norms are no ones and its biases no zeros, so that one that is lost shows.

    Returns:
        The model in eval mode.

    Raises:
        NoSmallCopyError: the configuration can't be made small.
    """
    try:
        config = _small_config(hf.config)
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            model = _class_of(hf)(config)
        model.float().set_attn_implementation("eager")
    except Exception as error:  # configurations are as different as their authors
        raise NoSmallCopyError(f"its configuration can't be made small ({brief(error)})") from error
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            for weight in module.parameters(recurse=False):
                noise = torch.randn(
                    weight.shape, generator=generator, device="cpu", dtype=torch.float32
                )
                if weight.ndim < 2:
                    weight.add_(0.1 * noise)
                else:
                    fan_in = 1 if isinstance(module, nn.Embedding) else weight.shape[-1]
                    weight.copy_(noise * fan_in**-0.5)
    return model.eval()


def _class_of(hf: Any) -> Any:
    """The class of a Hugging Face model, which a bridge leaves as it is."""
    return type(hf)


def _small_config(config: Any) -> Any:
    config = copy.deepcopy(config)
    heads = config.num_attention_heads
    new_heads = min(4, heads)
    per_head = max(1, config.hidden_size // heads)
    old_width, width = config.hidden_size, new_heads * per_head
    kinds = list(dict.fromkeys(getattr(config, "layer_types", None) or []))
    n_layers = max(2, len(kinds))
    if getattr(config, "layer_types", None):
        config.layer_types = kinds if len(kinds) > 1 else kinds * 2
    if getattr(config, "attention_layers", None):  # GPT-Neo's
        layers = list(dict.fromkeys(config.attention_layers))
        n_layers = len(layers) if len(layers) > 1 else 2
        config.attention_layers = layers if len(layers) > 1 else layers * 2
        config.attention_types = [[config.attention_layers, 1]]
    groups = getattr(config, "num_key_value_heads", None)
    config.num_hidden_layers = n_layers
    config.num_attention_heads, config.hidden_size = new_heads, width
    if groups:
        config.num_key_value_heads = max(1, new_heads * groups // heads)
    for name in _WIDTHS:
        if getattr(config, name, None):
            setattr(config, name, _WIDTH)
    if getattr(config, "word_embed_proj_dim", None) == old_width:
        config.word_embed_proj_dim = width
    for name in _WINDOWS:
        if getattr(config, name, None):
            setattr(config, name, _WINDOW)
    config.vocab_size = _VOCAB
    for place, name in enumerate(_IDS):
        if getattr(config, name, None) is not None:
            setattr(config, name, _VOCAB - 1 - place)
    config._name_or_path = ""
    return config
