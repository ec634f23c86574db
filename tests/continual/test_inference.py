"""Weights of tasks, mixtures against dense computations, nearest tasks, and O-LoRA's penalty."""

from contextlib import nullcontext
from typing import Any

import helpers
import micro
import pytest
import torch
import transformers
from sequence_tasks import learnt, mlp_weights, three_tasks

from tl_taskneurons.continual.features import (
    TaskStatistics,
    distances,
    input_features,
    nearest_task,
    task_weights,
)
from tl_taskneurons.continual.inference import NearestTask, Routed, TaskWeighted
from tl_taskneurons.continual.learners import deltas_of
from tl_taskneurons.continual.lora_learners import (
    LoraLearner,
    OrthogonalLearner,
    overlap_penalty,
    rank_of,
)
from tl_taskneurons.continual.neuron_learner import NeuronLearner
from tl_taskneurons.loading.models import load_model
from tl_taskneurons.training.deltas import LoraDelta


@pytest.fixture
def model(tokenizer: Any) -> Any:
    return micro.lens("llama", "bridge", tokenizer)


def test_weights_of_seen_tasks_sum_to_one_and_follow_the_cosines():
    vectors = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]), torch.tensor([3.0, 3.0])]
    weights = task_weights(torch.tensor([5.0, 0.0]), vectors)
    expected = torch.tensor([1.0, 0.0, 0.5**0.5]).exp()
    assert torch.allclose(weights, expected / expected.sum())
    sharp = task_weights(torch.tensor([5.0, 0.0]), vectors, temperature=0.01)
    assert sharp[0] > 0.999


def test_features_are_the_mean_last_hidden_states_of_the_prompt(model: Any):
    task = three_tasks()[0]
    found = input_features(model, task)
    assert found.shape == (8, model.cfg.d_model)
    prompt = f"one\nInput: {task.train[3].input}\nOutput:"
    ids = model.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    entering: list[torch.Tensor] = []
    handle = model.unembed.register_forward_pre_hook(lambda _m, args: entering.append(args[0]))
    with torch.no_grad():
        model(torch.tensor([[model.tokenizer.bos_token_id, *ids]]))
    handle.remove()
    assert torch.allclose(found[3], entering[0][0].mean(0), atol=1e-5)


def test_features_of_a_bridge_that_mixes_dtypes_without_a_cache(tokenizer: Any):
    config = transformers.Olmo2Config(
        hidden_size=32, num_hidden_layers=2, intermediate_size=48, num_attention_heads=4,
        vocab_size=helpers.VOCAB, pad_token_id=258, eos_token_id=257,
    )  # fmt: skip
    model = load_model(transformers.Olmo2ForCausalLM(config), tokenizer=tokenizer, dtype="bfloat16")
    assert input_features(model, three_tasks()[0]).isfinite().all()


@pytest.mark.parametrize(("reading", "total"), [("literal", 1.0), ("delta", 3.0), ("stages", 3.0)])
def test_w_ncft_visits_each_task_with_its_own_weights(
    model: Any, reading: Any, total: float, monkeypatch: pytest.MonkeyPatch
):
    setting, history = learnt(model, NeuronLearner(0.4))
    inference = TaskWeighted(reading)
    used: list[list[float]] = []

    def watched(_view: Any, _deltas: Any, weights: list[float], _reading: str) -> Any:
        used.append(weights)
        return nullcontext()

    monkeypatch.setattr("tl_taskneurons.continual.inference.mixed", watched)
    groups = list(inference.groups(setting, NeuronLearner(0.4), history, ["one", "three"]))
    assert [dict(group.inputs) for group in groups] == [{"one": range(4)}, {"three": range(4)}]
    for weights, name in zip(used, ("one", "three"), strict=True):
        assert sum(weights) == pytest.approx(total)
        assert weights.index(max(weights)) == ("one", "two", "three").index(name)
    # Before the second and third stage there is one task, which gets it all.
    assert inference.weights(setting, history[:1], "three").tolist() == [1.0]


def test_distances_match_the_formula():
    generator = torch.Generator().manual_seed(0)
    groups = [torch.randn(50, 3, generator=generator) + shift for shift in (0.0, 4.0)]
    known = {str(i): TaskStatistics.of(group) for i, group in enumerate(groups)}
    pooled = torch.stack([group.mT.cov() * 49 for group in groups]).sum(0) / 98
    share = 3 / 103
    shrunk = (1 - share) * pooled + share * torch.eye(3) * pooled.diagonal().mean()
    x = torch.randn(5, 3, generator=generator)
    found = distances(x, known)
    for i, group in enumerate(groups):
        away = x - group.mean(0)
        expected = (away @ shrunk.inverse() * away).sum(1)
        assert torch.allclose(found[:, i], expected, rtol=1e-4)


def test_the_nearest_task_is_the_right_one_on_separable_data():
    generator = torch.Generator().manual_seed(0)
    # Wide along the first axis, so that the nearest mean in plain distance is often wrong.
    spread = torch.tensor([20.0, 1.0])
    shifts = [torch.tensor([0.0, 0.0]), torch.tensor([5.0, 8.0]), torch.tensor([0.0, 16.0])]

    def draw() -> list[torch.Tensor]:
        return [torch.randn(200, 2, generator=generator) * spread + shift for shift in shifts]

    known = {str(i): TaskStatistics.of(group) for i, group in enumerate(draw())}
    fresh = draw()
    for i, group in enumerate(fresh):
        assert (nearest_task(group, known) == i).float().mean() > 0.99
    plain = torch.cdist(fresh[0], torch.stack(shifts)).argmin(1)
    assert (plain == 0).float().mean() < 0.9


def test_epi_answers_each_input_with_the_nearest_task_s_piece(model: Any):
    setting, history = learnt(model, LoraLearner(2), private=True)
    groups = list(NearestTask().groups(setting, LoraLearner(2), history, ["one", "two"]))
    known = {result.task: setting.statistics(result.task) for result in history}
    for name in ("one", "two"):
        nearest = nearest_task(setting.features(name, "test"), known)
        for k, group in enumerate(groups):
            assert list(group.inputs[name]) == (nearest == k).nonzero().flatten().tolist()
        # The instruction is part of the prompt, so that these tasks are easy to tell apart.
        assert (nearest == list(known).index(name)).all()


def test_routing_covers_every_input_once_and_becomes_epi_when_cold(model: Any):
    learner = NeuronLearner(0.4)
    setting, history = learnt(model, learner, private=True)
    for temperature in (100.0, 0.1, 1e-6):
        groups = list(Routed(temperature).groups(setting, learner, history, ["one", "two"]))
        for name in ("one", "two"):
            assert sorted(i for group in groups for i in group.inputs.get(name, ())) == [0, 1, 2, 3]
    features = setting.features("one", "test")
    known = {result.task: setting.statistics(result.task) for result in history}
    weights = Routed(1.0).weights(features, known)
    assert torch.allclose(weights.sum(1), torch.ones(4))
    cold = Routed(1e-6).weights(features, known)
    assert torch.equal(cold.argmax(1), nearest_task(features, known))
    assert torch.allclose(cold.amax(1), torch.ones(4))


@pytest.mark.parametrize("d", [16, 512])
def test_routing_is_as_sure_in_wide_models_as_in_narrow_ones(d: int):
    generator = torch.Generator().manual_seed(0)
    shifts = torch.eye(d)[:3] * 8

    def draw() -> list[torch.Tensor]:
        return [torch.randn(100, d, generator=generator) + shift for shift in shifts]

    known = {str(i): TaskStatistics.of(group) for i, group in enumerate(draw())}
    for i, group in enumerate(draw()):
        own = Routed().weights(group, known)[:, i]
        assert 0.9 < own.mean() < 1.0


def test_the_penalty_matches_the_formula():
    generator = torch.Generator().manual_seed(0)
    olds = [{"0/W_in": torch.randn(5, 2, generator=generator)} for _ in range(2)]
    new = {"0/W_in": torch.randn(5, 3, generator=generator)}
    expected = 0.0
    for old in olds:
        for i in range(2):
            for j in range(3):
                expected += abs(float(old["0/W_in"][:, i] @ new["0/W_in"][:, j]))
    assert float(overlap_penalty(olds, new)) == pytest.approx(expected, rel=1e-5)


def test_o_lora_keeps_earlier_adapters_and_becomes_orthogonal_to_them(tokenizer: Any):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    overlaps = {}
    for penalty in (0.0, 5.0):
        setting, history = learnt(model, OrthogonalLearner(2, penalty))
        first, second, _ = deltas_of(history, LoraDelta)
        assert first.factors.keys() == second.factors.keys()
        olds = [{name: down for name, (down, _) in first.factors.items()}]
        overlaps[penalty] = float(
            overlap_penalty(olds, {name: down for name, (down, _) in second.factors.items()})
        )
    assert overlaps[5.0] < 0.9 * overlaps[0.0]


def test_o_lora_s_state_is_the_base_and_all_adapters(model: Any):
    learner = OrthogonalLearner(2)
    base = mlp_weights(model)
    setting, history = learnt(model, learner)
    with learner.state(setting, history):
        for name, value in mlp_weights(model).items():
            if "W_" not in name:
                continue
            change = sum(
                delta.scaling * (delta.factors[name][0] @ delta.factors[name][1])
                for delta in deltas_of(history, LoraDelta)
            )
            assert isinstance(change, torch.Tensor)
            flip = name.endswith(("W_in", "W_gate"))
            expected = base[name] + (change.mT if flip else change)
            assert torch.allclose(value, expected, atol=1e-6)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_adapters_have_about_as_many_weights_as_the_neurons(model: Any, share: float):
    setting, (result, *_) = learnt(model, LoraLearner(share=share))
    _, (chosen, *_) = learnt(model, NeuronLearner(share))
    assert any("attn" in name for name in deltas_of([result], LoraDelta)[0].factors)
    rank = rank_of(LoraLearner(share=share), setting)
    of_one_rank = result.delta.n_parameters / rank
    assert abs(result.delta.n_parameters - chosen.delta.n_parameters) <= of_one_rank
    assert rank_of(OrthogonalLearner(share=share), setting) == rank
