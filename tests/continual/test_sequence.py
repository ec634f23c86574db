"""Rows of tasks on tiny models: every method, the state between stages, resuming, bad input."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import helpers
import micro
import pandas as pd
import pytest
import torch
from sequence_tasks import NAMES, TRAINING, mlp_weights, three_tasks

from tl_taskneurons.continual import METHODS, SequenceResult, find_method, run_sequence, scoring
from tl_taskneurons.continual.inference import Plain
from tl_taskneurons.continual.learners import Setting
from tl_taskneurons.continual.method import Method
from tl_taskneurons.continual.neuron_learner import NeuronLearner
from tl_taskneurons.continual.weight_learners import WeightLearner
from tl_taskneurons.evaluation.evaluate import evaluate
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.attribution import score_neurons
from tl_taskneurons.neurons.interventions import deactivate
from tl_taskneurons.tasks.task import Task, Tasks
from tl_taskneurons.training.deltas import NeuronDelta, WeightDelta
from tl_taskneurons.training.finetune import finetune


@pytest.fixture
def model(tokenizer: Any) -> Any:
    return micro.lens("llama", "bridge", tokenizer)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_fills_the_matrix_and_leaves_the_model_as_it_was(model: Any, method: str):
    evaluate(model, three_tasks()[0])  # a bridge sets hooks of its own in its first pass
    before = micro.snapshot(model)
    result = run_sequence(model, three_tasks()[:2], method, TRAINING)
    assert micro.unchanged(model, before)
    assert list(result.matrix.index) == ["one", "two"]
    assert list(result.matrix.columns) == [0, 1, 2]
    assert not result.matrix.isna().any().any()
    assert set(result.deltas) == {"one", "two"}
    assert (result.stages["seconds"] > 0).all()
    assert (result.stages["n_parameters"] > 0).all()


def test_the_result_has_seen_tasks_alone_scores_and_both_measures(model: Any):
    result = run_sequence(model, three_tasks(), "ncft", TRAINING)
    assert result.alone["task"].tolist() == list(NAMES)
    seen = result.scores.pivot(index="task", columns="stage", values="seen").loc[list(NAMES)]
    assert seen.to_numpy().tolist() == [
        [False, True, True, True], [False, False, True, True], [False, False, False, True],
    ]  # fmt: skip
    wide = result.matrix
    for stage in (1, 2, 3):
        assert result.stages["cl"][stage - 1] == pytest.approx(wide[stage][:stage].mean())
    alone = result.alone["value"].to_numpy()
    assert (alone > 0).all()
    assert result.stages["fg"][2] == pytest.approx((wide[3] / alone)[:2].mean())
    assert result.summary["alone"][0] == pytest.approx(alone.mean())


@pytest.mark.parametrize(
    "method", ["seq-ft", "joint", "o-lora", "ncft-soft", "w-ncft", "w-ncft-literal", "routed"]
)
def test_one_task_in_the_row_is_training_it_alone(model: Any, method: str):
    task = three_tasks()[0]
    result = run_sequence(model, [task], method, TRAINING)
    assert result.matrix[1].tolist() == result.alone["value"].tolist()
    chosen = find_method(method)
    setting = Setting(view(model), Tasks([task]), TRAINING)
    piece = chosen.learner.first.learn(setting, (), task)
    with piece.delta.applied(model):
        expected = evaluate(model, task)
    assert result.scores["loss"].iloc[1] == pytest.approx(expected["loss"].iloc[0], abs=1e-6)


def test_one_task_of_ncft_is_finetune_on_the_detected_neurons(model: Any):
    task = three_tasks()[0]
    delta = run_sequence(model, [task], "ncft", TRAINING).deltas["one"]
    assert isinstance(delta, NeuronDelta)
    expected = finetune(model, task, delta.neurons, TRAINING)
    for name, value in expected.trained.items():
        assert torch.equal(delta.trained[name], value)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("method", ["ncft", "ncft-strict", "ncft-soft", "ncft-mass"])
def test_a_stage_changes_its_own_neurons_and_nothing_else(tokenizer: Any, kind: str, method: str):
    model = micro.lens(kind, "bridge", tokenizer)
    training = replace(TRAINING, weight_decay=0.1)
    learner = find_method(method).learner
    tasks = three_tasks()
    setting = Setting(view(model), tasks, training)
    history: list[Any] = []
    for task in tasks:
        with learner.state(setting, history):
            before = mlp_weights(model)
            others = {n: p.clone() for n, p in model.named_parameters() if ".mlp." not in n}
        history.append(learner.learn(setting, history, task))
        mask = history[-1].delta.neurons.mask
        with learner.state(setting, history):
            for name, after in mlp_weights(model).items():
                own = mask[int(name.split("/")[0])]
                assert torch.equal(after[~own], before[name][~own])
                if own.any() and "W_" in name:
                    assert not torch.equal(after[own], before[name][own])
            for name, value in others.items():
                assert torch.equal(dict(model.named_parameters())[name], value)


def masks_of(result: SequenceResult) -> torch.Tensor:
    """The neurons of every stage, ``[task, layer, d_mlp]``."""
    deltas = [d for d in result.deltas.values() if isinstance(d, NeuronDelta)]
    return torch.stack([delta.neurons.mask for delta in deltas])


def test_strict_isolation_gives_every_task_neurons_of_its_own(model: Any):
    result = run_sequence(model, three_tasks(), "ncft-strict", TRAINING, fraction=0.3)
    masks = masks_of(result)
    assert masks.sum(0).max() == 1
    assert len({int(mask.sum()) for mask in masks}) == 1
    plain = run_sequence(model, three_tasks(), "ncft", TRAINING, fraction=0.3)
    assert masks_of(plain).sum(0).max() > 1


def test_strict_isolation_says_when_neurons_run_out(model: Any):
    with pytest.raises(ValueError, match="needs 38 neurons, but strict isolation leaves 20 of 96"):
        run_sequence(model, three_tasks(), "ncft-strict", TRAINING, fraction=0.4)


def test_a_limit_of_scored_examples_chooses_the_neurons(model: Any):
    one = three_tasks()[0]
    few, every = (
        run_sequence(model, [one], "ncft", TRAINING, fraction=0.3, score_limit=limit).deltas["one"]
        for limit in (2, 100)
    )
    assert isinstance(few, NeuronDelta)
    assert isinstance(every, NeuronDelta)
    assert few.neurons == score_neurons(model, one, limit=2).top(fraction=0.3)
    assert every.neurons == score_neurons(model, one).top(fraction=0.3)
    assert few.neurons != every.neurons


def test_joint_training_does_not_depend_on_the_order(model: Any, tmp_path: Path):
    one, two, three = three_tasks()
    first = run_sequence(model, [one, two, three], "joint", TRAINING, store=tmp_path)
    again = run_sequence(model, [two, one, three], "joint", TRAINING)
    last, same = first.deltas["three"], again.deltas["three"]
    assert isinstance(last, WeightDelta)
    assert isinstance(same, WeightDelta)
    assert all(torch.equal(value, same.trained[name]) for name, value in last.trained.items())
    assert last.info["steps"] == 6


def test_replay_trains_on_kept_examples_too(model: Any):
    method = Method("mine", WeightLearner(buffer=2), Plain())
    result = run_sequence(model, three_tasks(), method, TRAINING)
    # Eight new examples, and two of each earlier task until they are about as many.
    assert [delta.info["examples"] for delta in result.deltas.values()] == [8, 16, 16]
    assert {delta.info["steps"] for delta in result.deltas.values()} == {2}


def test_keep_leaves_the_last_stage_in_the_model(tokenizer: Any):
    for method in ("ncft", "o-lora"):
        model = helpers.tiny_lens("llama", tokenizer=tokenizer)
        result = run_sequence(model, three_tasks(), method, TRAINING, keep=True)
        after = evaluate(model, three_tasks())
        last = result.scores[result.scores["stage"] == 3]
        assert after["loss"].tolist() == pytest.approx(last["loss"].tolist(), abs=1e-6)


def same_result(a: Any, b: Any) -> None:
    pd.testing.assert_frame_equal(a.scores, b.scores)
    pd.testing.assert_frame_equal(a.alone, b.alone)
    measured = ["seconds", "peak_mib"]
    pd.testing.assert_frame_equal(a.stages.drop(columns=measured), b.stages.drop(columns=measured))


def test_methods_share_answers_where_they_answer_in_the_same_state(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def counted(*arguments: Any, **options: Any) -> pd.DataFrame:
        asked.append(arguments)
        return scoring_answers(*arguments, **options)

    scoring_answers = scoring.evaluate_items
    monkeypatch.setattr(scoring, "evaluate_items", counted)
    counts = {}
    for method in ("seq-ft", "per-task", "joint", "seq-lora", "o-lora", "epi", "ncft", "routed"):
        asked.clear()
        shared = run_sequence(model, three_tasks(), method, TRAINING, store=tmp_path)
        counts[method] = len(asked)
        same_result(run_sequence(model, three_tasks(), method, TRAINING), shared)
    # Of three tasks at stages 0 to 3 and each alone: the base model and the first stage are there
    # once for a learner, and a task alone is what it is for every method that learns it so.
    assert counts["seq-ft"] == 3 + 9 + 2 and counts["per-task"] == 0
    assert counts["joint"] == 6
    assert counts["seq-lora"] == 9 + 2 and counts["o-lora"] == 6
    assert counts["ncft"] == 9 + 2 and counts["routed"] == 9 + 3
    # Other test examples are asked anew, in states that are there.
    asked.clear()
    fewer = Tasks(task.limit(None, 2) for task in three_tasks())
    assert (run_sequence(model, fewer, "seq-ft", TRAINING, store=tmp_path).scores["n"] == 2).all()
    assert len(asked) == 14


@pytest.mark.parametrize("method", ["ncft-soft", "replay", "o-lora", "routed"])
def test_a_resumed_row_equals_an_unbroken_one(
    model: Any, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
):
    whole = run_sequence(model, three_tasks(), method, TRAINING, folder=tmp_path / "whole")
    learner = type(find_method(method).learner)
    plain, calls = learner.learn, []

    def stops(self: Any, setting: Any, history: Any, task: Task) -> Any:
        if task.name == "three":
            raise KeyboardInterrupt
        return plain(self, setting, history, task)

    def counts(self: Any, setting: Any, history: Any, task: Task) -> Any:
        calls.append(task.name)
        return plain(self, setting, history, task)

    broken = tmp_path / "broken"
    monkeypatch.setattr(learner, "learn", stops)
    with pytest.raises(KeyboardInterrupt):
        run_sequence(model, three_tasks(), method, TRAINING, folder=broken)
    monkeypatch.setattr(learner, "learn", counts)
    resumed = run_sequence(model, three_tasks(), method, TRAINING, folder=broken)
    assert "one" not in calls[:1]
    assert calls[0] == "three"
    same_result(whole, resumed)
    assert json.loads((broken / "run.json").read_text())["status"] == "finished"
    calls.clear()
    same_result(whole, run_sequence(model, three_tasks(), method, TRAINING, folder=broken))
    assert calls == []


def test_another_precision_finds_nothing_of_the_first(tokenizer: Any, tmp_path: Path):
    store = tmp_path / "store"
    losses = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = helpers.tiny_lens("llama", tokenizer=tokenizer).to(dtype)
        result = run_sequence(model, three_tasks()[:2], "w-ncft", TRAINING, store=store)
        fresh = run_sequence(model, three_tasks()[:2], "w-ncft", TRAINING)
        assert result.deltas["one"].dtype == dtype
        losses[dtype] = result.scores["loss"].tolist()
        assert losses[dtype] == fresh.scores["loss"].tolist()
    assert losses[torch.float32] != losses[torch.bfloat16]
    with pytest.raises(ValueError, match="dtype"):
        for dtype in (torch.float32, torch.bfloat16):
            model = helpers.tiny_lens("llama", tokenizer=tokenizer).to(dtype)
            run_sequence(model, three_tasks()[:1], "ncft", TRAINING, folder=tmp_path / "folder")


def test_a_folder_of_another_configuration_is_refused(model: Any, tmp_path: Path):
    run_sequence(model, three_tasks()[:1], "seq-ft", TRAINING, folder=tmp_path)
    with pytest.raises(ValueError, match="another configuration.*seq-ft.*ncft"):
        run_sequence(model, three_tasks()[:1], "ncft", TRAINING, folder=tmp_path)
    with pytest.raises(ValueError, match=r"training.lr: 0.01 there, 0.02 now"):
        training = replace(TRAINING, lr=2e-2)
        run_sequence(model, three_tasks()[:1], "seq-ft", training, folder=tmp_path)


def test_open_interventions_are_not_kept_under_the_bare_models_name(model: Any, tmp_path: Path):
    task = three_tasks()[:1]
    bare = run_sequence(model, task, "ncft", TRAINING, store=tmp_path)
    some = score_neurons(model, task[0], "random").top(fraction=0.3)
    with deactivate(model, some):
        kept: list[dict[str, Any]] = [{"store": tmp_path}, {"folder": tmp_path / "run"}]
        for options in kept:
            with pytest.raises(RuntimeError, match="Hooks act on .* without folder and store"):
                run_sequence(model, task, "ncft", TRAINING, **options)
        silenced = run_sequence(model, task, "ncft", TRAINING)
    assert not (tmp_path / "run").exists()
    assert silenced.scores["loss"].tolist() != bare.scores["loss"].tolist()
    with (
        deactivate(model, some, how="weights"),
        pytest.raises(RuntimeError, match="are changed for a while .by deactivate"),
    ):
        run_sequence(model, task, "ncft", TRAINING)
    same_result(bare, run_sequence(model, task, "ncft", TRAINING, store=tmp_path))


def no_training(*_: Any, **__: Any) -> None:
    raise AssertionError("something was trained")


def test_bad_rows_are_refused_before_anything_is_trained(
    model: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(NeuronLearner, "learn", no_training)
    one, two, _ = three_tasks()
    cases = [
        ([], {}, "no tasks"),
        ([one, one], {}, "'one' is given twice, at stages 1 and 2"),
        ([one, two, one], {}, "'one' is given twice, at stages 1 and 3"),
        ([one, replace(two, train=())], {}, "Stage 2 can't be run. The train split of task 'two'"),
        ([one, replace(two, test=())], {}, "Stage 2 can't be run. The test split of task 'two'"),
        ([one, Task.from_texts("plain", ["text"])], {}, "Stage 2 .*'plain' has no metric"),
        ([one], {"method": "ncfd"}, "Unknown method 'ncfd'; did you mean 'ncft'"),
        ([one], {"method": "w-ncft", "keep": True}, "no one model to keep"),
        ([one], {"limit": 0}, "limit is 0"),
        ([one], {"test_limit": 0}, "test_limit is 0"),
        ([one], {"fraction": 0.0}, "fraction is 0.0"),
        ([one], {"score_limit": 0}, "score_limit is 0"),
    ]
    for tasks, options, message in cases:
        with pytest.raises(ValueError, match=message):
            run_sequence(model, tasks, training=TRAINING, **options)


@pytest.mark.needs("hooked")
def test_a_hooked_transformer_runs_neurons_and_refuses_adapters(tokenizer: Any):
    model = micro.lens("llama", "hooked", tokenizer)
    bridge = run_sequence(
        micro.lens("llama", "bridge", tokenizer), three_tasks(), "routed", TRAINING
    )
    result = run_sequence(model, three_tasks(), "routed", TRAINING)
    assert result.scores["loss"].tolist() == pytest.approx(bridge.scores["loss"].tolist(), rel=1e-3)
    with pytest.raises(TypeError, match="kind='bridge'"):
        run_sequence(model, three_tasks(), "o-lora", TRAINING)
