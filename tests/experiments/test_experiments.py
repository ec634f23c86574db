from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import tiny_lens

from tl_taskneurons.experiments.lab.groups import groups_of, interval, seed_rows, union_scores
from tl_taskneurons.experiments.lab.lab import BASE, TUNED, Lab
from tl_taskneurons.experiments.lab.presets import Plan, Rows
from tl_taskneurons.experiments.lab.store import Store
from tl_taskneurons.experiments.paper import (
    figure2,
    figure3,
    figure5,
    figure6,
    table1,
    table2,
    table4,
    table8,
    tables9_11,
)
from tl_taskneurons.experiments.paper import sequences as rows
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.tasks.task import Example, Task, Tasks


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
PLAN = Plan(
    seeds=(0, 1), steps=2, group_steps=1, batch_size=2, n_detect=4, n_train=6, n_test=3,
    shares=(0.1, 1.0), fixed_shares=(0.1, 0.3), overlaps=(0.2, 1.0), rates=(1e-3, 1e-2),
    detections=2, controls=2, max_new_tokens=2, rows=Rows(("food,film",), ("ncft",), 2, 2, 6, 2),
)  # fmt: skip


@pytest.fixture
def lab(tokenizer, tmp_path) -> Lab:
    model = tiny_lens("llama", tokenizer=tokenizer)
    return Lab(model, BASE, TASKS, PLAN, Store(tmp_path / "store"), "")


def test_table1_silences_and_compares_with_controls_on_the_task_alone(lab):
    items = table1.items(lab)
    kinds = items.groupby(["silenced", "kind"])["task"].agg(set)
    assert kinds["", "none"] == kinds["food", "task"] == set(TASKS.names)
    assert kinds["food", "random"] == {"food"}
    assert set(items.query("kind == 'random'")["seed"]) == {0, 1}
    table = table1.tables(lab)["table1"]
    assert list(table["task"]) == list(TASKS.names)
    assert (table["n_controls"] == 2).all()


def test_table2_and_the_matrix_of_figure5(lab):
    before = [p.detach().clone() for p in lab.base.parameters()]
    plain, items = table2.plain(lab), table2.items(lab)
    table, matrix = table2.table(plain, items), figure5.matrix(plain, items)
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
    for parameter, value in zip(lab.base.parameters(), before, strict=True):
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
    row = figure5.matrix(plain, items).iloc[0]
    assert row["change"] == pytest.approx((1 + 0 + 1 - 1) / 4)
    assert row["loss_change"] == pytest.approx((-1 + 0 - 1 + 1) / 4)


def test_what_is_stored_is_not_computed_again_whichever_experiment_asks(lab, monkeypatch):
    whole = table2.items(lab)
    alone = figure6.items(lab)
    calls = []
    monkeypatch.setattr(
        "tl_taskneurons.experiments.lab.lab.finetune", lambda *a, **k: calls.append(a)
    )
    monkeypatch.setattr("tl_taskneurons.experiments.lab.lab.score_neurons", calls.append)
    again = Lab(lab.base, BASE, TASKS, PLAN, lab.store, "")
    pd.testing.assert_frame_equal(table2.items(again), whole)
    pd.testing.assert_frame_equal(figure6.items(again), alone)
    assert calls == []
    # The diagonal of the matrix is the first point of Figure 6.
    keys = ["trained", "task", "seed", "item"]
    first = alone.query("fraction == 0.1").set_index(keys)["loss"]
    same = whole.query("neurons == 'task'").set_index(keys)["loss"]
    pd.testing.assert_series_equal(first, same.reindex(first.index))


def test_figure2_trains_groups_and_tests_both_kinds(lab):
    table = figure2.tables(lab)["figure2"]
    assert len(table) == 2 * 2 * 3  # groups, shares; own tasks, and siblings of both groups
    kinds = table.groupby(["train_group", "kind"])["test_group"].agg(set)
    assert kinds["CLS", "in-domain"] == {"CLS"}
    assert kinds["CLS", "out-of-domain"] == {"CLS", "GEN"}


def test_figure6_trains_one_task_and_tests_it_and_its_sibling(lab):
    table = figure6.tables(lab)["figure6"]
    assert set(zip(table["task"], table["tested"], table["kind"], strict=True)) == {
        ("food", "food", "in-domain"), ("food", "film", "out-of-domain"),
        ("past", "past", "in-domain"), ("past", "plural", "out-of-domain"),
    }  # fmt: skip


def test_tables9_11_have_a_row_for_every_share_and_overlap(lab):
    table = tables9_11.tables(lab)["tables9_11"]
    assert len(table) == 2 * 2 * 2
    assert set(table["overlap"]) == {0.2, 1.0}


def test_table8_has_the_spread_over_samples(lab):
    found = table8.evidence(lab)["overlap"]
    assert set(found["detection_seed"]) == {0, 1}
    table = table8.tables(lab)["table8"]
    assert len(table) == 2 * 4  # shares; two groups against two
    assert (table["least"] <= table["iou"]).all() and (table["iou"] <= table["most"]).all()
    assert (table.query("fraction == 1.0")["iou"] == 1.0).all()


def test_figure3_and_table4_share_fully_tuned_models(lab, monkeypatch):
    curves = figure3.tables(lab)["figure3"]
    assert set(curves["task_y"]) == {"film", "plural"}
    assert set(curves["n_models"]) == {2}
    monkeypatch.setattr("tl_taskneurons.experiments.lab.lab.finetune_all", None)
    table = table4.tables(lab)["table4"]
    assert set(table["method"]) == {"pearson", "spearman"} and (table["n"] == 2).all()


@pytest.mark.parametrize("how", ["all", "lora"])
def test_a_tuned_model_is_made_once_and_its_neurons_are_found_in_it(tokenizer, tmp_path, how):
    model = tiny_lens("llama", tokenizer=tokenizer)
    lab = Lab(model, how, TASKS, PLAN, Store(tmp_path), "")
    before = [p.detach().clone() for p in lab.base.parameters()]
    (cell,) = lab.tuned_cells()
    assert cell.missing()
    lab.store.work([cell])
    assert not cell.missing()
    base, tuned = lab.scores(BASE)["food"], lab.scores(TUNED)["food"]
    assert base.fingerprint != tuned.fingerprint
    assert not torch.equal(base.values, tuned.values)
    assert len(table1.items(lab).query("kind == 'task'")) == 4 * 4 * 3
    for parameter, value in zip(lab.base.parameters(), before, strict=True):
        assert torch.equal(parameter, value)


def test_rows_are_the_rows_of_table5(lab, monkeypatch):
    monkeypatch.setattr(
        "tl_taskneurons.experiments.studies.table5.load_tasks",
        lambda data, names, seed, limit: Tasks(TASKS[name] for name in names),
    )
    lab.store.work([*rows.rate_cells(lab), *rows.cells(lab)])
    found = rows.stages(lab)
    assert len(found) == 2 * 2  # seeds, stages
    assert "seconds" not in found.columns
    assert len(rows.evidence(lab)["rows"]) == 2


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


def test_learning_rate_is_chosen_by_held_out_loss_and_never_sees_a_test_item(lab, monkeypatch):
    losses = {1e-3: 3.0, 3e-3: 1.0, 1e-2: 2.0}
    seen = []

    class Delta:
        def __init__(self, lr):
            self.history = pd.DataFrame({"validation_loss": [np.nan, losses[lr]]})

    def finetune(model, task, neurons, training, **options):
        assert training.validation > 0
        seen.append(task.name)
        return Delta(training.lr)

    monkeypatch.setattr("tl_taskneurons.experiments.lab.lab.finetune", finetune)
    lab = Lab(lab.base, BASE, TASKS, replace(PLAN, rates=tuple(losses)), lab.store, "")
    assert lab.lr() == 3e-3
    assert lab.lr(all_weights=True) == pytest.approx(1e-3)
    assert set(seen) == {"food", "past"}


def test_a_change_of_a_dependency_is_computed_anew_and_of_nothing_else(lab):
    cell = lab.cell(lab.plain(), TASKS.names)
    lab.store.work([cell])

    def missing(**changes):
        tasks = changes.pop("tasks", TASKS)
        other = Lab(lab.base, BASE, tasks, replace(PLAN, **changes), lab.store, "")
        return other.cell(other.plain(), TASKS.names).missing()

    assert not missing()
    assert not missing(steps=7, seeds=(5,), n_detect=3)  # the plain model's answers need none
    assert missing(n_test=2)
    assert missing(max_new_tokens=3)
    food = TASKS["food"]
    assert not missing(tasks=Tasks([replace(food, train=food.train[1:]), *TASKS[1:]]))
    assert missing(tasks=Tasks([replace(food, test=food.test[::-1]), *TASKS[1:]]))


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
