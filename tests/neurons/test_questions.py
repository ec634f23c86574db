"""Metrics, ablations and positions against plain PyTorch, in scores and in interventions."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from micro import lens
from torch import Tensor

import tl_taskneurons as tn
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.ablation import CounterfactualLengthWarning
from tl_taskneurons.neurons.scoring import score_batches
from tl_taskneurons.neurons.settings import ScoreSettings
from tl_taskneurons.tasks.batches import make_batches
from tl_taskneurons.tasks.prompts import Item
from tl_taskneurons.tasks.task import Example, Task

# A prompt and its counterfactual of one length, and of others; answers of one and two tokens.
ITEMS = [
    Item(0, (5, 6, 7), (8,), (), ((9,), (10,)), (5, 11, 7)),
    Item(1, (5, 6, 7, 12), (8, 13), (), ((8, 14), (15,)), (6, 11, 7)),
    Item(2, (5, 9), (16,), (), ((17,),), (5, 6, 11, 9)),
]
NAMES = ("llama", "gpt2", "bloom", "gemma", "phi3")
LAYER, NEURONS = 1, [3, 7]


def told() -> AbstractContextManager[Any]:
    return pytest.warns(CounterfactualLengthWarning, match="differ in length")


def run(model: Any, item: Item, change: Callable[[int, Tensor], Tensor] | None = None) -> Any:
    """Return the logits that predict an answer, and each layer's activations, of one example."""
    kept: dict[int, Tensor] = {}
    tokens = torch.tensor([[*item.prompt, *item.answer]])

    def hook(activation: Tensor, hook: Any) -> Tensor:
        layer = int(hook.name.split(".")[1])
        activation = activation if change is None else change(layer, activation)
        if activation.requires_grad:
            activation.retain_grad()
        kept[layer] = activation
        return activation

    logits = model.run_with_hooks(
        tokens, fwd_hooks=[(f"blocks.{i}.mlp.hook_post", hook) for i in range(2)]
    )
    return logits[0, len(item.prompt) - 1 : -1].float(), kept


def by_hand(name: str, logits: Tensor, item: Item, before: Tensor) -> Tensor:
    """Each metric in the plainest words."""
    own = [logits[k].log_softmax(-1)[token] for k, token in enumerate(item.answer)]
    if name == "loss":
        return -sum(own, torch.zeros(())) / len(own)
    if name == "log_prob":
        return sum(own, torch.zeros(()))
    if name == "prob":
        return math.prod(one.exp() for one in own)  # type: ignore[return-value]
    if name == "logit_diff":
        found = []
        for wrong in item.wrong:
            k = next(k for k, (a, b) in enumerate(zip(item.answer, wrong, strict=False)) if a != b)
            found.append(logits[k, item.answer[k]] - logits[k, wrong[k]])
        return torch.stack(found).mean()
    if name == "kl":
        p, q = before.log_softmax(-1), logits.log_softmax(-1)
        return torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1).mean()
    ranks = [
        1 + int((row > row[token]).sum()) for row, token in zip(logits, item.answer, strict=True)
    ]
    return torch.tensor(ranks).float().mean()


def places(positions: Any, item: Item) -> list[int]:
    n = len(item)
    if positions == "all":
        return list(range(n))
    if positions == "answer":
        return list(range(len(item.prompt) - 1, n - 1))
    if positions == "last_prompt":
        return [len(item.prompt) - 1]
    return list(range(n))[positions]


def other_activations(model: Any, ablation: str, item: Item) -> dict[int, Tensor]:
    """What takes the activations' place, position by position."""
    _, own = run(model, item)
    if ablation == "zero":
        return {layer: torch.zeros_like(a) for layer, a in own.items()}
    if ablation == "mean":
        rows = [run(model, each)[1] for each in ITEMS]
        return {
            layer: torch.cat([row[layer][0] for row in rows]).mean(0).expand_as(own[layer])
            for layer in own
        }
    prompt = item.counterfactual
    shifted = Item(0, prompt, item.answer, ())
    _, found = run(model, shifted)
    result = {}
    for layer, a in own.items():
        result[layer] = a.clone()
        n = min(len(item), len(shifted))
        result[layer][0, len(item) - n :] = found[layer][0, len(shifted) - n :]
    return result


def expected_scores(model: Any, metric: str, ablation: str, positions: Any, exact: bool) -> Tensor:
    """Score two layers example by example: first order, or by silencing each of some neurons."""
    totals = torch.zeros(2, view(model).d_mlp)
    for item in ITEMS:
        with torch.no_grad():
            other = other_activations(model, ablation, item)
            before, _ = run(model, item)
        where = places(positions, item)
        if not exact:
            logits, kept = run(model, item, lambda _, a: a.requires_grad_())
            by_hand(metric, logits, item, before).backward()
            for layer, a in kept.items():
                assert a.grad is not None
                effect = (other[layer] - a.detach()) * a.grad
                totals[layer] += effect[0, where].sum(0)
            continue
        for j in NEURONS:

            def silence(
                layer: int, a: Tensor, j: int = j, w: Any = where, o: Any = other
            ) -> Tensor:
                if layer == LAYER:
                    a = a.clone()
                    a[0, w, j] = o[layer][0, w, j]
                return a

            with torch.no_grad():
                after = by_hand(metric, run(model, item, silence)[0], item, before)
                totals[LAYER, j] += after - by_hand(metric, before, item, before)
    return totals / len(ITEMS)


QUESTIONS = [
    ("log_prob", "zero", "all"),
    ("prob", "mean", "answer"),
    ("logit_diff", "counterfactual", "all"),
    ("logit_diff", "zero", "last_prompt"),
    ("loss", "counterfactual", slice(1, -1)),
]


HOOKED = pytest.mark.needs("hooked")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "bridge") for name in NAMES),
        # HookedTransformer knows no GemmaForCausalLM of this shape.
        *(pytest.param(name, "hooked", marks=HOOKED) for name in NAMES if name != "gemma"),
    ],
)
def test_first_order_scores_are_those_of_plain_pytorch(name: str, kind: str, tokenizer: Any):
    model = lens(name, kind, tokenizer)
    for metric, ablation, positions in QUESTIONS:
        question: dict[str, Any] = {"metric": metric, "ablation": ablation, "positions": positions}
        with told() if ablation == "counterfactual" else nullcontext():
            found = tn.score_items(model, ITEMS, signed=True, **question)
        expected = expected_scores(model, metric, ablation, positions, exact=False)
        scale = expected.abs().max()
        assert scale > 0
        assert (found - expected).abs().max() < 1e-4 * scale, (metric, ablation, positions)


@pytest.mark.parametrize(
    ("metric", "ablation", "positions"),
    [*QUESTIONS, ("kl", "zero", "all"), ("rank", "zero", "answer")],
)
def test_exact_effects_are_those_of_plain_pytorch(
    metric: str, ablation: str, positions: Any, tokenizer: Any
):
    model = lens("llama", "bridge", tokenizer)
    neurons = tn.NeuronSet.from_pairs(model, [(LAYER, j) for j in NEURONS])
    expected = expected_scores(model, metric, ablation, positions, exact=True)
    settings = ScoreSettings(metric=metric, ablation=ablation, positions=positions, signed=True)
    batches = list(make_batches(ITEMS))
    found = score_batches(view(model), batches, "exact", neurons=neurons, settings=settings)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def task() -> Task:
    rows = (
        Example("ab", "x", wrong=("y",), counterfactual="cd"),
        Example("abc", "yz", wrong=("yx", "v"), counterfactual="d"),
        Example("b", "z", wrong=("x",), counterfactual="c"),
    )
    return Task("pairs", rows, rows, metric="exact_match")


@pytest.mark.parametrize("ablation", ["zero", "resample", "counterfactual"])
@pytest.mark.parametrize("positions", ["all", "answer", "last_prompt", slice(3, -1)])
def test_interventions_do_what_exact_scores_say(ablation: str, positions: Any, tokenizer: Any):
    model = lens("gpt2", "bridge", tokenizer)
    neuron = tn.NeuronSet.from_pairs(model, [(0, 3)])  # later layers see it elsewhere
    question: dict[str, Any] = {"ablation": ablation, "positions": positions}
    warned = told() if ablation == "counterfactual" else nullcontext()
    with warned:
        score = tn.score_neurons(
            model, task(), "exact", neurons=neuron, metric="logit_diff", signed=True, **question
        )
        plain = tn.evaluate_items(model, task(), metric="logit_diff", split="train")["score"]
        with tn.deactivate(model, neuron, **question):
            changed = tn.evaluate_items(model, task(), metric="logit_diff", split="train")["score"]
    effect = (changed - plain).mean()
    assert effect != 0
    assert float(score.values[0, 3]) == pytest.approx(effect, rel=1e-3, abs=1e-7)


def test_divergence_is_from_the_undisturbed_model(tokenizer: Any):
    model = lens("llama", "bridge", tokenizer)
    neurons = tn.NeuronSet.from_pairs(model, [(LAYER, j) for j in range(20)])
    assert tn.evaluate(model, task(), metric="kl")["value"].item() == 0
    with tn.deactivate(model, neurons):
        assert tn.evaluate(model, task(), metric="kl")["value"].item() > 1e-6
    with (
        tn.deactivate(model, neurons, how="weights"),
        pytest.raises(RuntimeError, match="weights are changed"),
    ):
        tn.evaluate(model, task(), metric="kl")


def test_signs_sides_errors_and_reliability(tokenizer: Any):
    model = lens("llama", "bridge", tokenizer)
    for metric, turn in (("loss", 1), ("log_prob", -1)):
        found = tn.score_neurons(model, task(), signed=True, metric=metric, per_example=True)
        assert found.examples is not None
        torch.testing.assert_close(found.examples.mean(0), found.values, rtol=1e-4, atol=1e-7)
        help_ = found.top(n=5, sign="help")
        assert bool((turn * found.values[help_.mask] > 0).all())
        assert bool((turn * found.values[found.top(n=5, sign="hurt").mask] < 0).all())
        both = found.top(n=5)
        assert found.values[both.mask].abs().min() >= found.values[~both.mask].abs().max()
        assert 0 <= help_.info["split_half"] <= 1
        assert both.info["split_half"] == found.side("both").split_half(n=5)
        errors = found.examples.std(0) / len(found.examples) ** 0.5
        torch.testing.assert_close(found.standard_errors(), errors)
    sizes = tn.score_neurons(model, task())
    assert sizes.info["metric"] == "loss" and sizes.info["unit"] == "nats per token"
    with pytest.raises(ValueError, match="are sizes, so no neuron helps"):
        sizes.top(n=5, sign="help")
    with pytest.raises(ValueError, match="per_example=True"):
        sizes.split_half(n=5)
    with pytest.raises(ValueError, match="n_splits is 0"):
        found.split_half(n=5, n_splits=0)
    # Examples that say the same give the same set.
    same = tn.NeuronScores(torch.rand(2, 9), "m", examples=torch.rand(1, 2, 9).expand(6, -1, -1))
    assert same.split_half(n=4) == 1


def mean_logit(logits: Tensor, item: Item) -> Tensor:
    return logits[:, item.answer[0]].mean()


def test_a_metric_of_ones_own(tokenizer: Any):
    model = lens("llama", "bridge", tokenizer)
    found = tn.score_items(model, ITEMS, metric=mean_logit, signed=True)
    totals = torch.zeros_like(found)
    for item in ITEMS:
        logits, kept = run(model, item, lambda _, a: a.requires_grad_())
        mean_logit(logits, item).backward()
        for layer, a in kept.items():
            assert a.grad is not None
            totals[layer] -= (a.detach() * a.grad)[0].sum(0)
    torch.testing.assert_close(found, totals / len(ITEMS), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "logit_dif"}, "Unknown metric 'logit_dif'; did you mean 'logit_diff'"),
        ({"metric": lambda logits, item: logits}, "of example 0 returned \\(1, "),
        ({"metric": lambda logits, item: logits.sum() / 0 * 0}, "of example 0 is nan"),
        ({"metric": lambda logits, item: logits.detach().sum()}, "example 0 has no gradient"),
        ({"metric": "rank"}, "metric 'rank' has no gradient; use 'exact'"),
        ({"metric": "kl"}, "zero where nothing is disturbed"),
        ({"method": "activation", "metric": "prob"}, "'activation' can't answer .*no effect"),
        ({"method": "grad_act_abs", "signed": True}, "it has no sign"),
        ({"positions": "first"}, "Unknown positions 'first'"),
        ({"positions": slice(50, 60)}, "choose no token of example"),
        ({"ablation": "noise"}, "Unknown ablation 'noise'"),
        ({"ablation": torch.zeros(3)}, "have shape \\(3,\\)"),
    ],
)
def test_bad_questions_are_told(options: dict[str, Any], message: str, tokenizer: Any):
    model = lens("llama", "bridge", tokenizer)
    with pytest.raises(ValueError, match=message):
        tn.score_items(model, ITEMS[:1], **options)


def test_missing_contrasts_are_told(tokenizer: Any):
    model = lens("llama", "bridge", tokenizer)
    bare = [Item(4, (5, 6), (7,), ())]
    with pytest.raises(ValueError, match="needs wrong answers; example 4 has none"):
        tn.score_items(model, bare, metric="logit_diff")
    with pytest.raises(ValueError, match="Example 4 has no counterfactual"):
        tn.score_items(model, bare, ablation="counterfactual")
    with pytest.raises(ValueError, match="at least two examples"):
        tn.score_items(model, bare, ablation="resample")
    neuron = tn.NeuronSet.from_pairs(model, [(0, 0)])
    with (
        tn.deactivate(model, neuron, positions="answer"),
        pytest.raises(RuntimeError, match="where"),
    ):
        model(torch.tensor([[1, 2]]))


def test_tasks_scored_together_ask_the_same(tokenizer: Any):
    model = lens("llama", "bridge", tokenizer)
    two = [task(), replace(task(), name="again", train=task().train[:2])]
    question: dict[str, Any] = {
        "metric": "logit_diff",
        "ablation": "resample",
        "positions": "answer",
    }
    together = tn.score_tasks(model, two, **question)
    for each in two:
        alone = tn.score_neurons(model, each, **question)
        torch.testing.assert_close(together[each.name].values, alone.values)
        assert together[each.name].info == alone.info
