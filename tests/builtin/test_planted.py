import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import HAS_HOOKED
from torch import Tensor
from transformer_lens.model_bridge.sources import build_bridge_from_module

from tl_taskneurons.builtin.planted import Planted, planted_model, precision_recall
from tl_taskneurons.loading.models import load_model
from tl_taskneurons.tasks.task import Task

SMALL: dict[str, Any] = {"n_train": 12, "n_test": 12}


def prompt_ids(planted: Planted, task: Task, text: str) -> Tensor:
    prompt = f"{task.instruction}\nInput: {text}\nOutput:"
    return torch.tensor([planted.tokenizer(prompt)["input_ids"]])


def scores(planted: Planted, task: Task) -> tuple[Tensor, Tensor]:
    """Own calculation: mean of |sum over positions of grad * act|, and mean of |act|."""
    model: Any = planted.model
    found: dict[int, Any] = {}
    hooks = []
    for layer, block in enumerate(model.base_model.layers):
        down = block.mlp.down_proj if hasattr(block.mlp, "down_proj") else block.mlp.dense_4h_to_h

        def keep(_module, args, layer=layer):
            args[0].retain_grad()
            found[layer] = args[0]

        hooks.append(down.register_forward_pre_hook(keep))
    relevance, loudness = (torch.zeros_like(planted.distractors, dtype=torch.float) for _ in "12")
    for example in task.train:
        logits = model(prompt_ids(planted, task, example.input)).logits[0, -1]
        answer = planted.tokenizer.convert_tokens_to_ids(f" {example.target}")
        (-logits.log_softmax(-1)[answer]).backward()
        for layer, act in found.items():
            relevance[layer] += (act * act.grad).sum(1)[0].abs().detach()
            loudness[layer] += act.abs().mean(1)[0].detach()
        model.zero_grad()
    for hook in hooks:
        hook.remove()
    return relevance, loudness


def top(values: Tensor, count: int) -> Tensor:
    chosen = torch.zeros(values.numel(), dtype=torch.bool)
    chosen[values.flatten().topk(count).indices] = True
    return chosen.view_as(values)


def recovered(planted: Planted) -> list[float]:
    """Precision (= recall, the sizes are equal) of grad * act for each task."""
    result = []
    for task in planted.tasks:
        truth = planted.truth[task.name]
        precision, recall = precision_recall(top(scores(planted, task)[0], int(truth.sum())), truth)
        assert precision == recall
        result.append(precision)
    return result


def without(planted: Planted, silenced: Tensor) -> Planted:
    """The same model with the output weights of some neurons at zero."""
    model: Any = copy.deepcopy(planted.model)
    for layer, block in enumerate(model.base_model.layers):
        down = block.mlp.down_proj if hasattr(block.mlp, "down_proj") else block.mlp.dense_4h_to_h
        down.weight.data[:, silenced[layer]] = 0
    return replace(planted, model=model)


@torch.no_grad()
def judge(planted: Planted, task: Task) -> tuple[float, float]:
    """Greedy accuracy over the whole vocabulary; mean logit of the right less the wrong label."""
    model: Any = planted.model
    right, margin = 0, 0.0
    ids: dict[str, Any] = {
        label: planted.tokenizer.convert_tokens_to_ids(f" {label}") for label in task.labels
    }
    for example in task.test:
        logits = model(prompt_ids(planted, task, example.input)).logits[0, -1]
        wrong = "no" if example.target == "yes" else "yes"
        right += logits.argmax().item() == ids[example.target]
        margin += (logits[ids[example.target]] - logits[ids[wrong]]).item()
    return right / len(task.test), margin / len(task.test)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_gradient_times_activation_recovers_the_truth(gated, overlap, seed):
    planted = planted_model(3, 10, overlap, gated=gated, seed=seed, **SMALL)
    assert recovered(planted) == [1.0, 1.0, 1.0]
    assert [judge(planted, task)[0] for task in planted.tasks] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("gated", [True, False])
def test_loudness_finds_the_distractors_instead(gated):
    planted = planted_model(2, 16, gated=gated, **SMALL)
    for task in planted.tasks:
        truth = planted.truth[task.name]
        loudest = top(scores(planted, task)[1], 16)
        assert precision_recall(loudest, truth) == (0.0, 0.0)
        assert precision_recall(loudest, planted.distractors)[0] == 1.0


@pytest.mark.parametrize("gated", [True, False])
def test_recovery_falls_with_noise_but_not_at_once(gated):
    curve = []
    for noise in (0.0, 0.02, 0.1, 0.5):
        found = recovered(planted_model(3, 16, noise=noise, gated=gated, **SMALL))
        curve.append(sum(found) / len(found))
    assert curve[0] == 1.0
    assert curve[1] >= 0.9
    assert curve[1] > curve[2] > curve[3]
    assert curve[3] < 0.4


@pytest.mark.parametrize("gated", [True, False])
def test_silencing_takes_the_task_and_only_that(gated):
    planted = planted_model(3, 12, gated=gated, **SMALL)
    first, second, _ = planted.tasks
    whole = judge(planted, first)[1]
    assert whole > 2
    cut = without(planted, planted.truth[first.name])
    assert abs(judge(cut, first)[1]) < 0.01 * whole
    assert judge(cut, second)[1] > 0.9 * whole
    quiet = without(planted, planted.distractors)
    assert judge(quiet, first)[1] == pytest.approx(whole, rel=0.02)
    some = top(planted.truth[first.name].float(), 6)
    assert 0.2 * whole < judge(without(planted, some), first)[1] < 0.8 * whole


@pytest.mark.parametrize(("overlap", "shared"), [(0.0, 0), (0.25, 3), (0.5, 6), (1.0, 12)])
def test_overlap_is_the_shared_part_of_every_task(overlap, shared):
    planted = planted_model(["a", "b", "c"], 12, overlap, **SMALL)
    a, b, c = (planted.truth[name] for name in "abc")
    assert [int(x.sum()) for x in (a, b, c)] == [12, 12, 12]
    assert int((a & b).sum()) == int((b & c).sum()) == int((a & b & c).sum()) == shared
    assert not ((a | b | c) & planted.distractors).any()
    assert int(planted.distractors.sum()) == 32


def test_same_seed_same_bytes():
    one, two, three = (planted_model(2, 4, noise=0.1, seed=s, **SMALL) for s in (5, 5, 6))
    for x, y in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(x, y)
    assert one.tasks == two.tasks
    assert not torch.equal(one.truth["planted_a"], three.truth["planted_a"])
    assert all(p.dtype == torch.float32 for p in one.model.parameters())


def test_items_are_disjoint_and_balanced():
    (task,) = planted_model(1, 4, n_train=100, n_test=50).tasks
    assert not {e.input for e in task.train} & {e.input for e in task.test}
    assert sum(e.target == "yes" for e in task.train) == 50


@pytest.mark.parametrize("gated", [True, False])
def test_answer_ends_with_a_newline(gated):
    planted = planted_model(2, 4, gated=gated, **SMALL)
    task = planted.tasks[0]
    ids = prompt_ids(planted, task, task.test[0].input)
    model: Any = planted.model
    made = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, do_sample=False
    )
    assert planted.tokenizer.decode(made[0, ids.shape[1] :]) == f" {task.test[0].target}\n"


@pytest.mark.parametrize("gated", [True, False])
def test_bridge_and_hooked_agree_with_the_original(gated):
    planted = planted_model(2, 4, noise=0.05, gated=gated, **SMALL)
    task = planted.tasks[0]
    ids = prompt_ids(planted, task, task.test[0].input)
    with torch.no_grad():
        wanted = planted.model(ids).logits.log_softmax(-1)
    hf: Any = copy.deepcopy(planted.model)
    models: list[Any] = [
        build_bridge_from_module(
            hf, type(hf).__name__, hf_config=hf.config, tokenizer=planted.tokenizer
        )
    ]
    for kind in ("bridge", "hooked") if HAS_HOOKED else ("bridge",):
        models.append(
            load_model(copy.deepcopy(planted.model), kind=kind, tokenizer=planted.tokenizer)
        )
    for model in models:
        with torch.no_grad():
            found = model(ids).log_softmax(-1)
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_more_neurons_than_there_are():
    with pytest.raises(ValueError, match=r"432 neurons were asked for .* the model has 256 "):
        planted_model(4, 100, n_layers=2)
    planted_model(4, 100, 1.0, n_layers=2, **SMALL)  # all shared: 132 fit


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"neurons_per_task": 0}, "at least 1"),
        ({"neurons_per_task": 1, "gated": False}, "at least 2"),
        ({"overlap": 1.5}, r"overlap is 1.5"),
        ({"noise": -0.1}, r"noise is -0.1"),
        ({"distractors": 3}, "even number"),
        ({"tasks": 0}, "at least one task"),
        ({"tasks": ["x", "x"]}, "not all different"),
        ({"n_train": 5000}, "in all"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        planted_model(**arguments)


def test_precision_and_recall():
    found = torch.tensor([[True, True, False, False]])
    truth = torch.tensor([[True, False, True, True]])
    assert precision_recall(found, truth) == (0.5, pytest.approx(1 / 3))
    with pytest.raises(ValueError, match="shape"):
        precision_recall(found, truth.T)
    with pytest.raises(ValueError, match="at least one"):
        precision_recall(torch.zeros_like(found), truth)
