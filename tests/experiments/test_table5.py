"""Tasks in a row as an experiment, on a tiny model."""

from dataclasses import replace
from typing import Any

import helpers
import pandas as pd
import pytest
from sequences import three_tasks

from tl_taskneurons.experiments.claims.columns import TABLES
from tl_taskneurons.experiments.lab import search
from tl_taskneurons.experiments.lab.lab import Lab
from tl_taskneurons.experiments.lab.plan import Plan, SequenceSizes
from tl_taskneurons.experiments.lab.rates import SEED
from tl_taskneurons.experiments.lab.store import Store
from tl_taskneurons.experiments.paper import table5
from tl_taskneurons.tasks.task import Tasks

TASKS = three_tasks()
SIZES = SequenceSizes(
    orders=("one,two",), methods=("ncft", "seq-ft", "per-task"), steps=2, batch_size=2, n_train=4,
    n_test=2, rates=(1e-3,),
)  # fmt: skip


@pytest.fixture
def lab(tokenizer, tmp_path, monkeypatch) -> Lab:
    loaded: Any = lambda data, names, seed, limit: Tasks(TASKS[name] for name in names)  # noqa: E731
    monkeypatch.setattr(table5, "load_tasks", loaded)
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    return Lab(model, "base", TASKS, Plan(sequences=SIZES), Store(tmp_path), "")


def other(lab: Lab, **changes: Any) -> Lab:
    return Lab(
        lab.base, "base", TASKS, Plan(sequences=replace(SIZES, **changes)), lab.store, lab.data
    )


def test_every_method_runs_every_order_and_seed_and_goes_on(lab, monkeypatch):
    experiment = table5.Table5()
    lab.store.work(experiment.units(lab))
    stages = experiment.stages(lab)
    assert len(stages) == 3 * 3 * 2  # methods, seeds, stages
    assert not {"seconds", "peak_mib"} & set(stages)
    tables = experiment.tables(lab)
    assert set(tables["table5"]["order"]) == {"one,two", "all"}
    assert set(tables["table5"]["seeds"]) == {3}
    assert tables["table5_rates"].empty
    for name, rows in experiment.evidence(lab).items():
        assert len(TABLES[name].read(rows)) == len(rows)
    monkeypatch.setattr(table5, "run_sequence", None)  # everything is there already
    again = other(lab)
    pd.testing.assert_frame_equal(experiment.stages(again), stages)


def test_instructions_are_the_same_for_all_tasks_unless_each_has_its_own(lab):
    neutral = table5.order_tasks(lab, "one,two", 0, "neutral")
    own = table5.order_tasks(lab, "one,two", 0, "own")
    assert {task.instruction for task in neutral} == {table5.NEUTRAL_INSTRUCTION}
    assert [task.instruction for task in own] == ["one", "two"]
    both = other(lab, instructions=("neutral", "own"), methods=("ncft",))
    stages = table5.Table5().stages(both)
    assert stages.groupby("instructions").size().to_dict() == {"neutral": 6, "own": 6}
    assert len(table5.Table5().evidence(both)["stages"]) == 6


def test_rates_are_chosen_on_single_tasks_and_training_examples_alone(lab, monkeypatch):
    seen = []
    plain = table5.run_sequence

    def watched(model, tasks, method, training, **options):
        seen.append((tasks.names, training.lr, training.seed))
        (task,) = tasks
        assert set(task.test) <= set(TASKS[task.name].train)
        assert not set(task.test) & set(task.train)
        return plain(model, tasks, method, training, **options)

    monkeypatch.setattr(table5, "run_sequence", watched)
    chosen = other(lab, rates=(1e-3, 2e-3, 4e-3), methods=("ncft", "w-ncft", "seq-ft"))
    for units in search.phases(table5.rate_searches(chosen)):
        chosen.store.work(units)
    assert {names for names, _, _ in seen} == {("one",), ("two",)}
    assert {seed for _, _, seed in seen} == {SEED}
    # w-ncft learns as ncft does; all weights take a third of the rates.
    assert len(seen) == len(set(seen))
    assert {1e-3, 2e-3, 4e-3} <= {lr for _, lr, _ in seen}
    assert any(lr == pytest.approx(1e-3 / 3) for _, lr, _ in seen)
    n_seen = len(seen)
    table = table5.rate_table(chosen)
    assert len(seen) == n_seen
    for method, rows in table.groupby("method"):
        best = rows["lr"].iloc[rows["loss"].argmin()]
        assert table5.chosen_rate(chosen, str(method), "neutral") == best


def test_a_given_rate_is_taken_without_a_choice(lab):
    given = other(lab, given_rates=(("ncft", 5e-3),), rates=(1e-3, 3e-3))
    assert table5.chosen_rate(given, "ncft", "neutral") == 5e-3
    assert table5.rates_of(given, "seq-ft") == pytest.approx((1e-3 / 3, 1e-3))


def rows() -> pd.DataFrame:
    """Two methods on two orders and two seeds."""
    cl = {"ncft": [0.6, 0.7, 0.8, 0.9], "seq-lora": [0.5, 0.5, 0.5, 0.5]}
    units = [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    lines = [
        {"method": method, "order": order, "seed": seed, "instructions": "neutral", "lr": 0.1,
         "cl": value, "fg": value, "bwt": 0.0, "fwt": 0.0, "alone": 1.0}
        for method, values in cl.items()
        for (order, seed), value in zip(units, values, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(lines)


def test_the_table_has_means_by_order_and_over_all_with_intervals_over_seeds():
    many = pd.concat([rows().assign(seed=rows()["seed"] + 2 * k) for k in range(3)])
    table = table5.table(many).set_index(["method", "order"])
    assert table.loc[("ncft", "a"), "cl"] == pytest.approx(0.65)
    assert table.loc[("ncft", "all"), "cl"] == pytest.approx(0.75)
    assert table.loc[("ncft", "all"), "rows"] == 12 and table.loc[("ncft", "all"), "seeds"] == 6
    low, high = (table[name].loc[("ncft", "all")] for name in ("cl_low", "cl_high"))
    # Each seed's mean over the orders is .7 or .8: rows of one seed are not counted twice.
    assert 0.65 <= float(low) < 0.75 < float(high) <= 0.85
    assert table.loc[("seq-lora", "all"), "cl_low"] == pytest.approx(0.5)


def test_curves_leave_out_the_first_stage():
    stages = pd.concat([rows().assign(stage=stage) for stage in (1, 2)])
    curves = table5.curves(stages)
    assert curves["stage"].tolist() == [2, 2]
    assert curves["fg"].tolist() == pytest.approx([0.75, 0.5])
