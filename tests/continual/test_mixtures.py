"""Mixtures of what tasks changed: against dense computations, and against whole models."""

from dataclasses import replace
from typing import Any

import helpers
import micro
import pandas as pd
import pytest
import torch
from sequence_tasks import learnt, mlp_weights

from tl_taskneurons.continual.inference import Routed
from tl_taskneurons.continual.learners import deltas_of
from tl_taskneurons.continual.mixtures import mixed, mixed_by_example
from tl_taskneurons.continual.neuron_learner import NeuronLearner
from tl_taskneurons.evaluation.evaluate import evaluate_items
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.interventions import deactivate
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.tasks.task import Example, Task
from tl_taskneurons.training.deltas import NeuronDelta
from tl_taskneurons.training.slices import read_slices

WEIGHTS = torch.tensor([
    [1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 0.0], [0.25, 0.0, 0.75], [0.5, 0.25, 0.25],
    [0.0, 0.0, 1.0],
])  # fmt: skip


@pytest.fixture
def model(tokenizer: Any) -> Any:
    return micro.lens("llama", "bridge", tokenizer)


def changed_at_random(model: Any, n: int = 3, width: int = 20) -> list[NeuronDelta]:
    """Deltas of sets that overlap, with large changes of every part; the last has one layer only.

    ``width`` is the size of a set in each layer.
    """
    model_view = view(model)
    generator = torch.Generator().manual_seed(0)
    deltas = []
    for task in range(n):
        scores = torch.rand(model_view.shape, generator=generator)
        mask = scores >= scores.topk(width, dim=1).values[:, -1:]
        mask[1:] &= task < n - 1
        neurons = NeuronSet(mask, model_view.fingerprint, f"task {task}")
        base = read_slices(model_view, neurons)
        trained = base.map(
            lambda value: value.float() + 0.3 * torch.randn(value.shape, generator=generator)
        )
        deltas.append(NeuronDelta(neurons, base, trained))
    return deltas


def one_by_one(model: Any, task: Task, deltas: list[NeuronDelta], weights: Any) -> pd.DataFrame:
    """Every example alone, in a model with its weights."""
    frames = []
    for i, row in enumerate(weights.tolist()):
        part = replace(task, test=task.test[i : i + 1])
        with mixed(view(model), deltas, row, "stages"):
            frames.append(evaluate_items(model, part, max_new_tokens=6).assign(item=i))
    return pd.concat(frames, ignore_index=True)


def together(model: Any, task: Task, deltas: list[NeuronDelta], weights: Any) -> pd.DataFrame:
    with mixed_by_example(view(model), deltas, weights):
        return evaluate_items(model, task, max_new_tokens=6)


def test_silenced_weights_are_not_mixed(model: Any):
    deltas = changed_at_random(model, n=2)
    before = mlp_weights(model)
    with deactivate(model, deltas[0].neurons, how="weights"):
        for state in (
            mixed(view(model), deltas, [1.0, 0.0], "delta"),
            mixed_by_example(view(model), deltas, torch.ones(2, 2)),
        ):
            with pytest.raises(RuntimeError, match="are changed for a while"), state:
                pass
    assert all(torch.equal(after, before[name]) for name, after in mlp_weights(model).items())


def same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert found["prediction"].tolist() == expected["prediction"].tolist()
    assert found["score"].tolist() == expected["score"].tolist()
    assert found["loss"].tolist() == pytest.approx(expected["loss"].tolist(), rel=1e-5, abs=1e-5)


def ranking() -> Task:
    """Six examples of several lengths, with labels of two tokens and more."""
    examples = tuple(Example("x" * (i % 3 + 1) + str(i), ("odd", "even")[i % 2]) for i in range(6))
    return Task("toy", examples, examples, labels=("odd", "even"))


def writing() -> Task:
    return replace(micro.words(6), metric="rougeL")


KINDS = [
    pytest.param(name, kind, marks=[pytest.mark.needs("hooked")] if kind == "hooked" else [])
    for kind, names in (
        ("bridge", ("llama", "gpt2", "bloom", "gpt_neox", "gemma2", "phi3", "opt")),
        ("hooked", ("llama", "gpt2")),
    )
    for name in names
]


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_each_example_is_answered_as_by_a_model_with_its_own_mixture(
    name: str, kind: str, tokenizer: Any
):
    model = micro.lens(name, kind, tokenizer)
    deltas = changed_at_random(model)
    tasks = [ranking(), writing()]
    base = evaluate_items(model, tasks[0])
    before = micro.snapshot(model)
    for task in tasks:
        found = together(model, task, deltas, WEIGHTS)
        same(found, one_by_one(model, task, deltas, WEIGHTS))
        if task is tasks[0]:
            assert found["loss"][2] == pytest.approx(base["loss"][2], rel=1e-5)  # no task's share
            assert (found["loss"] - base["loss"]).abs().max() > 0.1
    assert micro.unchanged(model, before)


def test_batches_of_one_example_give_the_same(model: Any):
    deltas, task = changed_at_random(model), ranking()
    expected = together(model, task, deltas, WEIGHTS)
    with mixed_by_example(view(model), deltas, WEIGHTS):
        same(evaluate_items(model, task, token_budget=1), expected)
        same(evaluate_items(model, task, limit=2), expected[:2])


def test_a_model_in_bfloat16_mixes_to_its_precision(tokenizer: Any):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer).to(torch.bfloat16)
    deltas, task = changed_at_random(model), ranking()
    found = together(model, task, deltas, WEIGHTS)["loss"]
    expected = one_by_one(model, task, deltas, WEIGHTS)["loss"]
    assert found.tolist() == pytest.approx(expected.tolist(), rel=0.05, abs=0.05)


def test_what_is_not_known_is_refused(model: Any):
    deltas, task = changed_at_random(model), ranking()
    before = micro.snapshot(model)
    with pytest.raises(ValueError, match=r"weights is \(6, 2\); 3 deltas need \[example, 3\]"):
        together(model, task, deltas, WEIGHTS[:, :2])
    unknown = mixed_by_example(view(model), deltas, WEIGHTS)
    with pytest.raises(RuntimeError, match="which examples run"), unknown:
        model(torch.tensor([[1, 2, 3]]))
    shots = replace(task, instruction="a prefix that all prompts share")
    sharing = mixed_by_example(view(model), deltas, WEIGHTS)
    with pytest.raises(RuntimeError, match="without share_prefix"), sharing:
        evaluate_items(model, shots, share_prefix=True)
    other = helpers.tiny_lens("llama", seed=1, tokenizer=model.tokenizer)
    with pytest.raises(ValueError, match="belongs to model"):
        together(other, task, deltas, WEIGHTS)
    assert micro.unchanged(model, before)


def test_routing_answers_as_its_weights_say(model: Any):
    learner = NeuronLearner(0.4)
    setting, history = learnt(model, learner, private=True)
    inference = Routed(1e4)
    known = {result.task: setting.statistics(result.task) for result in history}
    (group,) = inference.groups(setting, learner, history, ["two"])
    eighths = (inference.weights(setting.features("two", "test"), known) * 8).round()
    assert (eighths > 0).sum(1).max() > 1  # mixtures, not choices
    weights = eighths / eighths.sum(1, keepdim=True)
    with group.state:
        found = evaluate_items(model, setting.tasks["two"])
    same(found, one_by_one(model, setting.tasks["two"], deltas_of(history, NeuronDelta), weights))


def dense(model: Any, history: list[Any], weights: list[float], reading: str) -> dict[str, Any]:
    """The readings on whole matrices, neurons in rows."""
    base = mlp_weights(model)
    deltas = deltas_of(history, NeuronDelta)
    masks = torch.stack([delta.neurons.mask for delta in deltas])
    result = {}
    for name, w0 in base.items():
        layer = int(name.split("/")[0])
        total = torch.zeros_like(w0)
        for delta, weight in zip(deltas, weights, strict=True):
            mask = delta.neurons.mask[layer]
            if name not in delta.trained:
                continue
            flip = name.endswith(("W_in", "W_gate"))
            trained = w0.clone()
            trained[mask] = delta.trained[name].mT if flip else delta.trained[name]
            start = w0.clone()
            start[mask] = delta.base[name].mT if flip else delta.base[name]
            own = torch.zeros_like(w0)
            own[mask] = {
                "literal": trained, "delta": trained - w0, "stages": trained - start
            }[reading][mask]  # fmt: skip
            total += weight * own
        taken = masks[:, layer].any(0)
        result[name] = w0 + total
        if reading == "literal":
            result[name] = torch.where(taken.view(-1, *[1] * (w0.ndim - 1)), total, w0)
    return result


@pytest.mark.parametrize("reading", ["literal", "delta", "stages"])
def test_mixtures_match_a_dense_computation(model: Any, reading: Any):
    _, history = learnt(model, NeuronLearner(0.4))
    # After the first run: transformers may put hooks of its own on a model then.
    before = micro.snapshot(model)
    weights = [0.5, 0.2, 0.3]
    expected = dense(model, history, weights, reading)
    with mixed(view(model), deltas_of(history, NeuronDelta), weights, reading):
        for name, value in mlp_weights(model).items():
            assert torch.allclose(value, expected[name], atol=1e-6), name
            assert not torch.equal(value, mlp_weights_before(before, model)[name])
    assert micro.unchanged(model, before)


def mlp_weights_before(before: Any, model: Any) -> dict[str, torch.Tensor]:
    """The neurons' weights of a snapshot."""
    values = {id(parameter): value for parameter, value in before["weights"]}
    found = {}
    for layer in view(model).layers:
        for name, part in layer.parameters.items():
            found[f"{layer.index}/{name}"] = values[id(part.parameter)].movedim(part.axis, 0)
    return found


def test_stage_changes_with_weights_of_one_are_the_last_stage(model: Any):
    learner = NeuronLearner(0.4)
    setting, history = learnt(model, learner)
    with learner.state(setting, history):
        last = mlp_weights(model)
    with mixed(view(model), deltas_of(history, NeuronDelta), [1.0, 1.0, 1.0], "stages"):
        for name, value in mlp_weights(model).items():
            assert torch.allclose(value, last[name], atol=1e-6)
