"""Scores compared with numbers from paper, with finite differences and with ablation."""

import math
from typing import Any

import helpers
import micro
import pytest
import torch
from micro import LN3, item, lens, words
from torch import Tensor

from tl_taskneurons import NeuronSet, activation_mean, deactivate, scale, score_items, score_neurons
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.scoring import score_batches
from tl_taskneurons.neurons.settings import ScoreSettings
from tl_taskneurons.tasks.batches import make_batches
from tl_taskneurons.tasks.prompts import Item, encode

HOOKED = pytest.param("hooked", marks=pytest.mark.needs("hooked"))
KINDS = ["bridge", HOOKED]


def is_close(values: Tensor, expected: Any, tolerance: float = 1e-6) -> bool:
    expected = torch.as_tensor(expected, dtype=torch.float32)
    assert values.dtype == torch.float32
    assert values.shape == expected.shape
    assert (values - expected).abs().max().item() < tolerance, (values, expected)
    return True


def all_neurons(model: Any) -> NeuronSet:
    return ~NeuronSet.from_pairs(model, [])


# --- on paper: one layer ---
# dL/da is p - 1 where token 0 is the answer and p where token 1 is, with p = 3/4 at token 0 and
# 9/10 at token 1. Neuron 0 writes 2 ln3 * w to a, with w = 1 and 2; neuron 1 -ln3/2 * w, with
# w = 2 and 4. Gradient * activation per predicted token, in units of ln3:
#   after token 0: answer 0: -1/4 * (2, -1) = (-.5, .25); answer 1: 3/4 * (2, -1) = (1.5, -.75)
#   after token 1: answer 0: -1/10 * (4, -2) = (-.4, .2)
ITEMS = [item((0,), (0,)), item((0,), (1,)), item((1,), (0,)), item((0,), (1, 0))]


@pytest.mark.parametrize(
    ("which", "signed", "absolute"),
    [
        (0, (-0.5, 0.25), (0.5, 0.25)),
        (1, (1.5, -0.75), (1.5, 0.75)),
        (2, (-0.4, 0.2), (0.4, 0.2)),
        # Two answer tokens: the loss is their mean, 1/2 * ((1.5, -.75) + (-.4, .2)).
        (3, (0.55, -0.275), (0.95, 0.475)),
    ],
)
def test_one_example_on_paper(
    which: int, signed: tuple[float, float], absolute: tuple[float, float]
):
    model = micro.one_layer()
    for method in ("grad_act", "grad_act_mean"):
        expected = [[abs(signed[0]) * LN3, abs(signed[1]) * LN3, 0.0]]
        assert is_close(score_items(model, [ITEMS[which]], method), expected)
    expected = [[absolute[0] * LN3, absolute[1] * LN3, 0.0]]
    assert is_close(score_items(model, [ITEMS[which]], "grad_act_abs"), expected)
    batches = list(make_batches([ITEMS[which]]))
    assert is_close(
        score_batches(view(model), batches, "grad_act", settings=ScoreSettings(signed=True)),
        [[-signed[0] * LN3, -signed[1] * LN3, 0.0]],
    )


def test_a_task_on_paper():
    model = micro.one_layer()
    total = 0.5 + 1.5 + 0.4 + 0.55
    assert is_close(
        score_items(model, ITEMS, "grad_act"), [[total / 4 * LN3, total / 8 * LN3, 0.0]]
    )
    total = 0.5 + 1.5 + 0.4 + 0.95
    assert is_close(
        score_items(model, ITEMS, "grad_act_abs"), [[total / 4 * LN3, total / 8 * LN3, 0.0]]
    )
    total = -0.5 + 1.5 - 0.4 + 0.55
    assert is_close(
        score_items(model, ITEMS, "grad_act_mean"), [[total / 4 * LN3, total / 8 * LN3, 0.0]]
    )


def test_two_layers_on_paper():
    # The upper neuron has w = 2 and writes ln3/2: g = -1/4 * ln3/2, g*w = -ln3/4. The lower one
    # has w = 1 and adds 1 to the upper one's input, so its g is the upper one's, -ln3/8.
    scores = score_items(micro.two_layers(), [item((0,), (0,))])
    assert is_close(scores, [[LN3 / 8], [LN3 / 4]])


def test_exact_ablation_on_paper():
    model = micro.one_layer()
    batches = list(make_batches(ITEMS[:2]))
    scores = score_batches(view(model), batches, "exact", neurons=all_neurons(model))
    # Answer 0: the loss is ln(4/3); without neuron 0, a = -ln3: ln 4; without neuron 1, a = 2 ln3:
    # ln(10/9). Answer 1: ln 4; without neuron 0: ln(4/3); without neuron 1: ln 10.
    first, second = [LN3, math.log(1.2)], [LN3, math.log(2.5)]
    assert is_close(scores, [[(first[0] + second[0]) / 2, (first[1] + second[1]) / 2, 0.0]])


def test_exact_ablation_scores_only_the_neurons_asked_for():
    model = micro.one_layer()
    some = NeuronSet.from_pairs(model, [(0, 1)])
    scores = score_batches(view(model), list(make_batches(ITEMS[:1])), "exact", neurons=some)
    assert is_close(scores, [[0.0, math.log(1.2), 0.0]])


def test_integrated_gradients_are_complete():
    # Scaling this layer from 0 to 1 moves the loss from ln 2 to ln(4/3), by -ln 1.5; the neurons
    # share it as their contributions to a do: 2 : -1.
    model = micro.one_layer()
    batches = list(make_batches(ITEMS[:1]))
    scores = score_batches(
        view(model), batches, "integrated_gradients", settings=ScoreSettings(steps=24)
    )
    assert is_close(scores, [[2 * math.log(1.5), math.log(1.5), 0.0]], 1e-4)
    # In the upper layer of this model scaling the layer is scaling the one neuron, from ln 2 to
    # ln(4/3) again; in the lower layer x goes from 1 to 2, a from ln3/2 to ln3.
    scores = score_batches(
        view(micro.two_layers()), batches, "integrated_gradients", settings=ScoreSettings(steps=24)
    ).flatten()
    before, after = math.log1p(1 / math.sqrt(3)), math.log(4 / 3)
    assert is_close(scores, [before - after, math.log(1.5)], 1e-4)
    # One step, at alpha = 1/2, is the midpoint rule and not yet complete.
    half = score_batches(
        view(micro.two_layers()), batches, "integrated_gradients", settings=ScoreSettings(steps=1)
    )
    p = math.sqrt(3) / (1 + math.sqrt(3))
    assert is_close(half[1], [(1 - p) * LN3])
    assert abs(half[1].item() - math.log(1.5)) > 1e-3


def test_activation_baselines_on_paper():
    # Activations (1, 2, 0) at token 0 and (2, 4, 0.5) at token 1; the batch holds 0 0 and 0 1 0.
    model, items = micro.one_layer(), [ITEMS[0], ITEMS[3]]
    assert is_close(score_items(model, items, "activation"), [[6 / 5, 12 / 5, 0.5 / 5]])
    assert is_close(score_items(model, items, "frequency"), [[1.0, 1.0, 1 / 5]])
    assert is_close(score_items(model, items[:1], "frequency"), [[1.0, 1.0, 0.0]])


def test_activation_times_weight_on_paper():
    # Squared activations summed over 4 tokens 0 and one token 1, times squared output norms.
    model, items = micro.one_layer(), [ITEMS[0], ITEMS[3]]
    sums = [8 * (2 * LN3) ** 2, 32 * (LN3 / 2) ** 2, 0.25 * 16]
    assert is_close(score_items(model, items, "activation_weight"), [[x / 5 for x in sums]])


def test_weight_norm_on_paper_needs_no_tokenizer():
    scores = score_neurons(micro.one_layer(), words(), "weight_norm")
    assert is_close(scores.values, [[1 * 2 * LN3, 2 * LN3 / 2, 1 * 4]])


def test_weight_norm_of_a_gated_model_counts_the_gate(tokenizer: Any):
    model = lens("llama", "bridge", tokenizer)
    mlp = model.blocks[1].mlp
    incoming = mlp.W_in.square().sum(0) + mlp.W_gate.square().sum(0)
    expected = (incoming * mlp.W_out.square().sum(1)).sqrt().detach()
    assert is_close(score_neurons(model, words(), "weight_norm").values[1], expected, 1e-5)


def test_activation_mean_keeps_the_sign(tokenizer: Any):
    model, task = lens("gpt2", "bridge", tokenizer), words(3)
    total, n_tokens = torch.zeros(2, 48), 0
    for one in encode(task, tokenizer, split="train").items:
        _, cache = model.run_with_cache(torch.tensor([one.prompt + one.answer]))
        n_tokens += len(one)
        total += torch.stack([cache[f"blocks.{i}.mlp.hook_post"][0].sum(0) for i in range(2)])
    means = activation_mean(model, task)
    assert is_close(means, total / n_tokens, 1e-5)
    assert (means < 0).any()
    assert not means.requires_grad


# --- gradients against finite differences, first order against ablation ---


def losses64(model: Any, items: list[Item]) -> Tensor:
    """Each item's loss in float64, from all logits, without masks or padding."""
    losses = []
    for one in items:
        with torch.no_grad():
            logits = model(torch.tensor([one.prompt + one.answer]))[0]
        assert logits.dtype == torch.float64
        log_probs = logits[len(one.prompt) - 1 : -1].log_softmax(-1)
        losses.append(-log_probs[range(len(one.answer)), list(one.answer)].mean())
    return torch.stack(losses)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "tolerance"),
    # GPT-2 is float64 throughout; the norms of the others compute in float32.
    [("gpt2", 1e-6), ("llama", 1e-4), ("bloom", 1e-4)],
)
def test_gradients_are_finite_differences(name: str, tolerance: float, kind: str, tokenizer: Any):
    hf = helpers.tiny_hf(name, seed=3)
    model = helpers.both_classes(hf, tokenizer, torch.float64)[kind]
    items = list(encode(words(4), tokenizer, split="train").items)
    signed = torch.stack([-score_items(model, [one], signed=True) for one in items])

    def losses(neuron: NeuronSet, factor: float) -> Tensor:
        with scale(model, neuron, factor):
            return losses64(model, items)

    step = 0.03
    for layer, j in [(0, 0), (0, 17), (1, 5)]:
        neuron = NeuronSet.from_pairs(model, [(layer, j)])
        near = losses(neuron, 1 + step) - losses(neuron, 1 - step)
        far = losses(neuron, 1 + 2 * step) - losses(neuron, 1 - 2 * step)
        slope = (8 * near - far) / (12 * step)  # error of fourth order in the step
        gap = (slope - signed[:, layer, j]).abs().max() / signed.abs().max()
        assert gap < tolerance, gap
        assert slope.abs().max() > 1e-4
    # The mean of the absolute values and the absolute value of the mean, of the same numbers.
    assert is_close(score_items(model, items), signed.abs().mean(0), 1e-5)
    assert is_close(score_items(model, items, "grad_act_mean"), signed.mean(0).abs(), 1e-5)
    assert (signed.abs().mean(0) - signed.mean(0).abs()).max() > 1e-3


@pytest.mark.parametrize(("strength", "close"), [(0.05, True), (20.0, False)])
def test_first_order_is_exact_for_small_effects_only(strength: float, close: bool, tokenizer: Any):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    with torch.no_grad():
        for layer in view(model).layers:
            layer.parameters["W_out"].parameter.mul_(strength)
    task, some = words(4), NeuronSet.from_pairs(model, [(i % 2, i) for i in range(48)])
    exact = score_neurons(model, task, "exact", neurons=some).values[some.mask]
    first = score_neurons(model, task).values[some.mask]
    correlation = torch.corrcoef(torch.stack([exact, first]))[0, 1].item()
    slope = ((exact * first).sum() / first.square().sum()).item()
    assert (correlation > 0.99 and abs(slope - 1) < 0.05) is close, (correlation, slope)


def test_exact_is_deactivation_of_one_neuron(tokenizer: Any):
    model = lens("gemma2", "bridge", tokenizer).eval()
    items = list(encode(words(3), tokenizer, split="train").items)
    neuron = NeuronSet.from_pairs(model, [(1, 9)])
    exact = score_batches(view(model), list(make_batches(items)), "exact", neurons=neuron)

    def losses() -> Tensor:
        result = []
        for one in items:
            logits = model(torch.tensor([one.prompt + one.answer]))[0].detach()
            log_probs = logits[len(one.prompt) - 1 : -1].log_softmax(-1)
            result.append(-log_probs[range(len(one.answer)), list(one.answer)].mean())
        return torch.stack(result)

    plain = losses()
    with deactivate(model, neuron):
        change = (losses() - plain).abs().mean().item()
    assert exact[1, 9].item() == pytest.approx(change, rel=1e-4)
    assert change > 1e-4
    assert exact.count_nonzero() == 1
