"""What a stage gets, by hand: how many updates, and which neurons."""

from dataclasses import replace
from typing import Any

import micro
import pytest
import torch
from sequence_tasks import letters, three_tasks

from tl_taskneurons.continual.learners import Setting, StageResult
from tl_taskneurons.continual.neuron_learner import NeuronLearner
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.tasks.task import Tasks
from tl_taskneurons.training.deltas import NeuronDelta
from tl_taskneurons.training.settings import Training
from tl_taskneurons.training.slices import Slices


@pytest.mark.parametrize(
    ("training", "steps"),
    [
        (Training(epochs=10, batch_size=16), 10),  # all eight examples are in each update
        (Training(epochs=10, batch_size=4, accumulate=4), 10),
        (Training(epochs=3, batch_size=8), 3),
        (Training(epochs=3, batch_size=3), 8),
        (Training(epochs=10, batch_size=16, steps=7), 7),
    ],
)
def test_a_stage_passes_over_its_examples_as_often_as_asked(training: Training, steps: int):
    task = letters("one", ("p", "q"), n=8)
    setting = Setting(view(micro.one_layer()), Tasks([task]), training)
    assert setting.budget(task).steps == steps


def scored(*values: float) -> NeuronScores:
    return NeuronScores(torch.tensor([values]), "m", "new", "grad_act")


def earlier(*values: float, trained: tuple[int, ...] = ()) -> StageResult:
    mask = torch.zeros(1, len(values), dtype=torch.bool)
    mask[0, list(trained)] = True
    neurons = NeuronSet(mask, "m")
    nothing = Slices(neurons, {})
    return StageResult("old", NeuronDelta(neurons, nothing, nothing), torch.tensor([values]))


def test_a_contrast_never_gives_what_it_leaves_out():
    history = [earlier(9.0, 8.0, 1.0, 1.0)]
    scores = scored(4.0, 3.0, 2.0, 1.0)
    learner = NeuronLearner(0.5, contrast="exclude")
    assert list(learner.choose(scores, history)) == [(0, 2), (0, 3)]
    assert list(learner.choose(scores, [])) == [(0, 0), (0, 1)]
    with pytest.raises(
        ValueError, match="'new' needs 3 neurons, but contrast 'exclude' leaves 1 of 4 after 1 task"
    ):
        replace(learner, fraction=0.75).choose(scores, history)


def test_a_contrast_and_strict_isolation_leave_what_neither_takes():
    history = [earlier(9.0, 1.0, 1.0, 1.0, trained=(1,))]
    learner = NeuronLearner(0.25, isolation="strict", contrast="exclude")
    assert list(learner.choose(scored(4.0, 3.0, 2.0, 1.0), history)) == [(0, 2)]
    with pytest.raises(ValueError, match="strict isolation with contrast 'exclude' leaves 1 of 4"):
        replace(learner, fraction=0.75).choose(scored(4.0, 3.0, 2.0, 1.0), history)


def test_soft_isolation_scales_updates_by_earlier_relevance(tokenizer: Any):
    model = micro.lens("llama", "bridge", tokenizer)
    learner = NeuronLearner(0.5, isolation="soft", strength=2.0)
    tasks = three_tasks()
    setting = Setting(view(model), tasks, Training(lr=1e-3, steps=1, batch_size=8, clip=None))
    first = learner.learn(setting, (), tasks[0])
    scale = learner.update_scale([first])
    assert scale is not None
    assert first.relevance is not None
    r = first.relevance / first.relevance.mean()
    assert torch.allclose(scale, 1 / (1 + 2 * r))
    soft = learner.learn(setting, [first], tasks[1]).delta
    plain = replace(learner, isolation="none").learn(setting, [first], tasks[1]).delta
    assert isinstance(soft, NeuronDelta)
    assert isinstance(plain, NeuronDelta)
    assert soft.neurons == plain.neurons
    # One step of AdamW moves a weight by the learning rate, whatever the gradient's size.
    for name, change in soft.change().items():
        layer, part = name.split("/")
        factor = scale[int(layer)][soft.neurons.mask[int(layer)]]
        factor = factor[:, None] if part == "W_out" else factor
        assert torch.allclose(change, factor * plain.change()[name], atol=2e-5)


def test_a_budget_by_mass_is_the_fewest_neurons_that_hold_it():
    learner = NeuronLearner(mass=0.5)
    scores = torch.tensor([[4.0, 1.0, 0.0], [3.0, 1.0, 1.0]])
    assert learner.count(scores) == 2
    assert replace(learner, mass=0.4).count(scores) == 1
    assert replace(learner, mass=1.0).count(scores) == 5
    assert replace(learner, mass=None, fraction=0.5).count(scores) == 3
