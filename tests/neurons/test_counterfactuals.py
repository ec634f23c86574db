"""Counterfactual prompts: what fits the context, and what is kept of them."""

from dataclasses import replace
from typing import Any

import helpers
import pytest

import tl_taskneurons as tn
from tl_taskneurons.neurons import ablation
from tl_taskneurons.neurons.ablation import CounterfactualLengthWarning
from tl_taskneurons.tasks.prompts import Item
from tl_taskneurons.tasks.task import Example, Task


@pytest.mark.parametrize("method", ["grad_act", "exact"])
def test_a_counterfactual_that_does_not_fit_the_context_is_named(method: str, tokenizer: Any):
    model = helpers.tiny_lens("gpt2", tokenizer=tokenizer, n_positions=32)
    items = [Item(0, (5,) * 26, (8,), ()), Item(7, (5,) * 4, (8,) * 8, ())]
    long = [replace(items[1], counterfactual=(5,) * 26)]
    with (
        pytest.warns(CounterfactualLengthWarning),
        pytest.raises(ValueError, match="counterfactual prompt of example 7 .* 34 tokens, more"),
    ):
        tn.score_items(model, long, ablation="counterfactual")
    with pytest.raises(ValueError, match="counterfactual prompt of example 7 .* 34 tokens, more"):
        tn.score_items(model, items, ablation="resample")
    rows = (Example("a" * 12, "x"), Example("b", "y" * 9))
    pairs = Task("pairs", rows, rows, metric="exact_match")
    neurons = tn.NeuronSet.from_pairs(model, [(0, 3)])
    asked: dict[str, Any] = {"neurons": neurons} if method == "exact" else {}
    with pytest.raises(ValueError, match="counterfactual prompt of example 1 .* of 32 tokens"):
        tn.score_neurons(model, pairs, method, ablation="resample", **asked)
    with (
        pytest.raises(ValueError, match="counterfactual prompt of example 1"),
        tn.deactivate(model, neurons, ablation="resample"),
    ):
        tn.evaluate(model, pairs)


def test_exact_keeps_the_activations_of_its_layers_alone(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    rows = (Example("ab", "x"), Example("abc", "yz"), Example("b", "z"))
    pairs = Task("pairs", rows, rows, metric="exact_match")
    asked: list[list[int]] = []
    real = ablation.counterfactuals

    def watched(model_view: Any, batch: Any, layers: Any) -> Any:
        asked.append(list(layers))
        return real(model_view, batch, layers)

    monkeypatch.setattr(ablation, "counterfactuals", watched)
    neurons = tn.NeuronSet.from_pairs(model, [(1, 3)])
    tn.score_neurons(model, pairs, "exact", neurons=neurons, ablation="resample")
    assert asked and all(layers == [1] for layers in asked)


def test_other_counterfactual_prompts_than_those_of_an_open_intervention_are_refused(
    tokenizer: Any,
):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    rows = tuple(Example(f"a{i}", "x", counterfactual=f"b{i}") for i in range(4))
    pairs = Task("pairs", rows, rows, metric="exact_match")
    one, two = [(0, 3)], [(1, 5)]
    choices: list[dict[str, Any]] = [
        {"ablation": "resample"}, {"ablation": "resample", "seed": 3},
        {"ablation": "counterfactual"},
    ]  # fmt: skip
    for i, outer in enumerate(choices):
        for j, inner in enumerate(choices):
            with tn.deactivate(model, one, **outer):
                if i == j:
                    with tn.deactivate(model, two, **inner):
                        tn.evaluate(model, pairs)
                    tn.score_neurons(model, pairs, **inner)
                    continue
                with (
                    pytest.raises(RuntimeError, match="one counterfactual prompt at a time"),
                    tn.deactivate(model, two, **inner),
                ):
                    pytest.fail("the block must not run")
                with pytest.raises(RuntimeError, match="one counterfactual prompt at a time"):
                    tn.score_neurons(model, pairs, **inner)
                tn.evaluate(model, pairs)
    for choice in choices:  # nothing is left of what was open
        tn.score_neurons(model, pairs, **choice)


def test_items_without_counterfactual_are_refused_inside_an_intervention(tokenizer: Any):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    items = [Item(4, (5, 6), (8,), ()), Item(7, (5, 7), (8,), ())]
    with (
        pytest.raises(ValueError, match="Example 4 has no counterfactual prompt"),
        tn.deactivate(model, [(0, 3)], ablation="resample"),
    ):
        tn.score_items(model, items)
