from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import tiny_lens

from tl_taskneurons.experiments.claims.columns import TABLES
from tl_taskneurons.experiments.lab import detection, gates, rates, search, states, tuned
from tl_taskneurons.experiments.lab.groups import (
    Group,
    groups_of,
    interval,
    seed_rows,
    union_scores,
)
from tl_taskneurons.experiments.lab.lab import Lab, control
from tl_taskneurons.experiments.lab.plan import MapSizes, Plan, SequenceSizes
from tl_taskneurons.experiments.lab.rates import ALL_WEIGHTS, Kind
from tl_taskneurons.experiments.lab.states import Condition
from tl_taskneurons.experiments.lab.store import Store
from tl_taskneurons.experiments.paper import figure5, rate_map, table2, tables9_11
from tl_taskneurons.experiments.reproduce import EXPERIMENTS
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
    seeds=(0, 1), steps=2, transfer_steps=1, batch_size=2, n_detect=4, n_train=6, n_test=3,
    shares=(0.1, 1.0), fixed_shares=(0.1, 0.3), overlaps=(0.2, 1.0), rates=(1e-2,),
    detections=2, silenced_samples=2, controls=2, fractions=(0.1,), speed_steps=1, max_new_tokens=2,
    map=MapSizes(tasks=("food", "past"), fractions=(0.1,), rates=(1e-3, 1e-2), updates=(1, 2)),
    sequences=SequenceSizes(("food,film",), ("ncft",), 2, 2, 6, 2, (1e-3,)),
)  # fmt: skip


@pytest.fixture
def lab(tokenizer, tmp_path) -> Lab:
    model = tiny_lens("llama", tokenizer=tokenizer)
    return Lab(model, "base", TASKS, PLAN, Store(tmp_path / "store"), "")


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


def test_gates_compare_with_the_base_model_and_with_guessing(lab):
    plain = gates.zero_shot(lab)
    better = plain.assign(loss=plain["loss"] - 1, score=1.0)
    found = gates.summary(gates.gate(lab, "trained", better)).set_index("task")
    assert found["better"].all() and found["above_floor"].all()
    assert found.loc["food", "floor"] == pytest.approx(2 / 3)  # of three items two are "no"
    assert found.loc["past", "floor"] == 0
    worse = plain.assign(score=0.0)
    found = gates.summary(gates.gate(lab, "trained", worse))
    assert not found["better"].any() and not found["above_floor"].any()


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
        assert training.validation > 0 and training.seed not in PLAN.seeds
        seen.append(task.name)
        return Delta(training.lr)

    monkeypatch.setattr(rates, "finetune", finetune)
    lab = Lab(lab.base, "base", TASKS, replace(PLAN, rates=tuple(losses)), lab.store, "")
    assert rates.chosen(lab, Kind("task", 0.1)) == 3e-3
    assert set(seen) == {"food", "past"}
    table = rates.rate_table(lab, [Kind("task", 0.1)])
    assert list(table["loss"]) == [3.0, 1.0, 2.0] and not table["at_edge"].any()


def test_a_grid_whose_best_rate_is_at_its_edge_is_extended_and_the_last_edge_told(lab, monkeypatch):
    tried = []

    class Delta:
        def __init__(self, lr, best):
            tried.append(lr)
            self.history = pd.DataFrame({"validation_loss": [abs(np.log(lr / best))]})

    def choose(best: float) -> pd.DataFrame:
        tried.clear()
        kind = Kind("total", best)  # another set each time, so nothing is there already
        monkeypatch.setattr(rates, "finetune", lambda m, t, n, tr, **k: Delta(tr.lr, best))
        plan = replace(PLAN, rates=(1e-3, 2e-3, 4e-3))
        found = Lab(lab.base, "base", TASKS, plan, Store(lab.store.folder / f"{best}"), "")
        for units in search.phases([rates.search(found, kind)]):
            found.store.work(units)
        n_tried = len(tried)
        table = rates.rate_table(found, [kind])
        assert len(tried) == n_tried  # all that was needed is listed in the phases
        return table[table["chosen"]]

    chosen = choose(0.008)
    assert chosen["lr"].item() == pytest.approx(0.008) and not chosen["at_edge"].item()
    chosen = choose(0.9)
    assert chosen["lr"].item() == pytest.approx(0.064) and chosen["at_edge"].item()
    chosen = choose(0.0006)
    assert chosen["lr"].item() == pytest.approx(0.0005) and not chosen["at_edge"].item()


def test_a_rate_that_diverges_is_never_the_best():
    assert search.best_rate({1e-3: 2.0, 1e-2: float("nan"), 1e-1: float("inf")}) == 1e-3
    assert search.beyond({1e-3: 2.0, 1e-2: 1.0, 1e-1: float("nan")}) is None


def test_all_weights_take_a_third_of_a_single_rate(lab):
    assert rates.chosen(lab, Kind(ALL_WEIGHTS)) == pytest.approx(1e-2 / 3)
    assert rates.rate_table(lab, [Kind(ALL_WEIGHTS)]).empty


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


def test_groups_need_two_tasks_of_a_family():
    assert groups_of(TASKS) == {
        "CLS": Group(("food",), ("film",)),
        "GEN": Group(("past",), ("plural",)),
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
