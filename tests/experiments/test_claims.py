"""Claims on made-up tables whose truth is known: they hold, fail or are not tested, as they should.

The rates of false positives come from 100 small tables per claim (60 where these have items, 20 for
C3) and 200 draws each. They are the least favourable ones: all comparisons but one are clearly
true, and that one has no effect. The fixed seed makes it the same every time; the tests of
``statistics`` have larger numbers.
"""

import math

import numpy as np
import pandas as pd
import pytest
from claim_tables import (
    FIVE,
    TASKS,
    WITH_ITEMS,
    alone,
    controlled,
    deactivation,
    false_positives,
    grid,
    of,
    overlap,
    tables_of_c3,
    together,
    trained,
)

from tl_taskneurons.experiments.claims import c1, c2, c3, c4, c5, c6


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# --- C1 ---


def test_c1_holds_and_fails(rng):
    found = c1(deactivation(rng))
    assert (found.verdict, found.n_hold, found.n) == ("holds", 3, 3)
    assert found.effect == pytest.approx(0.4, abs=0.1)
    assert found.low < found.effect < found.high
    assert {each.what for each in found.comparisons} == set(TASKS)
    assert "5 " in found.note
    for own in (0.1, -0.3):
        failed = c1(deactivation(rng, own=own))
        assert (failed.verdict, failed.n_hold) == ("fails", 0)


def test_c1_tells_some_tasks_from_none(rng):
    found = c1(deactivation(rng, own={"a": 0.5, "b": 0.1, "c": 0.5}))
    assert (found.verdict, found.n_hold, found.n) == ("fails", 2, 3)
    assert {each.what: each.holds for each in found.comparisons} == {"a": 1, "b": 0, "c": 1}


def test_c1_effect_by_hand():
    rows = pd.DataFrame(
        [("a", "task", -1, "a", 0, 0.0), ("a", "task", -1, "a", 1, 1.0)]
        + [("a", "random", s, "a", i, 1.0) for s in range(5) for i in (0, 1)],
        columns=["silenced", "kind", "seed", "task", "item", "score"],
    )
    assert c1(rows).effect == 0.5


def test_c1_needs_five_controls(rng):
    found = c1(deactivation(rng, controls=4))
    assert found.verdict == "not tested"
    assert "needs 5 random controls; there are 4" in found.note
    assert found.effect == pytest.approx(0.4, abs=0.1)  # reported all the same
    missing = c1(None)
    assert (missing.verdict, missing.note, missing.n) == ("not tested", "no table: deactivation", 0)


def test_c1_false_positives():
    own = {"a": 0.8, "b": 0.1, "c": 0.8}
    false_positives(lambda rng: c1(deactivation(rng, own=own)), WITH_ITEMS)


def test_c1_says_what_is_wrong(rng):
    rows = deactivation(rng)
    gone = rows[~((rows["silenced"] == "b") & (rows["item"] == 3) & (rows["kind"] == "task"))]
    with pytest.raises(ValueError, match="'b' has other items"):
        c1(gone)
    with pytest.raises(ValueError, match="'b' has other items"):
        c1(rows.drop(rows[(rows["silenced"] == "b") & (rows["seed"] == 2)].index[0]))
    with pytest.raises(ValueError, match=r"'.' has items without a score \(NaN\)"):
        c1(rows.assign(score=math.nan))
    with pytest.raises(ValueError, match="several scores"):
        c1(pd.concat([rows, rows]))
    with pytest.raises(ValueError, match=r"lacks the columns \['score'\]"):
        c1(rows.drop(columns="score"))
    assert "no random controls" in c1(rows[rows["kind"] == "task"]).note


# --- C2 ---


def test_c2_holds_and_fails(rng):
    found = c2(trained(rng))
    assert (found.verdict, found.n_hold, found.n) == ("holds", 3, 3)
    assert found.effect == pytest.approx(0.5, abs=0.1)
    assert c2(trained(rng, own=0.1)).verdict == "fails"
    assert c2(trained(rng, own=-0.5)).n_hold == 0
    assert c2(None).note == "no table: trained"


def test_c2_with_one_seed_says_so(rng):
    assert "items only" in c2(trained(rng, seeds=1)).note


def test_c2_false_positives():
    own = {"a": 0.9, "b": 0.1, "c": 0.9}
    false_positives(lambda rng: c2(trained(rng, own=own, seeds=3)), WITH_ITEMS)


def test_c2_needs_both_conditions(rng):
    rows = trained(rng)
    with pytest.raises(ValueError, match="'c' has no rows in one of the conditions"):
        c2(rows[~((rows["trained"] == "c") & (rows["neurons"] == "random"))])
    with pytest.raises(ValueError, match="'c' has other items"):
        c2(rows[~((rows["trained"] == "c") & (rows["neurons"] == "random") & (rows["seed"] == 1))])


# --- C3 ---


def test_c3_holds_and_fails(rng):
    found = c3(*tables_of_c3(rng))
    assert (found.verdict, found.n_hold, found.n) == ("holds", 22, 22)
    assert "silenced: largest in 5 of 5 rows, 5 of 5 columns" in found.note
    assert "trained: largest in 5 of 5 rows, 5 of 5 columns" in found.note
    for own, others in ((0.2, 0.2), (0.0, 0.5)):
        failed = c3(*tables_of_c3(rng, own=own, others=others))
        assert failed.verdict == "fails"
        assert failed.n_hold <= 2
    half = c3(*tables_of_c3(rng)[:1], *tables_of_c3(rng, own=0.0)[1:])
    assert half.verdict == "fails"
    assert all(each.holds for each in of(half, "silenced") if each.what != "diagonal")
    assert not any(each.holds for each in of(half, "trained"))


def test_c3_effects_by_hand():
    tasks, items = TASKS, range(2)
    base = grid(silenced=[""], kind=["none"], seed=[-1], task=tasks, item=items)
    base["score"] = base["task"].map({"a": 1.0, "b": 0.5, "c": 0.8})
    cells = grid(silenced=tasks, kind=["task"], seed=[-1], task=tasks, item=items)
    drops = {"aa": 0.5, "ab": 0.1, "ac": 0.0, "ba": 0.1, "bb": 0.3, "bc": 0.08, "ca": 0.3,
             "cb": 0.0, "cc": 0.4}  # fmt: skip
    before = cells["task"].map({"a": 1.0, "b": 0.5, "c": 0.8})
    cells["score"] = before - (cells["silenced"] + cells["task"]).map(drops)
    found = c3(pd.concat([base, cells]), None, None)
    effects = {each.what: each.effect for each in found.comparisons}
    assert effects["a: row"] == pytest.approx(0.5 - (0.2 + 0.0) / 2)
    assert effects["b: row"] == pytest.approx(0.6 - (0.1 + 0.1) / 2)
    assert effects["a: column"] == pytest.approx(0.5 - (0.1 + 0.3) / 2)
    assert effects["c: column"] == pytest.approx(0.5 - (0.0 + 0.1) / 2)
    diagonal, rest = (0.5 + 0.6 + 0.5) / 3, (0.2 + 0 + 0.1 + 0.1 + 0.3 + 0) / 6
    assert found.effect == pytest.approx(diagonal - rest)
    assert found.verdict == "not tested"
    assert found.note == "no table: trained, plain"


def test_c3_permutes_from_five_tasks_on(rng):
    assert sum(each.what == "diagonal" for each in c3(*tables_of_c3(rng)).comparisons) == 2
    found = c3(*tables_of_c3(rng, tasks=TASKS))
    assert (found.verdict, found.n) == ("holds", 12)


def test_c3_says_what_it_needs(rng):
    assert "needs 3 tasks; there are 2" in c3(*tables_of_c3(rng, tasks=["a", "b"])).note
    silenced, gained, before = tables_of_c3(rng, tasks=TASKS)
    less = silenced[~((silenced["silenced"] == "a") & (silenced["task"] == "b"))]
    assert "neurons of 'a' were not tested on 'b'" in c3(less, gained, before).note
    zero = before.assign(score=before["score"].where(before["task"] != "c", 0.0))
    assert "'c' scores 0 in the plain model" in c3(silenced, gained, zero).note
    with pytest.raises(ValueError, match="'b' has other items"):
        c3(silenced, gained, before[~((before["task"] == "b") & (before["item"] == 0))])


def test_c3_false_positives():
    own = {**dict.fromkeys(FIVE, 0.7), "b": 0.0}
    false_positives(lambda rng: c3(*tables_of_c3(rng, own=own)), n_tables=20)


# --- C4 ---


def test_c4_holds_and_fails(rng):
    found = c4(together(rng), alone(rng))
    assert (found.verdict, found.n_hold, found.n) == ("holds", 6, 6)
    assert "CLS 0.7, GEN 0.5" in found.note
    peak = {each.what: each.effect for each in of(found, "peak")}
    assert peak["CLS"] == pytest.approx(0.4, abs=0.1)
    assert [each.effect for each in of(found, "alone")] == pytest.approx([0.5, 0.5], abs=0.15)
    assert [each.effect for each in of(found, "transfer")] == pytest.approx([0.5, 0.5], abs=0.15)
    for made, part in (
        (c4(together(rng, fall=0.0), alone(rng)), "peak"),
        (c4(together(rng, rise=0.0), alone(rng)), "transfer"),
        (c4(together(rng), alone(rng, rise=0.0)), "alone"),
    ):
        assert made.verdict == "fails"
        assert {each.part for each in made.comparisons if not each.holds} == {part}
    assert c4(together(rng, fall=-0.4, rise=-0.5), alone(rng, rise=-0.5)).n_hold == 0


def test_c4_takes_the_nearest_share_below_one(rng):
    found = c4(together(rng, groups=("CLS",), shares=(0.1, 0.5, 1.0)), alone(rng))
    assert "CLS 0.5" in found.note


def test_c4_says_what_it_needs(rng):
    assert c4(None, None).note == "no table: together, alone"
    half = c4(together(rng), None)
    assert (half.verdict, half.note, half.n) == ("not tested", "no table: alone", 4)
    assert "needs the share 1.0" in c4(together(rng, shares=(0.1, 0.5)), alone(rng)).note
    assert "alone: needs two shares" in c4(together(rng), alone(rng, shares=(0.5,))).note
    rows = alone(rng)
    with pytest.raises(ValueError, match="'b' has"):
        c4(together(rng), rows[~((rows["trained"] == "b") & (rows["fraction"] == 0.1))])


def test_c4_with_different_numbers_of_seeds(rng):
    assert c4(together(rng, seeds=5), alone(rng, seeds=4)).verdict == "holds"


def test_c4_false_positives():
    def make(rng):
        tables = together(rng, 0.6, 1.5, groups=("CLS",)), alone(rng, {"a": 0.0, "b": 1.5})
        return c4(*tables)

    false_positives(make, WITH_ITEMS)


# --- C5 ---


def test_c5_holds_and_fails(rng):
    found = c5(overlap(rng))
    assert (found.verdict, found.n_hold, found.n) == ("holds", 4, 4)
    assert {each.p for each in found.comparisons} == {1 / 32}
    assert found.effect == pytest.approx(0.1, abs=0.02)
    one = found.comparisons[0]
    assert (one.part, one.what) == ("CLS", "10%")
    assert 0 < one.low < one.effect < one.high
    assert c5(overlap(rng, gap=0.0)).verdict == "fails"
    assert c5(overlap(rng, gap=-0.1)).n_hold == 0
    assert c5(overlap(rng, gap=0.2, weakest=-0.1)).n_hold == 0  # one share decides for all


def test_c5_says_what_it_needs(rng):
    few = c5(overlap(rng, seeds=4))
    assert (few.verdict, few.n) == ("not tested", 4)
    assert "needs 5 detection seeds; there are 4" in few.note
    assert c5(None).note == "no table: overlap"
    rows = overlap(rng)
    assert "both types" in c5(rows[rows["train_group"] == "CLS"]).note
    with pytest.raises(ValueError, match="iou is missing or NaN"):
        c5(rows.drop(index=0))


def test_c5_false_positives():
    false_positives(lambda rng: c5(overlap(rng, weakest=0.0, shares=(0.1, 0.5))))


# --- C6 ---


def test_c6_holds_and_fails(rng):
    found = c6(controlled(rng, rise=1.0))
    assert (found.verdict, found.n_hold, found.n) == ("holds", 4, 4)
    assert found.effect == pytest.approx(1, abs=0.1)
    assert found.comparisons[0].what == "CLS at 10%"
    assert c6(controlled(rng, rise=0.0)).verdict == "fails"
    assert c6(controlled(rng, rise=-1.0)).n_hold == 0
    some = c6(controlled(rng, rise={0.1: 1.0, 0.3: -1.0}))
    assert {each.what for each in some.comparisons if each.holds} <= {"CLS at 10%", "GEN at 10%"}
    assert some.verdict == "fails"


def test_c6_says_what_it_needs(rng):
    assert c6(None).note == "no table: controlled"
    rows = controlled(rng)
    assert "needs two overlaps" in c6(rows[rows["overlap"] == 0.4]).note
    with pytest.raises(ValueError, match="'GENy' has no rows at some of the values of 'overlap'"):
        c6(rows[~((rows["task"] == "GENy") & (rows["overlap"] == 0.4))])


def test_c6_false_positives():
    rise = {0.1: 2.0, 0.3: 0.0}
    false_positives(lambda rng: c6(controlled(rng, rise, groups=("CLS",))), WITH_ITEMS)
