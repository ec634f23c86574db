"""Views of models: what they show and write, their fingerprints, and forward passes."""

import copy
import gc
import weakref
from typing import Any

import helpers
import micro
import pytest
import torch
from micro import lens

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
