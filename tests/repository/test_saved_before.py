"""Files that version 0.1.0 wrote load, and still mean the same."""

import warnings
from pathlib import Path

import pytest
import torch

import tl_taskneurons as tn

FOLDER = Path(__file__).parents[1] / "saved_before"
NAMES = ["mini-llama", "mini-bloom"]


@pytest.mark.parametrize("name", NAMES)
def test_old_scores_and_sets_load_and_agree_with_new_ones(name: str):
    scores = tn.NeuronScores.load(FOLDER / f"{name}-scores.safetensors")
    neurons = tn.NeuronSet.load(FOLDER / f"{name}-neurons.safetensors")
    model, task = tn.load_model(name), tn.load_tasks("mini", ["mini_film"])[0]
    again = tn.score_neurons(model, task, limit=8)
    torch.testing.assert_close(scores.values, again.values, rtol=1e-4, atol=1e-9)
    assert torch.equal(neurons.mask, again.top(n=5).mask)


@pytest.mark.parametrize("name", NAMES)
def test_an_old_set_silences_and_an_old_delta_trains(name: str):
    neurons = tn.NeuronSet.load(FOLDER / f"{name}-neurons.safetensors")
    delta = tn.NeuronDelta.load(FOLDER / f"{name}-delta.safetensors")
    model, task = tn.load_model(name), tn.load_tasks("mini", ["mini_film"])[0]
    plain = tn.evaluate_items(model, task, limit=8)["loss"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what the old fingerprint covered
        with tn.deactivate(model, neurons):
            silenced = tn.evaluate_items(model, task, limit=8)["loss"]
        with delta.applied(model):
            trained = tn.evaluate_items(model, task, limit=8)["loss"]
    after = tn.evaluate_items(model, task, limit=8)["loss"]
    assert (silenced != plain).any()
    assert (trained != plain).any()
    assert after.equals(plain)
