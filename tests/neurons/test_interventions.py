"""Interventions: what they do to neurons, and what they refuse."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import helpers
import micro
import pytest
import torch
from intervening import INTERVENTIONS, OTHERS, TOKENS, WAYS, How, activations, logits, some
from micro import LN3, lens
from torch import Tensor

from tl_taskneurons import NeuronSet, deactivate, mean_ablate, patch, scale
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.interventions import HookNeverFiredWarning

HOOKED = pytest.param("hooked", marks=pytest.mark.needs("hooked"))
KINDS = ["bridge", HOOKED]
NEEDS_HOOKED = pytest.mark.needs("hooked")
BRIDGES = [(name, "bridge") for name in helpers.ARCHITECTURES]
HOOKEDS = [(name, "hooked") for name in helpers.HOOKED_ARCHITECTURES]
CLASSES = BRIDGES + [pytest.param(*case, marks=NEEDS_HOOKED) for case in HOOKEDS]


# --- silencing ---


@pytest.mark.parametrize(
    ("name", "kind", "dtype"),
    [(*case, torch.float32) for case in BRIDGES]
    + [pytest.param(*case, torch.float32, marks=NEEDS_HOOKED) for case in HOOKEDS]
    + [(name, "bridge", torch.bfloat16) for name in ("llama", "gpt2", "gemma2")],
)
def test_hooks_and_weights_silence_exactly_alike(name: str, kind: str, dtype: torch.dtype):
    model = helpers.load_model(helpers.tiny_hf(name), kind=kind, dtype=dtype, device="cpu")
    plain, before, neurons = logits(model), micro.snapshot(model), some(model)
    outputs = []
    for how in ("hooks", "weights"):
        with deactivate(model, neurons, how=how):
            outputs.append(logits(model))
        assert micro.unchanged(model, before)
    assert torch.equal(outputs[0], outputs[1])
    assert (outputs[0] - plain).abs().max() > 1e-2
    assert torch.equal(logits(model), plain)


def test_silencing_on_paper():
    # Logit a is 2 ln3 * 1 - ln3/2 * 2 at token 0 and twice that at token 1; see micro.one_layer.
    model, tokens = micro.one_layer(), torch.tensor([[0, 1]])
    for how in ("hooks", "weights"):
        with deactivate(model, NeuronSet.from_pairs(model, [(0, 0)]), how=how):
            assert torch.allclose(model(tokens)[0, :, 0], torch.tensor([-LN3, -2 * LN3]))
        with deactivate(model, NeuronSet.from_pairs(model, [(0, 1)]), how=how):
            assert torch.allclose(model(tokens)[0, :, 0], torch.tensor([2 * LN3, 4 * LN3]))
        with scale(model, NeuronSet.from_pairs(model, [(0, 0)]), 3.0, how=how):
            assert torch.allclose(model(tokens)[0, :, 0], torch.tensor([5 * LN3, 10 * LN3]))
    assert torch.allclose(model(tokens)[0, :, 0], torch.tensor([LN3, 2 * LN3]))


def test_an_infinite_activation_is_silenced_too():
    model = micro.one_layer()
    with torch.no_grad():
        model.blocks[0].mlp.b_in[2] = float("inf")
    broken = NeuronSet.from_pairs(model, [(0, 2)])
    assert not logits(model, torch.tensor([[0]])).isfinite().all()
    with deactivate(model, broken):
        assert torch.allclose(logits(model, torch.tensor([[0]]))[0, 0, 0], torch.tensor(LN3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", WAYS)
def test_silenced_and_scaled_activations(how: How, kind: str, tokenizer: Any):
    model = lens("llama", kind, tokenizer)
    neurons, plain = some(model), logits(model)
    with scale(model, neurons, 1.0, how=how):
        assert torch.equal(logits(model), plain)
    doubled = activations(model)
    with scale(model, neurons, 2.0, how="hooks"):
        inside = activations(model)
        by_hooks = logits(model)
    chosen = neurons.mask[0]
    first = view(model).layers[0].hook
    assert torch.equal(inside[first][..., chosen], 2 * doubled[first][..., chosen])
    assert torch.equal(inside[first][..., ~chosen], doubled[first][..., ~chosen])
    with scale(model, neurons, 2.0, how="weights"):
        assert (logits(model) - by_hooks).abs().max() < 1e-4
    assert (by_hooks - plain).abs().max() > 1e-2


def test_weights_reach_the_hugging_face_model_inside():
    model = helpers.tiny_lens("llama")
    plain = model.original_model(TOKENS).logits.detach()
    with deactivate(model, some(model), how="weights"):
        inside = model.original_model(TOKENS).logits.detach()
        assert torch.equal(inside, logits(model))
    assert not torch.equal(inside, plain)
    assert torch.equal(model.original_model(TOKENS).logits.detach(), plain)


def test_deactivation_under_inference_mode(tokenizer: Any):
    model = lens("llama", "bridge", tokenizer)
    before, plain = micro.snapshot(model), logits(model)
    with deactivate(model, some(model)):
        expected = logits(model)
    with torch.inference_mode():
        for how in ("hooks", "weights"):
            with deactivate(model, some(model), how=how):
                assert torch.equal(logits(model), expected)
    assert micro.unchanged(model, before)
    assert torch.equal(logits(model), plain)


# --- mean and patch ---


@pytest.mark.parametrize(("name", "kind"), CLASSES)
def test_mean_ablation_sets_constants(name: str, kind: str, tokenizer: Any):
    model = lens(name, kind, tokenizer)
    neurons = some(model)
    means = torch.randn(view(model).shape, generator=torch.Generator().manual_seed(1))
    plain = activations(model)
    with mean_ablate(model, neurons, means):
        inside = activations(model)
    for layer in view(model).layers:
        chosen = neurons.mask[layer.index]
        constants = means[layer.index][chosen].expand(*TOKENS.shape, -1)
        assert torch.equal(inside[layer.hook][..., chosen], constants)
    first, chosen = view(model).layers[0].hook, neurons.mask[0]
    assert torch.equal(inside[first][..., ~chosen], plain[first][..., ~chosen])
    with mean_ablate(model, neurons, torch.zeros(view(model).shape)):
        zeroed = logits(model)
    with deactivate(model, neurons):
        assert torch.equal(logits(model), zeroed)


@pytest.mark.parametrize(("name", "kind"), CLASSES)
def test_patching(name: str, kind: str, tokenizer: Any):
    model = lens(name, kind, tokenizer)
    neurons, plain = some(model), logits(model)
    with torch.no_grad():
        _, own = model.run_with_cache(TOKENS)
        _, other = model.run_with_cache(OTHERS)
    with patch(model, neurons, own):
        assert torch.equal(logits(model), plain)
    with patch(model, neurons, other):
        patched, inside = logits(model), activations(model)
    with patch(model, neurons, activations(model, OTHERS)):  # a plain dict does as well
        assert torch.equal(logits(model), patched)
    source = activations(model, OTHERS)
    for layer in view(model).layers:
        chosen = neurons.mask[layer.index]
        assert torch.equal(inside[layer.hook][..., chosen], source[layer.hook][..., chosen])
    assert (patched - plain).abs().max() > 1e-2
    with patch(model, ~NeuronSet.from_pairs(model, []), own), patch(model, neurons, other):
        # Everything else as in the plain run: by hand, from the activations.
        mixed = activations(model)
    last = view(model).layers[-1]
    expected = torch.where(
        neurons.mask[last.index], source[last.hook], activations(model)[last.hook]
    )
    assert torch.equal(mixed[last.hook], expected)


# --- warnings and errors ---


@pytest.mark.parametrize("name", [n for n in INTERVENTIONS if "weights" not in n])
def test_a_hook_that_never_fires_warns_where_it_was_used(name: str, tokenizer: Any):
    model = lens("llama", "bridge", tokenizer)
    neurons = NeuronSet.from_pairs(model, [(1, 4)])
    with (
        pytest.warns(HookNeverFiredWarning, match=r"blocks\.1\.mlp\.hook_post never") as caught,
        INTERVENTIONS[name](model, neurons),
    ):
        pass
    assert [warning.filename for warning in caught] == [__file__]


def test_no_warning_without_cause(tokenizer: Any):
    model = lens("llama", "bridge", tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with deactivate(model, some(model)):
            logits(model)
        with deactivate(model, some(model), how="weights"):
            pass
        with pytest.raises(ZeroDivisionError), deactivate(model, some(model)):
            raise ZeroDivisionError


def test_nothing_happens_before_entering(tokenizer: Any):
    model = lens("llama", "bridge", tokenizer)
    before = micro.snapshot(model)
    for enter in INTERVENTIONS.values():
        enter(model, some(model))
    assert micro.unchanged(model, before)


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_neurons_of_another_model_are_refused(name: str, tokenizer: Any):
    model, other = lens("llama", "bridge", tokenizer), helpers.tiny_lens("llama", seed=9)
    before = micro.snapshot(model)
    with (
        pytest.raises(ValueError, match="belongs to model") as caught,
        INTERVENTIONS[name](model, some(other)),
    ):
        pytest.fail("the block must not run")
    message = str(caught.value)
    assert view(model).fingerprint in message
    assert view(other).fingerprint in message
    assert "rebind" in message
    assert micro.unchanged(model, before)
    with INTERVENTIONS[name](model, some(other).rebind(model)):
        logits(model)


@pytest.mark.parametrize(
    ("enter", "message"),
    [
        (lambda m, n: scale(m, n, float("nan")), "factor is nan"),
        (lambda m, n: scale(m, n, float("inf")), "factor is inf"),
        (lambda m, n: mean_ablate(m, n, torch.ones(2, 47)), r"\(2, 47\); .* needs \(2, 48\)"),
        (lambda m, n: mean_ablate(m, n, torch.full((2, 48), float("nan"))), "NaN or infinite"),
        (lambda m, n: patch(m, n, {}), r"no blocks\.0\.mlp\.hook_post"),
        (
            lambda m, n: patch(m, n, {"blocks.0.mlp.hook_post": torch.ones(2, 5, 48)}),
            r"no blocks\.1\.mlp\.hook_post",
        ),
        (
            lambda m, n: patch(m, n, activations(m, TOKENS[:, :3])),
            r"shape \(2, 3, 48\), this run has \(2, 5, 48\)",
        ),
    ],
)
def test_bad_arguments(enter: Callable[..., Any], message: str, tokenizer: Any):
    model = lens("llama", "bridge", tokenizer)
    before = micro.snapshot(model)
    with pytest.raises(ValueError, match=message), enter(model, some(model)):
        logits(model)
    assert micro.unchanged(model, before)


def test_an_unknown_way_is_refused(tokenizer: Any):
    model = lens("llama", "bridge", tokenizer)
    wrong: Any = "gradient"
    # The runtime type check of the tests comes first; users meet the message.
    with pytest.raises(Exception, match="gradient"), deactivate(model, some(model), how=wrong):
        pytest.fail("the block must not run")


def test_a_plain_hugging_face_model_is_refused():
    neurons = NeuronSet(torch.ones(2, 48, dtype=torch.bool), "2x48-0")
    with pytest.raises(TypeError, match="got LlamaForCausalLM"):  # noqa: SIM117
        with deactivate(helpers.tiny_hf("llama"), neurons):  # pyright: ignore[reportArgumentType]
            pytest.fail("the block must not run")


def test_generation_is_intervened_in_at_every_step(tokenizer: Any):
    model = lens("llama", "bridge", tokenizer)
    neurons, seen = some(model), []

    def look(activation: Tensor, hook: Any) -> Tensor:
        seen.append((activation[..., neurons.mask[0]] == 0).all().item())
        return activation

    for context in (deactivate(model, neurons), nullcontext()):
        seen.clear()
        with context, model.hooks(fwd_hooks=[("blocks.0.mlp.hook_post", look)]):
            model.generate(TOKENS[:1], max_new_tokens=3, do_sample=False, verbose=False)
        assert len(seen) == 3
        assert all(seen) is not isinstance(context, nullcontext)


def test_silencing_nothing_is_told(tokenizer: Any):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    with pytest.warns(UserWarning, match="set to silence is empty"):
        deactivate(model, NeuronSet.from_pairs(model, []))
