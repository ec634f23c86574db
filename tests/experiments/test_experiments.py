"""Each experiment on a tiny model: what it computes, what it stores, and its tables."""

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from helpers import tiny_lens
from small_lab import PLAN, TASKS, small_lab

from tl_taskneurons.experiments.claims import TABLES, summary_of_gates
from tl_taskneurons.experiments.lab import detection, gates, states, tuned
from tl_taskneurons.experiments.lab.lab import Lab, control
from tl_taskneurons.experiments.lab.rates import ALL_WEIGHTS, Kind
from tl_taskneurons.experiments.lab.states import Condition
from tl_taskneurons.experiments.lab.store import Store
from tl_taskneurons.experiments.paper import figure5, rate_map, table2
from tl_taskneurons.experiments.reproduce import EXPERIMENTS
from tl_taskneurons.runtime.table_files import read_json
from tl_taskneurons.tasks.task import Tasks


@pytest.fixture
def lab(tokenizer, tmp_path) -> Lab:
    return small_lab(tokenizer, tmp_path / "store")


def experiment(name: str) -> Any:
    return EXPERIMENTS[name]


def test_table1_silences_and_compares_with_controls_of_both_kinds_on_the_task_alone(lab):
    items = experiment("table1").items(lab)
    kinds = items.groupby(["silenced", "kind"])["task"].agg(set)
    assert kinds["", "none"] == kinds["food", "task"] == set(TASKS.names)
    assert kinds["food", "random"] == {"food"}
    random = items.query("kind == 'random'")
    assert set(zip(random["match"], random["seed"], random["sample"], strict=True)) == {
        (match, seed, sample)
        for match in ("total", "layer") for seed in (0, 1) for sample in (0, 1)
    }  # fmt: skip
    table = experiment("table1").tables(lab)["table1"]
    assert set(table["task"]) == set(TASKS.names) and len(table) == 4 * 2 * 2
    assert (table["n_controls"] == 2).all()


@pytest.mark.parametrize("name", sorted(EXPERIMENTS.keys() - {"table5"}))
def test_evidence_has_the_columns_that_the_claims_need(lab, name):
    found = experiment(name).evidence(lab)
    gated = experiment(name).gates(lab)
    if gated:
        found = {**found, "gates": pd.concat(gated)}
    for table, rows in found.items():
        assert len(TABLES[table].read(rows)) == len(rows) > 0


def test_controls_are_drawn_anew_for_each_task_seed_sample_and_kind(lab):
    own = detection.task_sets(lab, states.base(lab))["food"]
    drawn = [
        control(own, "food", "layer", 0),
        control(own, "film", "layer", 0),
        control(own, "food", "layer", 1),
        control(own, "food", "layer", 0, 1),
        control(own, "food", "total", 0),
    ]
    assert len({neurons.mask.numpy().tobytes() for neurons in drawn}) == len(drawn)
    assert all(len(neurons) == len(own) for neurons in drawn)
    assert drawn[0].per_layer == own.per_layer
    assert drawn[0] == control(own, "food", "layer", 0)


def test_table2_and_the_matrix_of_figure5(lab):
    before = [p.detach().clone() for p in lab.base.parameters()]
    plain, items = gates.zero_shot(lab), experiment("table2").items(lab)
    ended = items[items["question"] == "end point"]
    table, matrix = table2.table(plain, items), figure5.matrix(plain, ended)
    assert len(table) == 4 * 2 * 2  # tasks, questions, kinds of controls
    assert len(matrix) == 16
    assert set(zip(matrix["trained"], matrix["task"], strict=True)) == {
        (a, b) for a in TASKS.names for b in TASKS.names
    }
    for match in ("total", "layer"):
        own = ended[(ended["trained"] == "past") & (ended["task"] == "past")]
        row = table.query("task == 'past' and question == 'end point' and match == @match").iloc[0]
        random = own[own["match"] == match]
        chosen = own[own["neurons"] == "task"]
        assert row["loss_task"] == pytest.approx(chosen["loss"].mean())
        assert row["loss_random"] == pytest.approx(random["loss"].mean())
        gain = random["loss"].mean() - chosen["loss"].mean()
        assert row["loss_gain"] == pytest.approx(gain)
    # Two updates at this rate change the loss of what was trained, and the model is put back.
    assert row["loss_task"] != row["loss_zero_shot"]
    for parameter, value in zip(lab.base.parameters(), before, strict=True):
        assert torch.equal(parameter, value)


def test_speed_is_asked_at_one_low_rate_for_all_sets_and_by_loss_alone(lab):
    items = experiment("table2").items(lab).query("question == 'speed'")
    assert set(items["lr"]) == {PLAN.speed_rate} and set(items["updates"]) == {1}
    assert items["score"].isna().all() and items["loss"].notna().all()


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
    whole = experiment("table2").items(lab)
    alone = experiment("figure6").items(lab)
    calls = []
    monkeypatch.setattr(states, "finetune", lambda *a, **k: calls.append(a))
    monkeypatch.setattr(detection, "score_neurons", calls.append)
    again = Lab(lab.base, "base", TASKS, PLAN, lab.store, "")
    pd.testing.assert_frame_equal(experiment("table2").items(again), whole)
    pd.testing.assert_frame_equal(experiment("figure6").items(again), alone)
    assert calls == []
    # The diagonal of the matrix is the first point of Figure 6.
    keys = ["trained", "task", "seed", "item"]
    first = alone.query("fraction == 0.1").set_index(keys)["loss"]
    same = whole.query("neurons == 'task' and question == 'end point'").set_index(keys)["loss"]
    pd.testing.assert_series_equal(first, same.reindex(first.index))


def test_figure2_trains_groups_and_tests_both_kinds(lab):
    table = experiment("figure2").tables(lab)["figure2"]
    assert len(table) == 2 * 2 * 3  # groups, shares; own tasks, and siblings of both groups
    kinds = table.groupby(["train_group", "kind"])["test_group"].agg(set)
    assert kinds["CLS", "in-domain"] == {"CLS"}
    assert kinds["CLS", "out-of-domain"] == {"CLS", "GEN"}


def test_figure6_trains_one_task_and_tests_it_and_its_sibling(lab):
    table = experiment("figure6").tables(lab)["figure6"]
    assert set(zip(table["task"], table["tested"], table["kind"], strict=True)) == {
        ("food", "food", "in-domain"), ("food", "film", "out-of-domain"),
        ("past", "past", "in-domain"), ("past", "plural", "out-of-domain"),
    }  # fmt: skip


def test_tables9_11_have_a_row_for_every_share_and_overlap_and_kind_of_task(lab):
    table = experiment("tables9_11").tables(lab)["tables9_11"]
    assert len(table) == 2 * 2 * 2 * 2
    assert set(table["overlap"]) == {0.2, 1.0}
    assert set(table["kind"]) == {"in-domain", "out-of-domain"}


def test_table8_has_the_spread_over_samples(lab):
    found = experiment("table8").evidence(lab)["overlap"]
    assert set(found["detection_seed"]) == {0, 1}
    table = experiment("table8").tables(lab)["table8"]
    assert len(table) == 2 * 4  # shares; two groups against two
    assert (table["least"] <= table["iou"]).all() and (table["iou"] <= table["most"]).all()
    assert (table.query("fraction == 1.0")["iou"] == 1.0).all()


def test_figure3_and_table4_share_fully_tuned_models(lab, monkeypatch):
    curves = experiment("figure3").tables(lab)["figure3"]
    assert set(curves["task_y"]) == {"film", "plural"}
    assert set(curves["n_models"]) == {2}
    siblings = experiment("figure3").tables(lab)["siblings"]
    wide = siblings.pivot(index="layer", columns="pairs", values="similarity")
    assert (wide["difference"] - wide["siblings"] + wide["other pairs"]).abs().max() < 1e-9
    assert siblings["n_models"].tolist() == [2] * 3 * len(wide)
    monkeypatch.setattr(states, "finetune_all", None)
    table = experiment("table4").tables(lab)["table4"]
    assert set(table["method"]) == {"pearson", "spearman"} and (table["n"] == 2).all()
    transfer = experiment("table4").evidence(lab)["transfer"]
    assert dict(zip(transfer["model"], transfer["type"], strict=True)) == {
        "food": "CLS", "past": "GEN",
    }  # fmt: skip
    assert (transfer["value"] < 0).all()


def test_chance_of_similarity_is_that_of_random_sets_in_the_same_layers(lab):
    found = experiment("figure3").similarities(lab)
    assert found["siblings"].sum() == found["siblings"].size / 2
    masked = found[(found["reading"] == "masked") & (found["part"] == "all")]
    # Random sets with a tenth of the neurons share about a tenth of those.
    assert masked["chance"].between(-0.2, 0.5).all() and masked["chance"].nunique() > 1


def test_the_map_is_one_curve_per_run_and_random_minus_task(lab):
    losses = experiment("rate_map").items(lab)
    assert len(losses) == 2 * 3 * 2 * 2  # tasks, kinds, rates, updates
    gaps = rate_map.gap_table(losses)
    row = gaps.query("task == 'past' and lr == 0.01 and updates == 2 and match == 'total'").iloc[0]
    own, random = (
        losses.query(f"task == 'past' and lr == 0.01 and updates == 2 and kind == '{kind}'")
        for kind in ("task", "total")
    )
    assert row["gap"] == pytest.approx(random["loss"].item() - own["loss"].item())
    means = experiment("rate_map").tables(lab)["rate_map"]
    assert set(means["n_tasks"]) == {2} and len(means) == 2 * 2 * 2
    experiment("rate_map").draw({"rate_map": means})


@pytest.mark.parametrize("how", ["all", "lora"])
def test_a_tuned_model_is_made_once_and_its_neurons_are_found_in_it(tokenizer, tmp_path, how):
    model = tiny_lens("llama", tokenizer=tokenizer)
    lab = Lab(model, how, TASKS, PLAN, Store(tmp_path), "")
    before = [p.detach().clone() for p in lab.base.parameters()]
    (unit,) = tuned.units(lab)
    assert unit.missing()
    lab.store.work([unit])
    assert not unit.missing()
    base, made = (detection.scores(lab, at)["food"] for at in (states.base(lab), tuned.state(lab)))
    assert base.fingerprint != made.fingerprint
    assert not torch.equal(base.values, made.values)
    own = experiment("table1").items(lab).query("kind == 'task' and sample == 0")
    assert len(own) == 4 * 4 * 3
    for parameter, value in zip(lab.base.parameters(), before, strict=True):
        assert torch.equal(parameter, value)


def test_a_given_rate_of_the_tuned_model_is_taken_and_none_is_chosen(tokenizer, tmp_path):
    plan = replace(PLAN, rates=(1e-3, 1e-2))
    searched = Lab(tiny_lens("llama", tokenizer=tokenizer), "all", TASKS, plan, Store(tmp_path), "")
    assert tuned.rate_kinds(searched) == [Kind(ALL_WEIGHTS)]
    given = replace(searched, plan=replace(plan, tuned_rate=2e-3))
    assert tuned.rate_kinds(given) == []
    (unit,) = tuned.units(given)
    given.store.work([unit])
    (stated,) = [read_json(file) for file in (tmp_path / "models").glob("*.json")]
    assert stated["key"]["training"]["lr"] == 2e-3
    assert not (tmp_path / "rates").exists()


def test_gates_compare_with_the_base_model_and_with_guessing(lab):
    plain = gates.zero_shot(lab)
    better = plain.assign(loss=plain["loss"] - 1 - 0.1 * plain["item"], score=1.0)
    found = summary_of_gates(gates.gate(lab, "trained", better)).set_index("task")
    assert found["by_loss"].all()
    assert found.loc["food", "floor"] == pytest.approx(2 / 3)  # of three items two are "no"
    assert found.loc["past", "floor"] == 0
    worse = plain.assign(score=0.0)
    found = summary_of_gates(gates.gate(lab, "trained", worse))
    assert not found["by_loss"].any() and not found["by_score"].any()


def test_a_change_of_a_dependency_is_computed_anew_and_of_nothing_else(lab):
    def unit(lab: Lab):
        return states.answers_unit(lab, Condition(states.base(lab), TASKS.names))

    lab.store.work([unit(lab)])

    def missing(**changes):
        tasks = changes.pop("tasks", TASKS)
        return unit(Lab(lab.base, "base", tasks, replace(PLAN, **changes), lab.store, "")).missing()

    assert not missing()
    assert not missing(steps=7, seeds=(5,), n_detect=3)  # the plain model's answers need none
    assert missing(n_test=2)
    assert missing(max_new_tokens=3)
    food = TASKS["food"]
    assert not missing(tasks=Tasks([replace(food, train=food.train[1:]), *TASKS[1:]]))
    assert missing(tasks=Tasks([replace(food, test=food.test[::-1]), *TASKS[1:]]))
