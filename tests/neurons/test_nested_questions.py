"""Scores inside an intervention that is still open, and what sets know of their reliability."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tl_taskneurons as tn
from tests import helpers
from tl_taskneurons.neurons.methods import METHODS
from tl_taskneurons.neurons.selection import layer_table

EXAMPLES = tuple(
    tn.Example("abc" * (i % 3 + 1) + str(i), f"ans{i}", counterfactual="zq" * (i % 4 + 1) + str(i))
    for i in range(8)
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    return helpers.both_classes(helpers.tiny_hf("llama"), helpers.tiny_tokenizer(folder))


@pytest.fixture
def model(models: dict[str, Any]) -> Any:
    return models["bridge"]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("ablation", ["counterfactual", "resample"])
def test_effects_beside_silenced_neurons_are_those_of_silencing_more(model: Any, ablation: str):
    task = tn.Task("unequal", EXAMPLES, EXAMPLES, metric="exact_match")
    first = tn.NeuronSet.from_pairs(model, [(0, j) for j in range(40)])
    more = [(1, j) for j in range(4)]

    def loss(neurons: tn.NeuronSet) -> float:
        with tn.deactivate(model, neurons, ablation=ablation):
            return tn.evaluate(model, task, split="train", metric="loss")["value"].item()

    with tn.deactivate(model, first, ablation=ablation):
        scores = tn.score_neurons(
            model, task, "exact", neurons=more, ablation=ablation, signed=True
        )
    effects = [
        loss(first | tn.NeuronSet.from_pairs(model, [neuron])) - loss(first) for neuron in more
    ]
    assert [scores[neuron] for neuron in more] == pytest.approx(effects, abs=1e-5)


def test_divergence_inside_an_intervention_is_from_the_undisturbed_model(model: Any):
    task = tn.Task("plain", EXAMPLES, EXAMPLES, metric="exact_match")
    first = tn.NeuronSet.from_pairs(model, [(0, j) for j in range(40)])
    more = tn.NeuronSet.from_pairs(model, [(1, 3)])

    def divergence(neurons: tn.NeuronSet) -> float:
        with tn.deactivate(model, neurons):
            return tn.evaluate(model, task, split="train", metric="kl")["value"].item()

    with tn.deactivate(model, first):
        scores = tn.score_neurons(model, task, "exact", neurons=more, metric="kl", signed=True)
    effect = divergence(first | more) - divergence(first)
    assert scores[1, 3] == pytest.approx(effect, abs=1e-6) and abs(effect) > 1e-5
    with (
        pytest.raises(RuntimeError, match="its weights are changed"),
        tn.deactivate(model, first, how="weights"),
    ):
        tn.score_neurons(model, task, "exact", neurons=more, metric="kl")


def test_reliability_of_one_side_is_that_of_this_side(model: Any):
    scores = tn.score_neurons(
        model, helpers.toy_task(), "grad_act_mean", signed=True, per_example=True
    ).side("help")
    values = torch.randn(scores.values.shape, generator=torch.Generator().manual_seed(0))
    opposite = replace(scores, examples=torch.stack([values, -values]))
    # What helps in one half hurts in the other, so nothing of a set would return.
    assert opposite.split_half(n=10) == 0.0
    assert replace(opposite, info={**scores.info, "side": "both"}).split_half(n=10) == 1.0


def test_sets_by_entropy_do_not_carry_the_plain_sets_reliability(model: Any):
    task = helpers.toy_task()
    other = replace(task, name="other", train=tuple(
        replace(example, input=example.input + "k") for example in task.train
    ))  # fmt: skip
    scores = {
        each.name: tn.score_neurons(model, each, "frequency", per_example=True)
        for each in (task, other)
    }
    assert "split_half" in scores["other"].top(fraction=0.3).info
    sets = tn.select(scores, "lape", fraction=0.3)
    assert all("split_half" not in chosen.info for chosen in sets.values())


def test_shares_of_signed_scores_are_shares(model: Any):
    scores = tn.score_neurons(model, helpers.toy_task(), signed=True)
    table = layer_table({"toy": scores}, {"toy": scores.top(n=5)})
    assert table["score_share"].between(0, 1).all()
    assert table["score_share"].sum() == pytest.approx(1)


KINDS = ["bridge", pytest.param("hooked", marks=pytest.mark.needs("hooked"))]
TASK = tn.Task("unequal", EXAMPLES, EXAMPLES, metric="exact_match")


def empty(model: Any) -> tn.NeuronSet:
    return tn.NeuronSet(
        torch.zeros(tn.view(model).shape, dtype=torch.bool), tn.view(model).fingerprint
    )


@pytest.mark.filterwarnings("ignore:The set to silence is empty")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", list(METHODS))
def test_scores_do_not_see_the_counterfactual_run(models: dict[str, Any], method: str, kind: str):
    model = models[kind]
    asked: dict[str, Any] = {"neurons": [(0, 3), (1, 5)]} if METHODS.find(method).neurons else {}
    task = helpers.toy_task() if METHODS.find(method).whole else TASK
    bare = tn.score_neurons(model, task, method, steps=2, **asked)
    with tn.deactivate(model, empty(model), ablation="resample"):
        inside = tn.score_neurons(model, task, method, steps=2, **asked)
    torch.testing.assert_close(inside.values, bare.values, rtol=1e-4, atol=1e-7)
    assert bare.values.count_nonzero() > 0


@pytest.mark.filterwarnings("ignore:The set to silence is empty")
@pytest.mark.parametrize("kind", KINDS)
def test_means_and_training_do_not_see_the_counterfactual_run(models: dict[str, Any], kind: str):
    model = models[kind]
    setting = tn.Training(lr=1e-2, steps=2)
    means = tn.activation_mean(model, TASK)
    delta = tn.finetune(model, TASK, [(0, 3), (1, 5)], setting)
    with tn.deactivate(model, empty(model), ablation="resample"):
        assert tn.activation_mean(model, TASK).equal(means)
        inside = tn.finetune(model, TASK, [(0, 3), (1, 5)], setting)
    assert all(inside.trained[name].equal(value) for name, value in delta.trained.items())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ablation", ["counterfactual", "resample"])
def test_exact_scores_inside_are_those_of_silencing_inside(
    models: dict[str, Any], ablation: str, kind: str
):
    model, neuron = models[kind], (0, 3)  # below the neurons that take other activations
    upper = tn.NeuronSet.from_pairs(model, [(1, j) for j in range(40)])

    def loss() -> float:
        return tn.evaluate(model, TASK, split="train", metric="loss")["value"].item()

    with tn.deactivate(model, upper, ablation=ablation):
        scores = tn.score_neurons(model, TASK, "exact", neurons=[neuron], signed=True)
        plain = loss()
        with tn.deactivate(model, [neuron]):
            effect = loss() - plain
    assert scores[neuron] == pytest.approx(effect, abs=1e-5) and abs(effect) > 1e-4
