import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import helpers
import micro
import pytest
import torch
from micro import LN3, lens, snapshot, unchanged
from torch import Tensor

from tl_taskneurons import NeuronSet, deactivate, mean_ablate, patch, scale
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.interventions import HookNeverFiredWarning

HOOKED = pytest.param("hooked", marks=pytest.mark.needs("hooked"))
KINDS = ["bridge", HOOKED]
WAYS = ["hooks", "weights"]
NEEDS_HOOKED = pytest.mark.needs("hooked")
BRIDGES = [(name, "bridge") for name in helpers.ARCHITECTURES]
HOOKEDS = [(name, "hooked") for name in helpers.HOOKED_ARCHITECTURES]
CLASSES = BRIDGES + [pytest.param(*case, marks=NEEDS_HOOKED) for case in HOOKEDS]
TOKENS = torch.tensor([[7, 31, 2, 250, 90], [5, 5, 61, 0, 128]])
OTHERS = torch.tensor([[1, 77, 3, 201, 9], [8, 15, 6, 10, 12]])
How = Literal["hooks", "weights"]


def logits(model: Any, tokens: Tensor = TOKENS) -> Tensor:
    with torch.no_grad():
        return model(tokens, attention_mask=torch.ones_like(tokens))


def some(model: Any, seed: int = 0) -> NeuronSet:
    """A fifth of the neurons, drawn at random."""
    chosen = torch.rand(view(model).shape, generator=torch.Generator().manual_seed(seed)) < 0.2
    return NeuronSet(chosen, view(model).fingerprint, f"some {seed}")


def activations(model: Any, tokens: Tensor = TOKENS) -> dict[str, Tensor]:
    """What enters the output matrices, copied by hooks of our own."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[Tensor, Any], Tensor]:
        def hook(activation: Tensor, hook: Any) -> Tensor:
            found[name] = activation.detach().clone()
            return activation

        return hook

    with model.hooks(fwd_hooks=[(layer.hook, keep(layer.hook)) for layer in view(model).layers]):
        logits(model, tokens)
    return found


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


# --- nesting, and leaving by an exception ---


def test_interventions_nest_and_are_undone_one_by_one():
    model = helpers.tiny_lens("llama")
    first, second = some(model, 0), some(model, 1)
    plain, before = logits(model), micro.snapshot(model)
    with deactivate(model, first | second):
        both = logits(model)
    with deactivate(model, first):
        one = logits(model)
    assert not torch.equal(one, both)
    for outer in ("hooks", "weights"):
        for inner in ("hooks", "weights"):
            with deactivate(model, first, how=outer):
                with deactivate(model, second, how=inner):
                    assert torch.equal(logits(model), both)
                assert torch.equal(logits(model), one)
                with scale(model, first & second, 1.0, how=inner):
                    assert torch.equal(logits(model), one)
            assert torch.equal(logits(model), plain)
    assert micro.unchanged(model, before)


def test_the_inner_intervention_has_the_last_word():
    model = helpers.tiny_lens("llama")
    neurons = some(model)
    ones, layer = torch.ones(view(model).shape), view(model).layers[0]
    chosen = neurons.mask[0]
    with deactivate(model, neurons), mean_ablate(model, neurons, ones):
        assert (activations(model)[layer.hook][..., chosen] == 1).all()
    with mean_ablate(model, neurons, ones), deactivate(model, neurons):
        assert (activations(model)[layer.hook][..., chosen] == 0).all()


def test_hooks_of_the_caller_stay(tokenizer: Any):
    model, calls = lens("llama", "bridge", tokenizer), []

    def count(activation: Tensor, hook: Any) -> Tensor:
        calls.append(1)
        return activation

    with model.hooks(fwd_hooks=[("blocks.0.mlp.hook_post", count)]):
        with deactivate(model, some(model)):
            logits(model)
        logits(model)
    logits(model)
    assert len(calls) == 2


@pytest.mark.parametrize("kind", ["bridge", HOOKED])
def test_hooks_that_come_and_go_inside_leave_the_intervention(kind: str, tokenizer: Any):
    model = lens("llama", kind, tokenizer)
    neurons, layer = some(model), view(model).layers[0]
    chosen = neurons.mask[0]
    with deactivate(model, neurons):
        silenced = logits(model)
        with model.hooks(fwd_hooks=[(layer.hook, lambda act, hook: act * 2)]):  # noqa: ARG005
            assert not torch.equal(logits(model), silenced)
        assert torch.equal(logits(model), silenced)
        assert (activations(model)[layer.hook][..., chosen] == 0).all()
    assert not layer.point.fwd_hooks


def test_hooks_reset_inside_stay_or_are_told(tokenizer: Any):
    model = lens("llama", "bridge", tokenizer)
    neurons = some(model)
    before = snapshot(model)
    with deactivate(model, neurons):
        silenced = logits(model)
        model.reset_hooks()
        assert torch.equal(logits(model), silenced)
    assert unchanged(model, before)
    with (
        pytest.raises(RuntimeError, match="blocks.0.*taken away inside.*did not act in the passes"),
        deactivate(model, neurons),
    ):
        logits(model)
        model.reset_hooks(including_permanent=True)
    assert unchanged(model, before)


INTERVENTIONS: dict[str, Callable[[Any, NeuronSet], AbstractContextManager[None]]] = {
    "deactivate by hooks": lambda m, n: deactivate(m, n),
    "deactivate by weights": lambda m, n: deactivate(m, n, how="weights"),
    "scale by hooks": lambda m, n: scale(m, n, 0.3),
    "scale by weights": lambda m, n: scale(m, n, 0.3, how="weights"),
    "mean_ablate": lambda m, n: mean_ablate(m, n, torch.ones(view(m).shape)),
    "patch": lambda m, n: patch(m, n, activations(m, OTHERS)),
}


@contextmanager
def failing_forward(model: Any, error: type[BaseException]):
    def fail(*_: Any) -> None:
        raise error

    handle = model.unembed.register_forward_hook(fail)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_everything_is_undone_after_an_exception(
    error: type[BaseException], kind: str, tokenizer: Any
):
    model = helpers.tiny_lens("gpt2", kind, tokenizer=tokenizer)
    plain = logits(model)
    for parameter in list(model.parameters())[::2]:
        parameter.grad = torch.ones_like(parameter)
    before, fingerprint = micro.snapshot(model), view(model).fingerprint
    for name, enter in INTERVENTIONS.items():
        # In the block, in the model, and in an inner intervention.
        with pytest.raises(error), enter(model, some(model)):
            raise error
        assert micro.unchanged(model, before), name
        with pytest.raises(error), enter(model, some(model)), failing_forward(model, error):
            logits(model)
        assert micro.unchanged(model, before), name
        for inner in (INTERVENTIONS["mean_ablate"], INTERVENTIONS["scale by weights"]):
            with (
                pytest.raises(error),
                enter(model, some(model)),
                inner(model, some(model, 1)),
                failing_forward(model, error),
            ):
                logits(model)
        assert micro.unchanged(model, before), name
        assert view(model).fingerprint == fingerprint
    assert torch.equal(logits(model), plain)


def test_weights_are_put_back_when_surgery_itself_fails(monkeypatch: pytest.MonkeyPatch):
    model = helpers.tiny_lens("llama")
    plain, before, written = logits(model), micro.snapshot(model), []
    copy = Tensor.index_copy_

    def failing(self: Tensor, *args: Any) -> Tensor:
        written.append(1)
        if len(written) == 2:  # the second layer, the first being changed already
            raise KeyboardInterrupt
        return copy(self, *args)

    monkeypatch.setattr(Tensor, "index_copy_", failing)
    with pytest.raises(KeyboardInterrupt), deactivate(model, some(model), how="weights"):
        pytest.fail("the block must not run")
    assert len(written) > 2
    assert micro.unchanged(model, before)
    assert torch.equal(logits(model), plain)


@pytest.mark.parametrize("how", WAYS)
def test_the_fingerprint_stays_inside_and_after(how: How):
    model = helpers.tiny_lens("phi3")
    fingerprint = view(model).fingerprint
    with deactivate(model, some(model), how=how):
        assert view(model).fingerprint == fingerprint
        with deactivate(model, some(model, 1), how="weights"):
            assert view(model).fingerprint == fingerprint
        assert view(model).fingerprint == fingerprint
        logits(model)
    assert view(model).fingerprint == fingerprint
    # A real change is still seen afterwards.
    view(model).write(0, torch.tensor([1]), {"W_out": torch.ones(1, 32)})
    assert view(model).fingerprint != fingerprint


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
