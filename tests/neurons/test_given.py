"""What has one meaning is taken: pairs as a set, one of several tasks, sets and scores in lists."""

import helpers
import micro
import pandas as pd
import pytest
import torch

from tl_taskneurons import (
    NeuronScores,
    NeuronSet,
    Tasks,
    Training,
    deactivate,
    deactivation_items,
    evaluate,
    explain_neurons,
    finetune,
    overlap,
    score_neurons,
    select,
)

KINDS = ("bridge", "hooked") if helpers.HAS_HOOKED else ("bridge",)


@pytest.fixture(params=KINDS)
def model(request, tokenizer):
    return micro.lens("llama", request.param, tokenizer)


def scores(*values: float, name: str = "t") -> NeuronScores:
    return NeuronScores(torch.tensor([values, values]), "m", name, "grad_act")


def test_a_set_iterates_over_its_neurons_in_order():
    neurons = scores(0.0, 3.0, 1.0).top(3)
    assert list(neurons) == [(0, 1), (0, 2), (1, 1)]
    assert all(pair in neurons for pair in neurons)
    assert list(NeuronSet(torch.zeros(2, 3, dtype=torch.bool), "m")) == []


def test_scores_are_read_by_layer_and_neuron():
    found = scores(0.0, 3.0, 1.0)
    assert found[1, 1] == 3.0 and found[0, 2] == 1.0
    with pytest.raises(ValueError, match=r"No neuron \(0, 3\) .* 2 layers of 3"):
        found[0, 3]
    with pytest.raises(ValueError, match="count from 0"):
        found[-1, 0]


def test_a_number_alone_is_how_many():
    assert scores(0.0, 3.0, 1.0).top(2) == scores(0.0, 3.0, 1.0).top(n=2)
    with pytest.raises(ValueError, match="exactly one of"):
        scores(0.0, 1.0).top(2, fraction=0.1)


def test_pairs_are_a_set(model):
    task, pairs = micro.words(), [(1, 3), (0, 10)]
    neurons = NeuronSet.from_pairs(model, pairs)
    with deactivate(model, neurons):
        expected = evaluate(model, task)
    with deactivate(model, pairs):
        pd.testing.assert_frame_equal(evaluate(model, task), expected)
    training = Training(lr=1e-2, steps=1)
    deltas = [finetune(model, task, some, training) for some in (pairs, neurons)]
    assert deltas[0].neurons == deltas[1].neurons == neurons
    exact = [
        score_neurons(model, task, "exact", neurons=some, limit=2) for some in (pairs, neurons)
    ]
    assert torch.equal(exact[0].values, exact[1].values)
    shown = explain_neurons(model, neurons, task)
    assert [one.neuron for one in shown] == [(0, 10), (1, 3)]


def test_the_only_task_is_the_task(model):
    task = micro.words()
    one, same = (score_neurons(model, given) for given in (task, Tasks([task])))
    assert torch.equal(one.values, same.values) and same.name == task.name


def test_lists_are_known_by_their_names(model):
    a, b = scores(3.0, 2.0, 0.0, name="a"), scores(0.0, 2.0, 3.0, name="b")
    sets = select([a, b], fraction=0.5)
    assert sets == select({"a": a, "b": b}, fraction=0.5)
    assert select(a, fraction=0.5) == {"a": sets["a"]}
    pd.testing.assert_frame_equal(overlap(list(sets.values())), overlap(sets))
    with pytest.raises(ValueError, match=r"named \['a', 'a'\]; names must"):
        overlap([sets["a"], sets["a"]])
    own = score_neurons(model, micro.words()).top(fraction=0.1)
    found = deactivation_items(model, micro.words(), [own], controls=1)
    assert set(found["silenced"]) == {"", "words"}


def test_a_mask_of_another_shape_is_no_set_of_the_model(model):
    own = score_neurons(model, micro.words()).top(fraction=0.1)
    cut = NeuronSet(own.mask[:1], own.fingerprint, "cut")
    with pytest.raises(ValueError, match=r"'cut'.* has shape \(1, \d+\); .* needs \(\d, \d+\)"):
        deactivate(model, cut).__enter__()
