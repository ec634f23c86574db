"""Claims C1 to C6 on made-up tables whose truth is known; ``decide`` has the rates of errors."""

import math

import numpy as np
import pandas as pd
import pytest
from claim_tables import (
    TASKS,
    alone,
    ask,
    controlled,
    deactivation,
    first,
    gates,
    overlap,
    plain,
    together,
    trained,
)
from scipy import stats

from tl_taskneurons.experiments.claims import claims, headline, summary_of_gates
from tl_taskneurons.experiments.claims.evidence import UNITS, Evidence

pytestmark = pytest.mark.needs("once")  # tables and numbers alone


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def part(found: list, name: str):
    return next(each for each in found if each.part.startswith(name))


# --- C1 ---


def test_c1_by_size(rng):
    found = first("C1", deactivation=deactivation(rng))
    assert (found.verdict, found.n_hold, found.n) == ("supported for all", 12, 12)
    assert found.effect == pytest.approx(0.4, abs=0.05)
    assert found.low < found.effect < found.high
    assert {each.what for each in found.comparisons} == set(TASKS)
    assert found.part == "silenced: 1.0%, plain, plain controls"
    most = dict.fromkeys(TASKS, 0.5) | {"a": 0.1, "b": 0.1}
    assert first("C1", deactivation=deactivation(rng, most)).verdict == "supported for most"
    some = dict.fromkeys(TASKS, 0.5) | dict.fromkeys("abcdef", 0.1)
    assert first("C1", deactivation=deactivation(rng, some)).verdict == "supported on average"
    for own in (0.1, -0.3):
        assert first("C1", deactivation=deactivation(rng, own)).verdict == "refuted"
    noise = {task: 0.1 + 0.3 * (-1) ** k for k, task in enumerate(TASKS)}
    unclear = first("C1", deactivation=deactivation(rng, noise))
    assert unclear.verdict == "inconclusive"
    assert 0 <= unclear.power < 0.5


def test_c1_asks_each_setting(rng):
    rows = deactivation(rng, matches=("total", "layer"), tasks=TASKS[:5])
    found = ask("C1", deactivation=rows)
    assert [(each.part.split(", ")[-1], each.unit[:4]) for each in found] == [
        ("controls by layer", "nats"), ("plain controls", "nats"),
        ("controls by layer", "accu"), ("plain controls", "accu"),
    ]  # fmt: skip
    assert [each.primary for each in found] == [False, True, False, False]
    assert found[3].sought == pytest.approx(0.0955)  # the paper's, over its twelve tasks
    assert found[1].sought == found[1].interest == 0.05


def test_c1_effect_by_hand():
    rows = pd.DataFrame(
        [("a", "task", -1, "a", 0, 2.0), ("a", "task", -1, "a", 1, 1.0)]
        + [("a", "random", s, "a", i, 0.5) for s in range(5) for i in (0, 1)],
        columns=["silenced", "kind", "seed", "task", "item", "loss"],
    ).assign(score=0.5)
    assert first("C1", deactivation=rows).effect == 1.0


def test_the_published_gates_are_those_of_the_claims(rng):
    given = gates({"deactivation": TASKS[:4], "trained": TASKS[:4]}).assign(score=0.9)
    few = given["task"] == TASKS[0]
    given.loc[few, "loss"] = given.loc[few, "zero_shot_loss"] + np.where(
        np.arange(few.sum()) % 2, 0.4, -0.5
    )  # on average better, by no test
    given.loc[given["task"] == TASKS[1], "score"] = 0.0
    found = summary_of_gates(given)
    evidence = Evidence({"gates": given})
    for name in ("deactivation", "trained"):
        own = found[found["table"] == name]
        for measure in ("loss", "score"):
            assert set(own.loc[own[f"by_{measure}"], "task"]) == evidence.able(name, measure)
    rows = {(row["table"], row["task"]): row for row in found.to_dict("records")}
    unsure = rows["trained", TASKS[0]]
    assert unsure["loss"] < unsure["zero_shot_loss"] and not unsure["by_loss"]
    assert rows["deactivation", TASKS[0]]["by_loss"]
    assert not rows["deactivation", TASKS[1]]["by_score"]


def test_c1_gates(rng):
    rows = deactivation(rng)
    low = dict.fromkeys(TASKS, 0.6) | dict.fromkeys("abc", 0.0)
    found = first("C1", low, deactivation=rows)
    assert {each.what for each in found.comparisons} == set(TASKS) - set("abc")
    none = first("C1", 0.0, deactivation=rows)
    assert none.verdict == "not testable"
    assert "no task passes the gate of deactivation" in none.note
    ungated = claims({"deactivation": rows}, ["C1"])
    assert ungated[0].note == "no table: gates"
    # A model that is above guessing without training passes in nats, but not by score.
    given = gates({"deactivation": TASKS}).assign(zero_shot_loss=0.1)
    by_loss, by_score = claims({"deactivation": rows, "gates": given}, ["C1"])
    assert by_loss.supported
    assert by_score.verdict == "not testable"


def test_c1_needs_five_controls(rng):
    found = first("C1", deactivation=deactivation(rng, controls=4, samples=1))
    assert found.verdict == "not testable"
    assert "needs 5 random controls; there are 4" in found.note
    (missing,) = claims({}, ["C1"])
    assert (missing.verdict, missing.note, missing.n) == (
        "not testable",
        "no table: deactivation",
        0,
    )


def test_c1_false_positives():
    """With no effect in any task but spread between sets, over 30 tables."""
    hits = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        rows = deactivation(rng, own=0.1, random=0.1, tasks=TASKS[:6], spread=0.3, n_items=5)
        hits += first("C1", deactivation=rows).supported
    assert hits <= stats.binom.ppf(0.99, 30, 0.05)


def test_c1_says_what_is_wrong(rng):
    rows = deactivation(rng)
    gone = rows[~((rows["silenced"] == "b") & (rows["item"] == 3) & (rows["kind"] == "task"))]
    with pytest.raises(ValueError, match="'b' has other items"):
        ask("C1", deactivation=gone)
    with pytest.raises(ValueError, match=r"'.' has items without a loss \(NaN\)"):
        ask("C1", deactivation=rows.assign(loss=math.nan))
    with pytest.raises(ValueError, match="several rows for"):
        ask("C1", deactivation=pd.concat([rows, rows]))
    (found,) = ask("C1", deactivation=rows.drop(columns="loss"))
    assert found.note == "the table deactivation lacks the columns loss"
    (found,) = ask("C1", deactivation=rows[rows["kind"] == "task"])
    assert "no random controls" in found.note


# --- C2 ---


def test_c2_is_two_claims(rng):
    quick = trained(rng, questions=("speed",))
    same = trained(rng, own=0.05, questions=("end point",))
    found = headline(ask("C2", trained=pd.concat([quick, same])))
    assert [each.part for each in found] == [
        "speed: 1.0%, plain controls", "end point: 1.0%, plain controls",
    ]  # fmt: skip
    assert [each.verdict for each in found] == ["supported for all", "refuted"]
    assert found[0].effect == pytest.approx(0.5, abs=0.05)
    only = ask("C2", trained=quick)
    assert part(only, "end point").note == "no rows of random neurons"


def test_c2_asks_speed_in_nats_alone_where_nothing_was_scored(rng):
    quick = trained(rng, questions=("speed",)).assign(score=np.nan)
    found = ask("C2", trained=pd.concat([quick, trained(rng, questions=("end point",))]))
    asked = [(each.part.partition(":")[0], each.unit) for each in found]
    assert ("speed", UNITS["loss"]) in asked and ("end point", UNITS["score"]) in asked
    assert ("speed", UNITS["score"]) not in asked


def test_c2_can_tell_no_speed_where_nothing_was_learnt_yet(rng):
    early = trained(rng, questions=("speed",)).assign(loss=0.79)
    (found, *_) = ask("C2", trained=early)
    assert found.verdict == "not testable"
    assert "no neurons have learnt 0.02 nats per token; the most is 0.010" in found.note


def test_c2_with_one_seed_says_so(rng):
    assert "items only" in first("C2", trained=trained(rng, seeds=1)).note


def test_c2_needs_both_conditions(rng):
    rows = trained(rng)
    with pytest.raises(ValueError, match="'b' has no rows in one of the conditions"):
        ask("C2", trained=rows[~((rows["trained"] == "b") & (rows["neurons"] == "task"))])
    with pytest.raises(ValueError, match="'b' has other items"):
        gone = (rows["trained"] == "b") & (rows["neurons"] == "task") & (rows["seed"] == 1)
        ask("C2", trained=rows[~gone])


# --- C3 ---


def test_c3_by_size(rng):
    silenced, gained = headline(
        ask("C3", deactivation=deactivation(rng), trained=trained(rng), plain=plain(rng))
    )
    assert silenced.verdict == gained.verdict == "supported for all"
    assert silenced.effect == pytest.approx(0.5, abs=0.05)
    assert silenced.note == "largest in 12 of 12 rows, 12 of 12 columns"
    everywhere = first("C3", deactivation=deactivation(rng, own=0.5, others=0.5))
    assert everywhere.verdict == "refuted"


def test_c3_asks_rows_and_columns(rng):
    """A task whose neurons hurt all tasks alike wins its column, but not its row."""
    rows = deactivation(rng, tasks=TASKS[:6])
    worst = (rows["silenced"] == "a") & (rows["kind"] == "task") & (rows["task"] != "a")
    rows.loc[worst, "loss"] += 0.6
    found = first("C3", deactivation=rows)
    ps = {each.what: each.p for each in found.comparisons}
    assert ps.pop("a") > 0.05
    assert found.verdict != "supported for all"


def test_c3_says_what_it_needs(rng):
    rows = deactivation(rng, tasks=TASKS[:4])
    assert "needs 5 tasks that pass the gate; there are 4" in first("C3", deactivation=rows).note
    gone = deactivation(rng)
    gone = gone[~((gone["silenced"] == "a") & (gone["task"] == "b"))]
    assert "the neurons of 'a' were not tested on 'b'" in first("C3", deactivation=gone).note
    assert part(ask("C3", deactivation=rows), "trained").note == "no table: trained"


# --- C4 ---


def test_c4_by_size(rng):
    found = ask("C4", together=together(rng), alone=alone(rng))
    assert [each.part for each in found] == ["peak", "transfer", "alone"]
    assert {each.verdict for each in found} == {"supported for all"}
    assert found[0].effect == pytest.approx(0.4, abs=0.05)
    assert found[1].effect == pytest.approx(0.5, abs=0.07)
    flat = ask("C4", together=together(rng, fall=0.0, rise=-0.5), alone=alone(rng, rise=-0.5))
    assert not any(each.supported for each in flat)
    assert part(flat, "transfer").verdict == "refuted"


def test_c4_says_what_it_needs(rng):
    rows = together(rng)
    found = ask("C4", together=rows[rows["fraction"] < 1])
    assert found[0].note == "needs the share 1.0 and one below it"
    assert found[2].note == "no table: alone"


# --- C5 ---


def test_c5_by_size(rng):
    (found,) = claims({"overlap": overlap(rng)}, ["C5"])
    assert (found.verdict, found.n) == ("supported for all", 4)
    assert found.effect == pytest.approx(0.1, abs=0.02)
    (weak,) = claims({"overlap": overlap(rng, weakest=0.0)}, ["C5"])
    assert weak.verdict == "supported on average"
    (none,) = claims({"overlap": overlap(rng, gap=-0.05)}, ["C5"])
    assert none.verdict == "refuted"
    (few,) = claims({"overlap": overlap(rng, seeds=2)}, ["C5"])
    assert few.note == "needs 3 samples to detect on; there are 2"


# --- C6 ---


def test_c6_has_the_trained_tasks_beside(rng):
    found = ask("C6", controlled=controlled(rng))
    assert [each.part for each in found] == ["transfer", "beyond the trained tasks", "transfer"]
    assert {each.verdict for each in found} == {"supported for all"}
    assert found[0].effect == pytest.approx(0.5, abs=0.05)
    confounded = ask("C6", controlled=controlled(rng, own=0.9))
    assert confounded[0].supported
    assert confounded[1].verdict == "refuted"
    mixed = controlled(rng, rise={0.1: 0.5, 0.3: 0.0})
    assert first("C6", controlled=mixed).verdict == "supported on average"


def test_c6_says_what_it_needs(rng):
    rows = controlled(rng)
    one = rows[rows["overlap"] == 0.1]
    assert first("C6", controlled=one).note == "needs two overlaps or more"
    siblings = ask("C6", controlled=rows[rows["kind"] == "out-of-domain"])
    assert siblings[0].supported
    assert "needs the rows of the trained tasks" in siblings[1].note
