import numpy as np
import pandas as pd
import pytest
import torch
from helpers import tiny_lens

from tl_taskneurons.experiments import figure2, table2, tables9_11
from tl_taskneurons.experiments.trained import (
    LEARNING_RATES,
    Experiment,
    Plan,
    choose_lr,
    groups_of,
    interval,
    seed_rows,
    union_scores,
)
from tl_taskneurons.neurons import NeuronScores, NeuronSet
from tl_taskneurons.results import RunFolder
from tl_taskneurons.tasks import Example, Task, Tasks


def classification(name: str, family: str) -> Task:
    examples = tuple(
        Example(f"{name[0]}{i}", "yes" if i % 2 else "no", "yes" if i % 2 else "no")
        for i in range(8)
    )
    return Task(name, examples, examples[:3], labels=("yes", "no"), family=family)


def generation(name: str, family: str) -> Task:
    examples = tuple(Example(f"{name[0]}{i}", "ab"[i % 2]) for i in range(8))
    return Task(name, examples, examples[:3], metric="exact_match", family=family)


TASKS = Tasks(
    [
        classification("food", "sentiment"), classification("film", "sentiment"),
        generation("past", "verbs"), generation("plural", "verbs"),
    ]
)  # fmt: skip
PLAN = Plan(seeds=(0, 1), steps=2, batch_size=2, n_detect=4, n_train=6, n_test=3)


@pytest.fixture
def experiment(tokenizer, tmp_path):
    with RunFolder.open(tmp_path / "run", {}) as folder:
        yield Experiment(tiny_lens("llama", tokenizer=tokenizer), TASKS, PLAN, folder)


def test_table2_and_its_matrix(experiment):
    before = [p.detach().clone() for p in experiment.model.parameters()]
    plain, items = experiment.plain(), table2.run(experiment)
    table, matrix = table2.table(plain, items), table2.matrix(plain, items)
    assert list(table["task"]) == ["food", "film", "past", "plural"]
    assert len(matrix) == 16
    assert set(zip(matrix["trained"], matrix["task"], strict=True)) == {
        (a, b) for a in TASKS.names for b in TASKS.names
    }
    own = items[(items["trained"] == "past") & (items["task"] == "past")]
    row = table[table["task"] == "past"].iloc[0]
    for kind in ("task", "random"):
        assert row[f"loss_{kind}"] == pytest.approx(own[own["neurons"] == kind]["loss"].mean())
    # Two updates at this rate change the loss of what was trained, and the model is put back.
    assert row["loss_task"] != row["loss_zero_shot"]
    for parameter, value in zip(experiment.model.parameters(), before, strict=True):
        assert torch.equal(parameter, value)


def test_matrix_is_trained_minus_zero_shot():
    plain = pd.DataFrame(
        {"task": "t", "metric": "accuracy", "item": [0, 1], "score": [0.0, 1.0], "loss": [2.0, 1.0]}
    )
    items = pd.DataFrame(
        {
            "task": "t", "metric": "accuracy", "item": [0, 1, 0, 1], "seed": [0, 0, 1, 1],
            "score": [1.0, 1.0, 1.0, 0.0], "loss": [1.0, 1.0, 1.0, 2.0], "trained": "t",
            "neurons": "task",
        }
    )  # fmt: skip
    row = table2.matrix(plain, items).iloc[0]
    assert row["change"] == pytest.approx((1 + 0 + 1 - 1) / 4)
    assert row["loss_change"] == pytest.approx((-1 + 0 - 1 + 1) / 4)


def test_stopped_experiment_goes_on_where_it_was(experiment, monkeypatch):
    whole = table2.run(experiment)
    calls = []
    monkeypatch.setattr("tl_taskneurons.experiments.trained.finetune", calls.append)
    pd.testing.assert_frame_equal(table2.run(experiment), whole)
    assert calls == []


def test_figure2_trains_groups_and_tests_both_kinds(experiment):
    table = figure2.run_groups(experiment, fractions=(0.1, 1.0))
    assert len(table) == 2 * 2 * 3  # groups, shares; own tasks, and siblings of both groups
    kinds = table.groupby(["train_group", "kind"])["test_group"].agg(set)
    assert kinds["CLS", "in-domain"] == {"CLS"}
    assert kinds["CLS", "out-of-domain"] == {"CLS", "GEN"}


def test_figure6_trains_one_task_and_tests_it_and_its_sibling(experiment):
    table = figure2.run_alone(experiment, fractions=(0.5,))
    assert set(zip(table["task"], table["tested"], table["kind"], strict=True)) == {
        ("food", "food", "in-domain"), ("food", "film", "out-of-domain"),
        ("past", "past", "in-domain"), ("past", "plural", "out-of-domain"),
    }  # fmt: skip


def test_tables9_11_have_a_row_for_every_share_and_overlap(experiment):
    table = tables9_11.run(experiment, shares=(0.1, 0.3), overlaps=(0.2, 1.0))
    assert len(table) == 2 * 2 * 2
    assert set(table["overlap"]) == {0.2, 1.0}


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.5, 1.0])
def test_drawn_set_has_the_size_and_the_overlap(overlap):
    mask = torch.zeros(2, 50, dtype=torch.bool)
    mask[0, :30] = True
    target = NeuronSet(mask, "f", "target")
    drawn = tables9_11.draw_overlapping(target, overlap, seed=3)
    assert len(drawn) == 30
    assert len(drawn & target) == round(30 * overlap)
    assert drawn == tables9_11.draw_overlapping(target, overlap, seed=3)
    if overlap < 1:
        assert drawn != tables9_11.draw_overlapping(target, overlap, seed=4)


def test_impossible_overlap_says_which_is_possible():
    target = NeuronSet(torch.ones(1, 10, dtype=torch.bool), "f", "all")
    with pytest.raises(ValueError, match="at least 100%"):
        tables9_11.draw_overlapping(target, 0.5, seed=0)
    with pytest.raises(ValueError, match="from 0 to 1"):
        tables9_11.draw_overlapping(target, 1.5, seed=0)


def test_learning_rate_is_chosen_by_held_out_loss_and_never_sees_a_test_item(
    experiment, monkeypatch
):
    losses = dict(zip(LEARNING_RATES, (3.0, 1.0, 2.0, 4.0), strict=True))
    seen = []

    class Delta:
        def __init__(self, lr):
            self.history = pd.DataFrame({"validation_loss": [np.nan, losses[lr]]})

    def finetune(model, task, neurons, training, **options):
        assert training.validation > 0
        seen.append(task.name)
        return Delta(training.lr)

    monkeypatch.setattr("tl_taskneurons.experiments.trained.finetune", finetune)
    sets = {name: s.top(fraction=0.1) for name, s in experiment.scores().items()}
    assert choose_lr(experiment, sets) == LEARNING_RATES[1]
    assert set(seen) == {"food", "past"}


def test_groups_need_two_tasks_of_a_family():
    assert groups_of(TASKS) == {
        "CLS": {"train": ("food",), "test": ("film",)},
        "GEN": {"train": ("past",), "test": ("plural",)},
    }
    with pytest.raises(ValueError, match="one family"):
        groups_of(Tasks([TASKS["food"], TASKS["past"]]))


def test_union_scores_weigh_tasks_alike():
    scores = {
        "a": NeuronScores(torch.tensor([[1.0, 3.0]]), "f", "a", "grad_act"),
        "b": NeuronScores(torch.tensor([[300.0, 100.0]]), "f", "b", "grad_act"),
    }
    assert union_scores(scores, ["a", "b"]).values.tolist() == [[0.5, 0.5]]


def test_interval_covers_the_mean_and_widens_with_spread():
    def items(spread: float) -> pd.DataFrame:
        rng = np.random.default_rng(0)
        return pd.DataFrame(
            [
                {"task": task, "seed": seed, "item": item, "score": 0.5 + spread * rng.normal()}
                for task in ("a", "b") for seed in range(3) for item in range(20)
            ]
        )  # fmt: skip

    narrow, wide = interval(items(0.01)), interval(items(0.1))
    assert narrow["low"] < narrow["score"] < narrow["high"]
    assert wide["high"] - wide["low"] > 5 * (narrow["high"] - narrow["low"])
    assert seed_rows(items(0.0).query("task == 'a'")).shape == (3, 20)
