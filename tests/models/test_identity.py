"""The fingerprint: every change is noticed, and the same model keeps its name."""

import copy
from collections.abc import Callable
from typing import Any

import helpers
import micro
import pytest
import torch
from torch import nn
from transformer_lens.model_bridge.sources import build_bridge_from_module

import tl_taskneurons as tn
from tl_taskneurons.models import identity
from tl_taskneurons.models.digests import device_sum
from tl_taskneurons.models.view import view

IDS = torch.arange(5, 25)[None]


def print_of(model: Any) -> str:
    return view(model).fingerprint


def test_its_form_names_the_shape_the_neurons_and_the_rest():
    plain, other = helpers.tiny_lens("llama"), helpers.tiny_lens("llama")
    shape, neurons, rest = print_of(plain).split("-")
    assert (shape, len(neurons), len(rest)) == ("2x48", 16, 16)
    with torch.no_grad():
        other.original_model.model.norm.weight.add_(0.5)
    assert print_of(other).startswith(f"2x48-{neurons}-")
    assert print_of(other) != print_of(plain)


@pytest.mark.parametrize("name", helpers.ARCHITECTURES)
def test_a_bridge_of_ones_own_is_the_model_that_load_model_gives(name: str):
    hf = helpers.tiny_hf(name)
    own = build_bridge_from_module(
        copy.deepcopy(hf), type(hf).__name__, hf_config=hf.config, tokenizer=None
    )
    found = print_of(own)
    assert found == print_of(helpers.tiny_lens(name))
    with torch.no_grad():  # running it is no change, inputs beyond a rotary table included
        for n in (3, 90):
            own(torch.arange(n)[None])
    assert print_of(own) == found


@pytest.mark.parametrize(
    ("name", "kind"),
    [("llama", "bridge"), ("phi3", "bridge"), ("bloom", "bridge")]
    + [pytest.param("gpt2", "hooked", marks=pytest.mark.needs("hooked"))],
)
def test_every_weight_counts_and_changing_back_is_no_change(name: str, kind: str):
    model = helpers.tiny_lens(name, kind)
    first = print_of(model)
    inner = getattr(model, "original_model", model)
    for weight_name, weight in [*inner.named_parameters(), *inner.named_buffers()]:
        if weight.is_floating_point() and not weight_name.endswith("mlp.b_in"):
            last = (-1,) * weight.ndim
            kept = weight.data[last].clone()
            weight.data[last] = torch.pi  # through .data: no version counter moves
            assert print_of(model) != first, weight_name
            weight.data[last] = kept
            assert print_of(model) == first, weight_name


def swap(one: torch.Tensor, other: torch.Tensor) -> None:
    kept = one.clone()
    one.copy_(other)
    other.copy_(kept)


def test_weights_that_change_places_are_noticed():
    model = helpers.tiny_lens("llama", num_key_value_heads=4)
    first, seen = print_of(model), set()
    one, two = model.original_model.model.layers
    embedding = model.original_model.model.embed_tokens.weight.data
    pairs = [
        (one.self_attn.q_proj.weight.data, one.self_attn.k_proj.weight.data),
        (one.self_attn.q_proj.weight.data, two.self_attn.q_proj.weight.data),
        (one.self_attn.q_proj.weight.data[:8], one.self_attn.q_proj.weight.data[8:16]),
        (one.input_layernorm.weight.data, one.post_attention_layernorm.weight.data),
        (embedding[3], embedding[200]),
    ]
    for pair in pairs:
        swap(*pair)
        seen.add(print_of(model))
        swap(*pair)
    assert len(seen) == len(pairs)
    assert first not in seen
    assert print_of(model) == first


def trained(model: Any, optimiser: Callable[..., torch.optim.Optimizer]) -> None:
    weights = [p.requires_grad_(True) for p in model.original_model.parameters()]
    steps = optimiser(weights)
    model.original_model(input_ids=IDS, labels=IDS).loss.backward()
    steps.step()


def in_inference_mode(model: Any) -> None:
    with torch.inference_mode():
        for weight in model.parameters():
            weight.mul_(1.5)


def through_a_vector(model: Any) -> None:
    vector = nn.utils.parameters_to_vector(model.original_model.parameters())
    nn.utils.vector_to_parameters(vector * 1.5, model.original_model.parameters())


CHANGES: dict[str, Callable[[Any], Any]] = {
    "AdamW": lambda m: trained(m, lambda w: torch.optim.AdamW(w, lr=0.1)),
    "AdamW foreach": lambda m: trained(m, lambda w: torch.optim.AdamW(w, lr=0.1, foreach=True)),
    "AdamW fused": lambda m: trained(m, lambda w: torch.optim.AdamW(w, lr=0.1, fused=True)),
    "SGD fused": lambda m: trained(m, lambda w: torch.optim.SGD(w, lr=1.0, fused=True)),
    "Adagrad fused": lambda m: trained(m, lambda w: torch.optim.Adagrad(w, lr=0.1, fused=True)),
    "load_state_dict": lambda m: m.load_state_dict({k: v * 2 for k, v in m.state_dict().items()}),
    "vector_to_parameters": through_a_vector,
    "in inference mode": in_inference_mode,
    "embedding, by .data": lambda m: m.original_model.model.embed_tokens.weight.data.mul_(2),
    "numpy": lambda m: m.original_model.lm_head.weight.detach().numpy().fill(0.5),
}


@pytest.mark.parametrize("change", CHANGES)
def test_neurons_of_the_old_weights_are_refused_whatever_changed_them(change: str):
    model = helpers.tiny_lens("llama")
    neurons = tn.NeuronSet.from_pairs(model, [(0, 3)])
    old = print_of(model)
    CHANGES[change](model)
    assert print_of(model) != old
    with (
        pytest.raises(ValueError, match=r"belongs to model .*rebind"),
        tn.deactivate(model, neurons),
    ):
        pass


def test_an_adapter_counts_while_it_is_switched_on():
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    model = helpers.tiny_lens("llama")
    plain = print_of(model)
    names = [n for n, _ in model.original_model.named_modules() if "q_proj._original" in n]
    config = LoraConfig(r=2, target_modules=names, init_lora_weights=False)
    inject_adapter_in_model(config, model.original_model)
    with_adapter = print_of(model)
    assert with_adapter != plain
    layers: list[Any] = [m for m in model.original_model.modules() if isinstance(m, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    assert print_of(model) == plain
    for layer in layers:
        layer.enable_adapters(True)
        layer.set_scale("default", 3.0)
    assert print_of(model) not in (plain, with_adapter)


def test_what_the_config_decides_counts():
    plain = print_of(helpers.tiny_lens("llama"))
    changes: list[dict[str, Any]] = [{"rms_norm_eps": 0.1}, {"hidden_act": "relu"}, {"head_dim": 8}]
    for change in changes:
        same = change == {"head_dim": 8}  # what it is anyway
        assert (print_of(helpers.tiny_lens("llama", **change)) == plain) is same, change
    other = helpers.tiny_lens("llama", rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    assert print_of(other) != plain


@pytest.mark.needs("hooked")
@pytest.mark.parametrize(
    "change",
    [
        {"act_fn": "relu"}, {"parallel_attn_mlp": True}, {"output_logits_soft_cap": 5.0},
        {"attn_scores_soft_cap": 5.0}, {"attention_dir": "bidirectional"},
        {"positional_embedding_type": "shortformer"}, {"use_attn_scale": False},
    ],
)  # fmt: skip
def test_what_the_config_of_a_hooked_transformer_decides_counts(change: dict[str, Any]):
    from transformer_lens import HookedTransformer, HookedTransformerConfig  # noqa: PLC0415

    def own(**changed: Any) -> Any:
        config = {
            "n_layers": 2, "d_model": 16, "n_ctx": 32, "d_head": 8, "d_vocab": 32, "seed": 0,
            "act_fn": "gelu", "device": "cpu",
        }  # fmt: skip
        return HookedTransformer(HookedTransformerConfig(**config | changed))

    with torch.no_grad():
        gap = (own()(IDS) - own(**change)(IDS)).abs().max()
    assert gap > 1e-4
    assert print_of(own()) == print_of(own())
    assert print_of(own(**change)) != print_of(own())


@pytest.mark.needs("hooked")
def test_positions_that_are_not_used_do_not_count():
    # Under ALiBi, TransformerLens leaves W_pos as it found the memory.
    model = helpers.tiny_lens("bloom", "hooked")
    first = identity._state(model)
    with torch.no_grad():
        model.pos_embed.W_pos.fill_(1.0)
    assert "pos_embed.W_pos" not in first.tensors
    assert identity._state(model).digests == first.digests
    assert "pos_embed.W_pos" in identity._state(helpers.tiny_lens("gpt2", "hooked")).tensors


@pytest.mark.needs("hooked")
@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "phi3"])
def test_both_classes_stay_one_model_while_their_neurons_change(name: str):
    pair = helpers.both_classes(helpers.tiny_hf(name))
    seen = set()
    for factor in (1.0, 1.5):
        prints = set()
        for model in pair.values():
            found = view(model)
            values = found.read(1, torch.tensor([4, 9]))
            found.write(1, torch.tensor([4, 9]), {k: v * factor for k, v in values.items()})
            prints.add(found.fingerprint)
        assert len(prints) == 1
        seen |= prints
    assert len(seen) == 2


def test_fingerprints_of_earlier_files_match_with_a_word_on_what_they_covered():
    model, other = helpers.tiny_lens("llama"), helpers.tiny_lens("llama", seed=1)
    old = print_of(model).rpartition("-")[0]
    neurons = tn.NeuronSet.from_pairs(model, [(0, 3)])
    saved = tn.NeuronSet(neurons.mask, old, "saved")
    with (
        pytest.warns(UserWarning, match="weights of the MLPs only"),
        tn.deactivate(model, saved),
    ):
        model(IDS)
    with pytest.warns(UserWarning, match="MLPs only"):
        assert len(saved & neurons) == 1
    with pytest.raises(ValueError, match="belongs to model"), tn.deactivate(other, saved):
        pass
    with tn.deactivate(model, saved.rebind(model)):  # no warning any more
        model(IDS)


def test_nothing_is_hashed_twice(monkeypatch: pytest.MonkeyPatch):
    model = helpers.tiny_lens("llama")
    calls: list[str] = []
    for name in ("_hash", "_neuron_hash"):
        real = getattr(identity, name)
        monkeypatch.setattr(identity, name, lambda x, r=real, n=name: calls.append(n) or r(x))
    first = print_of(model)
    n_first = len(calls)
    assert print_of(model) == first
    assert len(calls) == n_first
    view(model).layers[0].parameters["W_in"].parameter.data[3] += 1
    assert print_of(model) != first
    assert calls[n_first:] == ["_neuron_hash"]
    view(model).layers[0].parameters["W_in"].parameter.data[3] -= 1


def test_bytes_on_a_device_are_summed_by_place():
    octets = torch.randint(0, 256, (4093 * 4 * 3 + 37,), dtype=torch.uint8)
    first, seen = int(device_sum(octets)), set()
    places = [(0, 1), (5, 4093 * 4 + 5), (4093 * 8, 4093 * 8 + 4), (len(octets) - 1, 7)]
    for one, other in places:
        changed = octets.clone()
        changed[one], changed[other] = 255 - octets[one], octets[other] + 1
        seen.add(int(device_sum(changed)))
        whole = octets.clone()
        whole[one], whole[other] = octets[other], octets[one]
        assert octets[one] == octets[other] or int(device_sum(whole)) != first
    assert first not in seen
    assert len(seen) == len(places)


@pytest.mark.needs("gpu")
def test_a_model_on_the_gpu_is_the_same_model():
    model = helpers.tiny_lens("llama")
    first = print_of(model)
    moved = model.cuda()
    assert print_of(moved) == first
    moved.original_model.model.norm.weight.data.mul_(2)
    assert print_of(moved) != first


def test_a_model_without_a_config_has_one_too():
    model = micro.one_layer()
    first = print_of(model)
    model.embedding.data[1, 2] = 3.0
    assert print_of(model) != first
