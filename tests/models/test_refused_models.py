"""Models without plain neurons, which have no view."""

from collections.abc import Callable
from typing import Any

import helpers
import micro
import pytest
import torch
import transformers
from torch import nn
from transformer_lens.model_bridge.sources import build_bridge_from_module

from tl_taskneurons.models.view import view

TINY: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def bridge_of(hf: Any) -> Any:
    return build_bridge_from_module(hf, type(hf).__name__, hf_config=hf.config, tokenizer=None)


def t5() -> Any:
    config = transformers.T5Config(
        vocab_size=99, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4
    )
    config.decoder_start_token_id = 0
    return bridge_of(transformers.T5ForConditionalGeneration(config))


def bert() -> Any:
    config = transformers.BertConfig(vocab_size=99, intermediate_size=48, **TINY)
    return bridge_of(transformers.BertForMaskedLM(config))


def qwen2_moe() -> Any:
    config = transformers.Qwen2MoeConfig(
        vocab_size=99, intermediate_size=48, num_key_value_heads=2, moe_intermediate_size=16,
        shared_expert_intermediate_size=16, num_experts=2, num_experts_per_tok=1, **TINY,
    )  # fmt: skip
    return bridge_of(transformers.Qwen2MoeForCausalLM(config))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: helpers.tiny_lens("mixtral"), r"Layer 0 of MixtralForCausalLM .* experts"),
        (qwen2_moe, r"Layer 0 of .* experts"),
        (lambda: helpers.tiny_lens("mamba"), r"Layer 0 of MambaForCausalLM .* has no MLP"),
        (t5, "TransformerBridge.* is not a decoder-only causal model"),
        (bert, "TransformerBridge.* is not a decoder-only causal model"),
    ],
)
def test_architectures_without_plain_neurons_are_refused(make: Callable[[], Any], message: str):
    with pytest.raises(ValueError, match=message):
        view(make())


def hooked(**config: Any) -> Any:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    arguments = {
        "n_layers": 2, "d_model": 32, "n_ctx": 16, "d_head": 8, "n_heads": 4, "d_vocab": 99,
        "d_mlp": 48, "act_fn": "gelu", "device": "cpu", **config,
    }  # fmt: skip
    return HookedTransformer(HookedTransformerConfig(**arguments))


@pytest.mark.needs("hooked")
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"act_fn": "solu_ln", "normalization_type": "LN"}, "Layer 0 of custom .* SoLU"),
        ({"attn_only": True, "act_fn": None}, "Layer 0 of custom .* has no MLP"),
        (
            {"num_experts": 2, "experts_per_token": 1, "gated_mlp": True, "act_fn": "silu"},
            "Layer 0 of custom .* experts",
        ),
    ],
)
def test_hooked_transformers_without_plain_neurons_are_refused(
    config: dict[str, Any], message: str
):
    assert view(hooked()).shape == (2, 48)
    with pytest.raises(ValueError, match=message):
        view(hooked(**config))


@pytest.mark.needs("hooked")
def test_a_gated_hooked_transformer_with_an_input_bias_is_refused():
    model = hooked(gated_mlp=True, act_fn="silu")
    assert set(view(model).layers[1].parameters) == {"W_in", "W_gate", "W_out"}
    with torch.no_grad():
        model.blocks[1].mlp.b_in[7] = 0.5
    with pytest.raises(ValueError, match=r"Layer 1 of custom .* non-zero b_in.*bridge"):
        view(model)


@pytest.mark.needs("hooked")
def test_an_encoder_is_refused():
    from transformer_lens import HookedEncoder

    with pytest.warns(DeprecationWarning, match="HookedEncoder"):
        encoder = HookedEncoder(hooked().cfg, move_to_device=False)
    with pytest.raises(ValueError, match=r"\(HookedEncoder\) is not a decoder-only causal model"):
        view(encoder)


def test_what_is_no_model_of_transformer_lens_is_refused():
    with pytest.raises(TypeError, match=r"got LlamaForCausalLM.*load_model\(hf_model"):
        view(helpers.tiny_hf("llama"))  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="got str"):
        view("gpt2")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantised_weights_are_refused(dtype: torch.dtype):
    model = helpers.tiny_lens("llama")
    down = model.original_model.model.layers[1].mlp.down_proj
    linear = getattr(down, "original_component", down)
    linear.weight = nn.Parameter(torch.ones(32, 48).to(dtype), requires_grad=False)
    with pytest.raises(ValueError, match=rf"Layer 1 of .* W_out of type {dtype}.*quantised"):
        view(model)


def test_layers_of_different_widths_are_refused():
    narrow = micro.MicroMLP([1.0], [0.0], [[0.0, 0.0, 1.0]])
    wide = micro.MicroMLP([1.0, 1.0], [0.0, 0.0], [[0.0, 0.0, 1.0]] * 2)
    with pytest.raises(ValueError, match=r"different widths \[1, 2\]"):
        view(micro.MicroModel(narrow, wide))
    with pytest.raises(ValueError, match="micro has no layers"):
        view(micro.MicroModel())


def test_weights_that_do_not_fit_together_are_refused():
    model = micro.one_layer()
    model.blocks[0].mlp.W_in = nn.Parameter(torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"Layer 0 of micro .* W_in is \(3, 2\), .* \(3, 3\)"):
        view(model)
    del model.blocks[0].mlp.W_in
    with pytest.raises(ValueError, match="Layer 0 of micro .* MicroMLP has no W_in"):
        view(model)


def test_a_model_made_under_inference_mode_says_so():
    with torch.inference_mode():
        model = micro.one_layer()
    with pytest.raises(ValueError, match=r"micro was made under torch\.inference_mode"):
        view(model)
