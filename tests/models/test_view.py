import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import helpers
import micro
import pytest
import torch
import transformers
from micro import lens
from torch import nn
from transformer_lens.model_bridge.sources import build_bridge_from_module

from tl_taskneurons import NeuronSet, deactivate
from tl_taskneurons.models.forward import answer_losses, frozen, logits_only_at
from tl_taskneurons.models.view import view
from tl_taskneurons.tasks.batches import make_batches

HOOKED = pytest.param("hooked", marks=pytest.mark.needs("hooked"))
KINDS = ["bridge", HOOKED]
CLASSES = [(name, "bridge") for name in helpers.ARCHITECTURES] + [
    pytest.param(name, "hooked", marks=pytest.mark.needs("hooked"))
    for name in helpers.HOOKED_ARCHITECTURES
]
GATED = {"llama", "gemma", "gemma2", "phi3", "qwen2"}
TINY: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


# --- what a view shows ---


@pytest.mark.parametrize(("name", "kind"), CLASSES)
def test_the_view_of_every_architecture(name: str, kind: str, tokenizer: Any):
    model = lens(name, kind, tokenizer)
    found, d_mlp = view(model), 128 if name == "bloom" else 48
    assert found.shape == (found.n_layers, found.d_mlp) == (2, d_mlp)
    assert found.gated is (name in GATED)
    assert found.is_bridge is (kind == "bridge")
    assert (found.dtype, found.device.type) == (torch.float32, "cpu")
    assert found.n_ctx is None or found.n_ctx > 8
    expected = {"W_in", "W_out"} | ({"W_gate"} if name in GATED else {"b_in"})
    if name == "falcon":
        expected.remove("b_in")  # Falcon has no biases
    leaves = {id(parameter) for parameter in model.parameters()}
    for i, layer in enumerate(found.layers):
        assert (layer.index, layer.hook) == (i, f"blocks.{i}.mlp.hook_post")
        assert layer.hook in model.hook_dict
        assert (layer.d_mlp, layer.d_model, layer.gated) == (d_mlp, 32, name in GATED)
        assert set(layer.parameters) == expected
        for part in layer.parameters.values():
            assert part.parameter.is_leaf
            assert id(part.parameter) in leaves
            assert part.parameter.shape[part.axis] == d_mlp
            assert not part.oriented.requires_grad
    assert view(found) is found


@pytest.mark.parametrize(("name", "kind"), CLASSES)
def test_weights_are_those_of_transformer_lens(name: str, kind: str, tokenizer: Any):
    model = lens(name, kind, tokenizer)
    for i, layer in enumerate(view(model).layers):
        mlp = model.blocks[i].mlp
        for part in layer.parameters.values():
            assert torch.equal(part.oriented, getattr(mlp, part.name).detach()), part.name


@pytest.mark.parametrize(("name", "kind"), CLASSES)
def test_writing_what_was_read_changes_nothing_and_writing_else_only_that(name: str, kind: str):
    model = helpers.tiny_lens(name, kind)
    found, chosen = view(model), torch.tensor([3, 11, 47])
    before = micro.snapshot(model)
    values = found.read(1, chosen)
    sizes = {"W_in": (32, 3), "W_gate": (32, 3), "W_out": (3, 32), "b_in": (3,)}
    assert {part: tuple(value.shape) for part, value in values.items()} == {
        part: sizes[part] for part in found.layers[1].parameters
    }
    found.write(1, chosen, values)
    assert micro.unchanged(model, before)
    # What was read is a copy.
    for value in values.values():
        value.add_(1)
    assert micro.unchanged(model, before)
    tokens = torch.tensor([[1, 2, 3]])
    plain = model(tokens).detach()
    for part, value in values.items():
        old = found.layers[1].parameters[part].oriented.clone()
        found.write(1, chosen, {part: value})
        new = found.layers[1].parameters[part].oriented
        changed = (new != old).reshape(new.shape[0], -1)
        axis = 1 if part == "W_out" or new.ndim == 1 else 0
        assert changed.any(axis).nonzero().flatten().tolist() == chosen.tolist()
        assert torch.equal(found.read(1, chosen)[part], value)
        assert not torch.equal(model(tokens).detach(), plain), part
        plain = model(tokens).detach()


def test_reading_keeps_the_order_asked_for(tokenizer: Any):
    found = view(lens("llama", "bridge", tokenizer))
    forwards, backwards = found.read(0, torch.tensor([2, 9])), found.read(0, torch.tensor([9, 2]))
    assert torch.equal(forwards["W_out"], backwards["W_out"].flip(0))
    assert torch.equal(forwards["W_gate"], backwards["W_gate"].flip(1))


def test_writing_an_unknown_part_is_refused(tokenizer: Any):
    found = view(lens("llama", "bridge", tokenizer))
    with pytest.raises(KeyError, match=r"Layer 1 of .* has no b_in; it has \['W_gate'"):
        found.write(1, torch.tensor([0]), {"b_in": torch.zeros(1)})


def test_biases_of_a_gated_mlp_belong_to_its_neurons():
    found = view(helpers.tiny_lens("llama", mlp_bias=True))
    assert list(found.layers[0].parameters) == ["W_in", "b_in", "W_gate", "b_gate", "W_out"]
    mlp = found.model.original_model.model.layers[0].mlp
    assert torch.equal(found.read(0, torch.tensor([5]))["b_gate"], mlp.gate_proj.bias[[5]])
    assert torch.equal(found.read(0, torch.tensor([5]))["b_in"], mlp.up_proj.bias[[5]])


@pytest.mark.parametrize(("name", "kind"), CLASSES)
def test_the_hook_is_what_enters_the_output_matrix(name: str, kind: str, tokenizer: Any):
    # A neuron's whole effect passes W_out: scaling its row scales its effect on the block.
    model = lens(name, kind, tokenizer)
    layer = view(model).layers[1]
    seen: list[torch.Tensor] = []

    def keep(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        seen.append(activation.detach())
        return activation

    with model.hooks(fwd_hooks=[(layer.hook, keep)]):
        model(torch.tensor([[1, 2, 3, 4]] * 2))
    assert seen[0].shape == (2, 4, layer.d_mlp)
    # Hidden states that vary over neurons and positions, not a view of something else.
    live = (seen[0][0] != 0).any(0)
    assert live.float().mean() > 0.5
    assert seen[0][0, :, live].std(0).min() > 0


# --- fingerprints ---


@pytest.mark.parametrize("name", helpers.ARCHITECTURES)
def test_one_model_has_one_fingerprint(name: str):
    hf = helpers.tiny_hf(name)
    models = [
        helpers.load_model(copy.deepcopy(hf), dtype=dtype, device="cpu")
        for dtype in (torch.float32, torch.bfloat16, torch.float64)
    ]
    if helpers.HAS_HOOKED and name in helpers.HOOKED_ARCHITECTURES:
        models.append(helpers.load_model(copy.deepcopy(hf), kind="hooked", device="cpu"))
    prints = {view(model).fingerprint for model in models}
    assert len(prints) == 1
    assert view(helpers.tiny_lens(name, seed=1)).fingerprint not in prints
    assert prints.pop().startswith("2x128-" if name == "bloom" else "2x48-")


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3"])
def test_any_weight_of_any_neuron_counts(name: str):
    model = helpers.tiny_lens(name)
    original = view(model).fingerprint
    seen = {original}
    for layer in view(model).layers:
        for part in layer.parameters.values():
            flat = part.parameter.detach().view(-1)
            for position in (0, flat.numel() // 2, flat.numel() - 1):
                old = flat[position].clone()
                flat[position] = old * 1.01  # bfloat16 resolves 0.8%
                seen.add(view(model).fingerprint)
                flat[position] = old
                assert view(model).fingerprint == original
            if part.parameter.ndim == 2:
                first, last = part.oriented[:, 0].clone(), part.oriented[:, -1].clone()
                part.oriented[:, 0], part.oriented[:, -1] = last, first
                seen.add(view(model).fingerprint)
                part.oriented[:, 0], part.oriented[:, -1] = first, last
    n_parts = sum(len(layer.parameters) for layer in view(model).layers)
    n_matrices = sum(
        part.parameter.ndim == 2
        for layer in view(model).layers
        for part in layer.parameters.values()
    )
    assert len(seen) == 1 + 3 * n_parts + n_matrices


def test_fingerprints_follow_optimisers_and_copies():
    model = helpers.tiny_lens("llama")
    first = view(model).fingerprint
    twin = helpers.tiny_lens("llama")
    assert view(twin).fingerprint == first
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.tensor([[1, 2, 3]])).square().mean().backward()
    optimizer.step()
    second = view(model).fingerprint
    assert second != first
    model.load_state_dict(twin.state_dict())
    assert view(model).fingerprint == first
    weight = view(model).layers[1].parameters["W_in"].parameter
    weight.data = weight.data + 1
    assert view(model).fingerprint not in (first, second)


def test_models_are_not_kept_alive():
    model = micro.one_layer()
    with deactivate(model, NeuronSet.from_pairs(model, [(0, 1)]), how="weights"):
        assert view(model).fingerprint
    watch = weakref.ref(model)
    del model
    gc.collect()
    assert watch() is None


# --- refused models ---


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


# --- forward passes ---


@pytest.mark.parametrize(("name", "kind"), CLASSES)
def test_losses_are_those_of_all_logits(name: str, kind: str, tokenizer: Any):
    model = lens(name, kind, tokenizer)
    items = [
        micro.item((256, 5, 9), (7,)),
        micro.item((256,), (8, 1, 2)),
        micro.item((256, 4, 4, 1, 9), (3, 3)),
    ]
    model(torch.tensor([[1, 2, 3]]))  # a bridge puts hooks of its own on at its first run
    before = micro.snapshot(model)
    (batch,) = make_batches(items)
    with torch.no_grad():
        losses = answer_losses(view(model), batch)
        for row, index in enumerate(batch.index):
            one = items[index]
            log_probs = model(torch.tensor([one.prompt + one.answer]))[0].log_softmax(-1)
            picked = log_probs[len(one.prompt) - 1 : -1][range(len(one.answer)), list(one.answer)]
            assert losses[row].item() == pytest.approx(-picked.mean().item(), rel=1e-5)
    assert micro.unchanged(model, before)


def test_an_unembedding_that_runs_otherwise_is_noticed(tokenizer: Any):
    found = view(lens("llama", "bridge", tokenizer))
    everywhere = torch.ones(1, 3, dtype=torch.bool)
    for runs in (0, 2):
        with pytest.raises(RuntimeError, match=f"ran {runs} times"):  # noqa: SIM117
            with logits_only_at(found, everywhere):
                for _ in range(runs):
                    found.model(torch.tensor([[1, 2, 3]]))
        assert not found.model.unembed._forward_pre_hooks


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_puts_flags_and_modes_back(kind: str):
    model = helpers.tiny_lens("gpt2", kind)
    model.train()
    next(model.modules()).training = False
    list(model.modules())[5].training = False
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 2 == 0)
    before = micro.snapshot(model)
    with pytest.raises(KeyboardInterrupt), frozen(model):
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert not any(module.training for module in model.modules())
        if kind == "bridge":
            inner = model.original_model
            assert not any(parameter.requires_grad for parameter in inner.parameters())
            assert not any(module.training for module in inner.modules())
        raise KeyboardInterrupt
    assert micro.unchanged(model, before)
