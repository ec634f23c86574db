"""A learned mask: planted neurons found exactly, and what it is paid for."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from micro import lens, snapshot, unchanged, words

import tl_taskneurons as tn
from tl_taskneurons.analysis.mask import _Lesson
from tl_taskneurons.analysis.probe import Probe
from tl_taskneurons.builtin.planted import planted_model
from tl_taskneurons.models.forward import frozen
from tl_taskneurons.neurons.settings import ScoreSettings

QUESTION = tn.Question(n_score=16, n_held=16, n_spared=16)
SHORT = tn.MaskTraining(steps=16, rate=0.8)
HOOKED = pytest.param("hooked", marks=pytest.mark.needs("hooked"))


def planted(gated: bool, kind: Any = "bridge", overlap: float = 0.0) -> Any:
    made = planted_model(2, 6, overlap=overlap, gated=gated, n_layers=2, d_mlp=24, distractors=8)
    return tn.load_model(made.model, tokenizer=made.tokenizer, device="cpu", kind=kind), made


@pytest.fixture(scope="module")
def gated() -> Any:
    return planted(gated=True)


@pytest.mark.parametrize("kind", ["bridge", HOOKED])
@pytest.mark.parametrize("is_gated", [True, False])
def test_the_planted_neurons_and_no_others_are_silenced(is_gated: bool, kind: str):
    model, made = planted(is_gated, kind)
    task, other = made.tasks
    before = snapshot(model)
    found = tn.learn_mask(model, task, other, training=SHORT, question=QUESTION)
    assert unchanged(model, before)
    truth = made.truth[task.name]
    assert torch.equal(found.top(threshold=0.5).mask, truth)
    assert found.values[truth].min() > 0.9 and found.values[~truth].max() < 0.1
    assert (found.method, found.name) == ("learned_mask", task.name)


@pytest.mark.parametrize("question", [
    {"metric": "logit_diff"}, {"metric": "prob", "ablation": "mean"}, {"ablation": "resample"},
    {"positions": "last_prompt"},
])  # fmt: skip
def test_any_question(question: dict[str, Any], gated: Any):
    model, made = gated
    task, other = made.tasks
    found = tn.learn_mask(
        model, task, other, training=SHORT, question=replace(QUESTION, **question)
    )
    chosen, truth = found.top(threshold=0.5).mask, made.truth[task.name]
    assert chosen.any() and not (chosen & ~truth).any()


@pytest.mark.parametrize("positions", ["all", "last_prompt"])
def test_checkpointing_learns_the_same_mask(gated: Any, positions: str):
    model, made = gated
    task, other = made.tasks
    question = replace(QUESTION, ablation="resample", positions=positions)

    def learned() -> torch.Tensor:
        training = replace(SHORT, steps=4)
        return tn.learn_mask(model, task, other, training=training, question=question).values

    bare = learned()
    with tn.gradient_checkpointing(model):
        torch.testing.assert_close(learned(), bare)


def test_what_both_tasks_need_is_spared(gated: Any):
    """Half of each task's neurons are common; without a price for harm they are taken as well."""
    model, made = planted(gated=True, overlap=0.5)
    task, other = made.tasks
    shared = made.truth[task.name] & made.truth[other.name]
    masks = [
        tn.learn_mask(model, task, other, question=QUESTION, training=replace(SHORT, harm=harm))
        for harm in (0.0, 30.0)
    ]
    assert masks[0].values[shared].min() > 0.5
    assert masks[1].values[shared].max() < 0.5 < masks[1].values.max()
    dear = tn.learn_mask(model, task, other, question=QUESTION, training=replace(SHORT, price=9.0))
    assert dear.values.max() < 0.01  # nothing is worth its price


def test_the_search_takes_a_ranking_and_finds_the_planted_neurons(gated: Any):
    model, made = gated
    task, other = made.tasks
    mask = tn.learn_mask(model, task, other, training=SHORT, question=QUESTION)
    limits = tn.Limits(goal=0.999, budget=12, outside=(0.05,), checks=2)
    question = replace(QUESTION, metric="logit_diff")
    found = tn.find_neurons(model, task, other, limits=limits, question=question, ranking=mask)
    assert found.reached and torch.equal(found.neurons.mask, made.truth[task.name])
    assert found.neurons.info["ranking"] == "learned_mask"
    some = replace(question, layers=[1])
    assert len(made.truth[task.name][1].nonzero())
    with pytest.warns(Warning, match="wasn't reached"):
        upper = tn.find_neurons(model, task, other, limits=limits, question=some, ranking=mask)
    assert upper.neurons.per_layer[0] == 0 and len(upper.neurons)
    signed = tn.score_neurons(model, task, signed=True, limit=4)
    with pytest.raises(ValueError, match="has signs; give one side of it"):
        tn.find_neurons(model, task, other, question=QUESTION, ranking=signed)
    foreign = replace(mask, fingerprint="another")
    with pytest.raises(ValueError, match="belongs to model another"):
        tn.find_neurons(model, task, other, question=QUESTION, ranking=foreign)


def test_the_gates_gradient_is_the_effect_of_silencing_a_little(
    gated: Any, monkeypatch: pytest.MonkeyPatch
):
    """Against finite differences, through a whole neuron's share, of task and harm together."""
    model, made = gated
    task, other = made.tasks
    lesson = _Lesson(Probe(model, task, [other], QUESTION), SHORT, tn.view(model))
    items, rivals = lesson.own[:3], lesson.rivals[:3]
    start = torch.full(tn.view(model).shape, 0.2)

    def cost(gates: torch.Tensor) -> torch.Tensor:
        paid.clear()
        for part, settings in ((items, lesson.asked), (rivals, lesson.kept)):
            lesson._pay(gates, part, settings)
        return sum((part.detach().sum() / 3 for part in paid), torch.zeros(()))

    paid: list[torch.Tensor] = []
    plain = lesson._costs

    def noted(values: torch.Tensor, settings: ScoreSettings) -> torch.Tensor:
        paid.append(plain(values, settings))
        return paid[-1]

    monkeypatch.setattr(lesson, "_costs", noted)
    with frozen(model):
        gates = start.clone().requires_grad_()
        cost(gates)
        assert gates.grad is not None
        for layer, j in [*made.truth[task.name].nonzero().tolist()[:3], [0, 0]]:
            step = torch.zeros_like(start)
            step[layer, j] = 0.01
            up, down = (cost((start + s * step).requires_grad_()) for s in (1, -1))
            expected = float(up - down) / 0.02
            assert float(gates.grad[layer, j]) == pytest.approx(expected, rel=0.05, abs=2e-3)


def test_bad_input(gated: Any, tokenizer: Any):
    model, made = gated
    task, other = made.tasks
    with pytest.raises(ValueError, match="There are no others"):
        tn.learn_mask(model, task, [])
    with pytest.raises(ValueError, match="is among the others"):
        tn.learn_mask(model, task, [task, other])
    wrongs: list[tuple[dict[str, Any], str]] = [
        ({"steps": 0}, "steps is 0"), ({"price": -1.0}, "price is -1.0"),
        ({"rate": float("nan")}, "rate is nan"), ({"n_batch": 0}, "n_batch is 0"),
    ]  # fmt: skip
    for wrong, message in wrongs:
        with pytest.raises(ValueError, match=message):
            tn.MaskTraining(**wrong)
    for candidates, layers in (([], None), ([(0, 1)], [1])):
        with pytest.raises(ValueError, match=f"candidates has {len(candidates)} neurons, none"):
            tn.learn_mask(
                model, task, other, question=replace(QUESTION, layers=layers), candidates=candidates
            )
    with pytest.raises(ValueError, match="so the model can't do it"):
        tn.learn_mask(lens("gpt2", "bridge", tokenizer), words(12), replace(words(12), name="w"))
