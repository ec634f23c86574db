"""Tasks in a row as an experiment, on a tiny model."""

from dataclasses import replace
from typing import Any

import helpers
import pandas as pd
import pytest
from sequence_tasks import three_tasks

from tl_taskneurons.evaluation.evaluate import evaluate_items
from tl_taskneurons.experiments.claims.columns import TABLES
from tl_taskneurons.experiments.lab import primer, search
from tl_taskneurons.experiments.lab.lab import Lab
from tl_taskneurons.experiments.lab.plan import Plan, SequenceSizes
from tl_taskneurons.experiments.lab.rates import SEED
from tl_taskneurons.experiments.lab.store import Store
from tl_taskneurons.experiments.paper import row_budgets, row_start, table5
from tl_taskneurons.runtime.table_files import read_json
from tl_taskneurons.tasks.task import Tasks

# The tasks are tiny on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:.*seeds share examples:UserWarning")

TASKS = three_tasks()
SIZES = SequenceSizes(
    orders=("one,two",), methods=("ncft", "seq-ft", "per-task"), steps=2, batch_size=2, n_train=4,
    n_test=2, rates=(1e-3,),
)  # fmt: skip


@pytest.fixture
def lab(tokenizer, tmp_path, monkeypatch) -> Lab:
    loaded: Any = lambda data, names, seed, limit: Tasks(TASKS[name] for name in names)  # noqa: E731
    monkeypatch.setattr(row_budgets, "load_tasks", loaded)
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    return Lab(model, "base", TASKS, Plan(sequences=SIZES), Store(tmp_path), "")


def test_seeds_that_share_examples_are_told(lab):
    told = (
        "'one' has 8 training examples for 3 seeds of 4 and 4 test examples for 3 seeds of 2: "
        "seeds share"
    )
    with pytest.warns(row_budgets.SharedExamplesWarning, match=told) as caught:
        row_budgets.order_tasks(lab, "one,two", 0, "neutral")
    assert "--row-train, --row-test" in str(caught[0].message)
    assert "--max-chars" not in str(caught[0].message)
    cut = Lab(lab.base, "base", TASKS, replace(lab.plan, max_chars=9), lab.store, "")
    with pytest.warns(row_budgets.SharedExamplesWarning, match="of at most 9 characters") as caught:
        row_budgets.order_tasks(cut, "one,two", 0, "neutral")
    assert "--max-chars" in str(caught[0].message)


@pytest.mark.filterwarnings("error")
def test_seeds_with_examples_of_their_own_are_silent(lab):
    enough = other(lab, seeds=(0, 1))
    tests = [
        {
            each.input
            for each in row_budgets.order_tasks(enough, "one,two", seed, "neutral")["one"].test
        }
        for seed in (0, 1)
    ]
    assert not tests[0] & tests[1]
    assert row_start.table(enough)["different"].tolist() == [4, 4]


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
    assert {"fg", "fg_paper"} <= set(tables["table5"])
    start = tables["table5_start"]
    columns = ["task", "start", "labels", "guessing", "n", "different"]
    assert start[columns].to_numpy().tolist() == [
        [name, "base", 2, 0.5, 4, 4]
        for name in ("one", "two")  # seeds share some of the examples
    ]
    drawn = [row_budgets.order_tasks(lab, "one,two", seed, "neutral")["two"] for seed in (0, 1)]
    items = pd.concat([evaluate_items(lab.base, task) for task in drawn])
    assert start["loss"][1] == pytest.approx(items["loss"].mean(), rel=1e-6)
    assert start["score"][1] == items["score"].mean()
    for name, rows in experiment.evidence(lab).items():
        assert len(TABLES[name].read(rows)) == len(rows)
    monkeypatch.setattr(table5, "run_sequence", None)  # everything is there already
    again = other(lab)
    pd.testing.assert_frame_equal(experiment.stages(again), stages)


def test_instructions_are_the_same_for_all_tasks_unless_each_has_its_own(lab):
    neutral = row_budgets.order_tasks(lab, "one,two", 0, "neutral")
    own = row_budgets.order_tasks(lab, "one,two", 0, "own")
    assert {task.instruction for task in neutral} == {row_budgets.NEUTRAL_INSTRUCTION}
    assert [task.instruction for task in own] == ["one", "two"]
    both = other(lab, instructions=("neutral", "own"), methods=("ncft",))
    stages = table5.Table5().stages(both)
    assert stages.groupby("instructions").size().to_dict() == {"neutral": 6, "own": 6}
    assert len(table5.Table5().evidence(both)["stages"]) == 6


def test_the_miniature_knows_every_word_of_neutral_instructions_and_primers():
    tokenizer = builtin_tokenizer()
    texts = [row_budgets.NEUTRAL_INSTRUCTION]
    texts += [f"{asks} {phrase.format('sport')}" for asks, phrase in primer.PHRASES]
    for text in texts:
        assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"], text
    # A row's instruction must not be one that the primer answers.
    assert row_budgets.NEUTRAL_INSTRUCTION not in [asks for asks, _ in primer.PHRASES]


def builtin_tokenizer() -> Any:
    from transformers import AutoTokenizer

    from tl_taskneurons.builtin.mini_models import mini_model_folder

    return AutoTokenizer.from_pretrained(mini_model_folder("mini-llama-base"))


def test_rates_are_chosen_on_single_tasks_at_a_seed_of_their_own(lab):
    chosen = other(lab, rates=(1e-3, 2e-3, 4e-3), methods=("ncft", "w-ncft", "seq-ft"))
    work(chosen)
    stored = [read_json(path) for path in (lab.store.folder / "curves").glob("*.json")]
    seen = [(found["key"]["learner"], found["key"]["training"]["lr"]) for found in stored]
    assert {found["key"]["training"]["seed"] for found in stored} == {SEED}
    assert len({found["key"]["on"] for found in stored}) == 2  # each task alone
    # w-ncft learns as ncft does; all weights take a third of the rates.
    assert len({learner for learner, _ in seen}) == 2
    assert {1e-3, 2e-3, 4e-3} <= {lr for _, lr in seen}
    assert any(lr == pytest.approx(1e-3 / 3) for _, lr in seen)
    table = row_budgets.table(chosen)
    assert len(list((lab.store.folder / "curves").glob("*.json"))) == len(stored)
    for method, rows in table.groupby("method"):
        best = rows["lr"].iloc[rows["loss"].argmin()]
        assert row_budgets.budget(chosen, str(method), "neutral").lr == best


def work(lab: Lab) -> None:
    for units in search.phases(row_budgets.rate_searches(lab)):
        lab.store.work(units)


def test_methods_are_trained_until_they_reach_the_goal(lab):
    sizes: dict[str, Any] = {"methods": ("ncft", "seq-ft"), "steps": 6, "look_every": 2}
    without = row_budgets.budget(other(lab, **sizes), "ncft", "neutral")
    assert (without.updates, without.reached) == (6, True)
    never = other(lab, goal=1e-6, **sizes)
    work(never)  # the curves are there, though one rate leaves nothing to choose
    assert row_budgets.budget(never, "ncft", "neutral") == row_budgets.Budget(1e-3, 6, False)
    search_of = row_budgets.rate_search(never, "ncft", "neutral")
    curves = pd.concat([lab.store.get(result) for result, _ in search_of.results(1e-3)])
    means = curves.groupby("updates")["loss"].mean()
    assert means.index.tolist() == [2, 4, 6] and means.is_monotonic_decreasing
    middle = other(lab, goal=float(means[4]), **sizes)
    assert row_budgets.budget(middle, "ncft", "neutral") == row_budgets.Budget(1e-3, 4, True)
    stages = table5.Table5().stages(middle)
    assert set(stages.loc[stages["method"] == "ncft", "updates"]) == {4}


def test_methods_are_trained_to_the_lowest_loss_that_all_of_them_reach(lab):
    sizes: dict[str, Any] = {"methods": ("ncft", "seq-ft"), "steps": 6, "look_every": 2}
    common = other(lab, goal="common", **sizes)
    work(common)
    curves = {}
    for method in sizes["methods"]:
        found = row_budgets.rate_search(common, method, "neutral")
        (lr,) = row_budgets.rates_of(common, method)
        parts = [lab.store.get(result) for result, _ in found.results(lr)]
        curves[method] = pd.concat(parts).groupby("updates")["loss"].mean()
    slow, fast = sorted(curves, key=lambda name: curves[name].min(), reverse=True)
    goal = curves[slow].min()
    budgets = {name: row_budgets.budget(common, name, "neutral") for name in curves}
    assert budgets[slow].updates == curves[slow].idxmin()
    assert budgets[fast].updates == curves[fast].index[curves[fast] <= goal][0]
    assert all(each.reached for each in budgets.values())
    alone = other(lab, goal="common", **{**sizes, "methods": (fast,)})
    assert row_budgets.budget(alone, fast, "neutral").updates == curves[fast].idxmin()


def test_rows_may_have_seeds_of_their_own_and_each_other_examples(lab):
    own = other(lab, seeds=(5, 6), methods=("ncft",))
    assert row_budgets.row_seeds(lab) == lab.plan.seeds == (0, 1, 2)
    assert set(table5.Table5().stages(own)["seed"]) == {5, 6}
    drawn = {seed: row_budgets.order_tasks(own, "one,two", seed, "own") for seed in (0, 1)}
    whole = TASKS["one"]
    assert drawn[0]["one"].train == whole.train[:4] and drawn[0]["one"].test == whole.test[:2]
    assert drawn[1]["one"].train == (whole.train * 2)[4:8]
    assert drawn[1]["one"].test == (whole.test * 2)[2:4]
    for source in ("mini", "hub", "hub+folder"):  # drawn by the source
        other_lab = Lab(lab.base, "base", TASKS, own.plan, lab.store, source)
        assert (
            row_budgets.order_tasks(other_lab, "one,two", 1, "own")["one"].train == whole.train[:4]
        )
    folder = Lab(lab.base, "base", TASKS, own.plan, lab.store, "miniature/")
    assert row_budgets.order_tasks(folder, "one,two", 1, "own")["one"] == drawn[1]["one"]


def test_the_primer_makes_labels_known_and_rows_start_there(lab, monkeypatch):
    loaded: Any = lambda data, names, seed: Tasks(TASKS[name] for name in names)  # noqa: E731
    monkeypatch.setattr(primer, "load_tasks", loaded)
    primed = other(lab, primer_steps=12, methods=("ncft",))
    assert primer.units(lab) == []
    lab.store.work(row_budgets.preparation(primed))
    assert all(not unit.missing() for unit in primer.units(primed))
    task = row_budgets.order_tasks(lab, "one,two", 0, "neutral")["one"]
    before = evaluate_items(lab.base, task)["loss"].mean()
    with primer.state(primed).enter() as model:
        known = evaluate_items(model, task)["loss"].mean()
    assert known < before - 0.5
    start = row_start.table(primed).set_index(["task", "start"])["loss"]
    assert start["one", "primed"] < start["one", "base"] - 0.5
    assert evaluate_items(lab.base, task)["loss"].mean() == before
    rows = [list(table5.Table5()._rows(each))[0][0] for each in (lab, primed)]
    assert rows[0].key["model"] != rows[1].key["model"]


def test_what_is_retained_has_guessing_taken_away(lab, monkeypatch):
    plain = table5.run_sequence

    def made_up(*args, **options):
        result = plain(*args, **options)
        scores = result.scores.assign(value=0.5)
        scores.loc[(scores["task"] == "one") & (scores["stage"] == 1), "value"] = 1.0
        return replace(result, scores=scores, alone=result.alone.assign(value=1.0))

    monkeypatch.setattr(table5, "run_sequence", made_up)
    stages = table5.Table5().stages(other(lab, methods=("ncft",)))
    later = stages[stages["stage"] == 2]
    assert later["fg"].tolist() == [0.0] * 3  # one half is chance, and nothing is left of the rest


def test_a_given_rate_is_taken_without_a_choice(lab):
    given = other(lab, given_rates=(("ncft", 5e-3),), rates=(1e-3, 3e-3))
    assert row_budgets.budget(given, "ncft", "neutral").lr == 5e-3
    assert row_budgets.rates_of(given, "seq-ft") == pytest.approx((1e-3 / 3, 1e-3))


def rows() -> pd.DataFrame:
    """Two methods on two orders and two seeds."""
    cl = {"ncft": [0.6, 0.7, 0.8, 0.9], "seq-lora": [0.5, 0.5, 0.5, 0.5]}
    units = [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    lines = [
        {"method": method, "order": order, "seed": seed, "instructions": "neutral", "lr": 0.1,
         "updates": 9, "reached": True, "cl": value, "fg": value, "fg_paper": value, "bwt": 0.0,
         "fwt": 0.0, "alone": 1.0}
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
