"""Claims on made-up tables whose truth is known: they hold, fail or are not tested, as they should.

The rates of false positives come from 100 small tables per claim (60 where these have items, 20 for
C3) and 200 draws each. They are the least favourable ones: all comparisons but one are clearly
true, and that one has no effect. The fixed seed makes it the same every time; the tests of
``statistics`` have larger numbers.
"""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tl_taskneurons.experiments.claims import (
    c1,
    c2,
    c3,
    c4,
    c5,
    c6,
    c7,
    c8,
    c9,
    c10,
    c11,
    claims,
    comparisons_frame,
    frame,
    from_json,
    to_json,
)

TASKS = ["a", "b", "c"]
N_BOOT = 200
Sizes = float | dict  # one for all, or by task or share
WITH_ITEMS = 60  # tables with items take longer


def grid(**axes) -> pd.DataFrame:
    listed = {name: list(axis) for name, axis in axes.items()}
    whole = pd.MultiIndex.from_product(list(listed.values()), names=list(listed))
    return whole.to_frame(index=False)


def scored(rows: pd.DataFrame, mean, rng, seed_spread: float = 0.05) -> pd.DataFrame:
    """Scores around the mean, with an own shift of each state of the model, and noise."""
    states = rows.groupby([name for name in rows.columns if name != "item"], sort=False).ngroup()
    shifts = rng.normal(0, seed_spread, states.max() + 1)[states]
    return rows.assign(score=mean + shifts + rng.normal(0, 0.1, len(rows)), loss=1.0)


def false_positives(make, n_tables: int = 100) -> float:
    """Share of verdicts that hold; at most what chance allows a rate of 5% in 99 of 100 cases."""
    rng = np.random.default_rng(0)
    n_holding = sum(make(rng).verdict == "holds" for _ in range(n_tables))
    assert n_holding <= stats.binom.ppf(0.99, n_tables, 0.05)
    return n_holding / n_tables


def of(verdict, part: str) -> list:
    return [each for each in verdict.comparisons if each.part == part]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# --- C1 ---


def deactivation(
    rng, own: Sizes = 0.5, others=0.0, random=0.1, tasks=TASKS, controls=5, n_items=15
):
    """Drops when own, others' and random neurons are silenced; ``own`` may differ by task."""
    chosen = grid(silenced=tasks, kind=["task"], seed=[-1], task=tasks, item=range(n_items))
    on_own = chosen["silenced"] == chosen["task"]
    own_drop = chosen["task"].map(own) if isinstance(own, dict) else own
    control = grid(silenced=tasks, kind=["random"], seed=range(controls), item=range(n_items))
    control = control.assign(task=control["silenced"])
    plain = grid(silenced=[""], kind=["none"], seed=[-1], task=tasks, item=range(n_items))
    parts = [
        scored(chosen, np.where(on_own, 0.8 - own_drop, 0.8 - others), rng, 0.02),
        scored(control, 0.8 - random, rng, 0.05),
        scored(plain, 0.8, rng, 0.0),
    ]
    return pd.concat(parts, ignore_index=True).sample(frac=1, random_state=0)


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
    false_positives(lambda rng: c1(deactivation(rng, own=own), n_boot=N_BOOT), WITH_ITEMS)


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


def trained(rng, own: Sizes = 0.6, others=0.0, random=0.1, tasks=TASKS, seeds=5, n_items=15):
    chosen = grid(neurons=["task"], trained=tasks, seed=range(seeds), task=tasks,
                  item=range(n_items))  # fmt: skip
    on_own = chosen["trained"] == chosen["task"]
    own_gain = chosen["task"].map(own) if isinstance(own, dict) else own
    control = grid(neurons=["random"], trained=tasks, seed=range(seeds), item=range(n_items))
    control = control.assign(task=control["trained"])
    return pd.concat(
        [scored(chosen, 0.2 + np.where(on_own, own_gain, others), rng),
         scored(control, 0.2 + random, rng)],
        ignore_index=True,
    )  # fmt: skip


def plain(rng, tasks=TASKS, n_items=15):
    return scored(grid(task=tasks, item=range(n_items)), 0.2, rng, 0.0)


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
    false_positives(lambda rng: c2(trained(rng, own=own, seeds=3), n_boot=N_BOOT), WITH_ITEMS)


def test_c2_needs_both_conditions(rng):
    rows = trained(rng)
    with pytest.raises(ValueError, match="'c' has no rows in one of the conditions"):
        c2(rows[~((rows["trained"] == "c") & (rows["neurons"] == "random"))])
    with pytest.raises(ValueError, match="'c' has other items"):
        c2(rows[~((rows["trained"] == "c") & (rows["neurons"] == "random") & (rows["seed"] == 1))])


# --- C3 ---

FIVE = ["a", "b", "c", "d", "e"]


def tables_of_c3(rng, tasks=FIVE, own: Sizes = 0.5, others=0.0, **of_trained):
    gains = {"own": own, "others": others, **of_trained}
    return (
        deactivation(rng, own, others, tasks=tasks),
        trained(rng, **gains, tasks=tasks),
        plain(rng, tasks),
    )


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
    false_positives(lambda rng: c3(*tables_of_c3(rng, own=own), n_boot=N_BOOT), n_tables=20)


# --- C4 ---

SHARES = (0.1, 0.5, 0.7, 1.0)


def together(rng, fall=0.4, rise=0.5, groups=("CLS", "GEN"), shares=SHARES, seeds=4):
    """``fall``: from the peak to all neurons; ``rise``: of transfer, per unit of share."""
    parts = []
    for group in groups:
        best = {"CLS": 0.7, "GEN": 0.5}[group]
        for kind in ("in-domain", "out-of-domain"):
            rows = grid(train_group=[group], test_group=[group], kind=[kind], fraction=shares,
                        seed=range(seeds), task=[f"{group}1{kind}", f"{group}2{kind}"],
                        item=range(10))  # fmt: skip
            mean = 0.6 - fall * (rows["fraction"] > best)
            if kind == "out-of-domain":
                mean = 0.2 + rise * rows["fraction"]
            parts.append(scored(rows, mean, rng))
            if kind == "out-of-domain" and len(groups) > 1:  # across types, where nothing rises
                other = rows.assign(test_group=groups[group == groups[0]], task="other" + rows.task)
                parts.append(scored(other, 0.5 - rows["fraction"], rng))
    return pd.concat(parts, ignore_index=True)


def alone(rng, rise: Sizes = 0.5, tasks=("a", "b"), shares=SHARES, seeds=4):
    rows = grid(trained=tasks, fraction=shares, seed=range(seeds), item=range(10))
    rises = rows["trained"].map(rise) if isinstance(rise, dict) else rise
    own = scored(rows.assign(task=rows["trained"]), 0.2 + rises * rows["fraction"], rng)
    sibling = scored(rows.assign(task="sibling of " + rows["trained"]), 0.5, rng)
    return pd.concat([own, sibling], ignore_index=True)


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
        return c4(*tables, n_boot=N_BOOT)

    false_positives(make, WITH_ITEMS)


# --- C5 ---


def overlap(rng, gap=0.1, seeds=5, shares=(0.1, 0.5, 1.0), weakest=None):
    rows = grid(detection_seed=range(seeds), fraction=shares, train_group=["CLS", "GEN"],
                test_group=["CLS", "GEN"])  # fmt: skip
    within = rows["train_group"] == rows["test_group"]
    gaps = np.where(rows["fraction"] == shares[0], gap if weakest is None else weakest, gap)
    iou = rows["fraction"] * 0.8 + gaps * within + rng.normal(0, 0.01, len(rows))
    return rows.assign(iou=np.where(rows["fraction"] == 1, 1.0, iou))


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


def controlled(rng, rise: Sizes = 0.5, shares=(0.1, 0.3), groups=("CLS", "GEN"), seeds=3):
    rows = grid(group=groups, fraction=shares, overlap=(0.1, 0.4, 0.7, 1.0), seed=range(seeds),
                task=["x", "y"], item=range(10))  # fmt: skip
    rises = rows["fraction"].map(rise) if isinstance(rise, dict) else rise
    return scored(
        rows.assign(task=rows["group"] + rows["task"]), 0.2 + rises * rows["overlap"], rng
    )


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
    false_positives(
        lambda rng: c6(controlled(rng, rise, groups=("CLS",)), n_boot=N_BOOT), WITH_ITEMS
    )


# --- C7 ---

LAYERS = 6


def similarity(rng, rise=0.1, n_models=5, n_layers=LAYERS, last=-1.0):
    rows = grid(model=[f"m{k}" for k in range(n_models)], layer=range(n_layers), task_y=["x", "y"])
    noise = rng.normal(0, 0.05, (n_models, n_layers)).ravel().repeat(2)  # of a model's layer
    values = 0.3 + rise * rows["layer"] + noise + rng.normal(0, 0.02, len(rows))
    values = values.where(rows["layer"] < n_layers - 1, last)  # the fall at the top
    return rows.assign(task_x=rows["model"], similarity=values)


def test_c7_holds_and_fails(rng):
    found = c7(similarity(rng))
    assert (found.verdict, found.n_hold, found.n) == ("holds", 2, 2)
    assert found.effect == pytest.approx(0.35, abs=0.07)  # layers 3 and 4 minus layer 0
    upper, rise = found.comparisons
    assert upper.effect == found.effect
    assert 0.9 < rise.effect <= 1
    assert c7(similarity(rng, rise=0.0)).verdict == "fails"
    assert c7(similarity(rng, rise=-0.1, last=9.0)).n_hold == 0


def test_c7_effects_by_hand():
    rows = grid(model=["m", "n"], layer=range(5), task_y=["x"])
    rows = rows.assign(task_x=rows["model"], similarity=[0, 3, 1, 2, 9, 0, 1, 2, 3, 9])
    upper, rise = c7(rows).comparisons
    assert upper.effect == pytest.approx(((1 + 2) / 2 + (2 + 3) / 2) / 2)
    assert rise.effect == pytest.approx((0.4 + 1) / 2)  # 1 - 6 * (4 + 1 + 1) / (4 * 15)


def test_c7_says_what_it_needs(rng):
    assert c7(None).note == "no table: similarity"
    assert "needs 4 layers; there are 3" in c7(similarity(rng, n_layers=3)).note
    rows = similarity(rng)
    holes = rows.assign(similarity=rows["similarity"].where(rows.index != 0))
    found = c7(holes)
    assert "5 models, 1 pairs, 1 left out" in found.note
    assert "every test task" in c7(rows.assign(similarity=math.nan)).note
    with pytest.raises(ValueError, match="several values of 'part'"):
        c7(rows.assign(part=["gate", "up"] * (len(rows) // 2)))
    with pytest.raises(ValueError, match="similarity is missing or NaN"):
        c7(rows.drop(index=0))


def test_c7_averages_seeds(rng):
    rows = similarity(rng)
    twice = pd.concat([rows.assign(similarity=rows["similarity"] + by) for by in (-0.1, 0.1)])
    assert c7(twice).effect == pytest.approx(c7(rows).effect)


def test_c7_false_positives():
    false_positives(lambda rng: c7(similarity(rng, rise=0.0), n_boot=N_BOOT))


# --- C8 ---


def tables_of_c8(rng, weight=1.0, n_models=6, tests=("x", "y", "z")):
    rows = grid(model=[f"m{k}" for k in range(n_models)], task_y=tests)
    values = rng.normal(size=len(rows))
    scores = weight * values + rng.normal(0, 0.2, len(rows))
    similarities = rows.assign(task_x=rows["model"], layer="all", similarity=values)
    return similarities, rows.rename(columns={"task_y": "task"}).assign(value=scores)


def test_c8_holds_and_fails(rng):
    similarities, transfer = tables_of_c8(rng)
    found = c8(similarities, transfer)
    assert (found.verdict, found.n_hold, found.n) == ("holds", 1, 1)
    x = similarities.pivot(index="model", columns="task_y", values="similarity")
    y = transfer.pivot(index="model", columns="task", values="value")
    by_task = [np.corrcoef(x[task], y[task])[0, 1] for task in x]
    assert found.effect == pytest.approx(np.mean(by_task))
    assert found.low < found.effect < found.high
    assert "above 0 on 3 of 3 test tasks" in found.note
    assert c8(*tables_of_c8(rng, weight=0.0)).verdict == "fails"
    reverse = c8(*tables_of_c8(rng, weight=-1.0))
    assert (reverse.verdict, reverse.effect < -0.5) == ("fails", True)


def test_c8_permutes_within_types(rng):
    similarities, transfer = tables_of_c8(rng, n_models=8, weight=0.0)
    kinds = transfer["model"].map(lambda name: "CLS" if name < "m4" else "GEN")
    by_kind = similarities.assign(
        similarity=similarities["similarity"] + 9 * (similarities["model"] < "m4")
    )
    better = transfer.assign(value=transfer["value"] + 9 * (kinds == "CLS"))
    assert c8(by_kind, better).verdict == "holds"  # the types differ
    assert c8(by_kind, better.assign(type=kinds)).verdict == "fails"  # but nothing within them


def test_c8_says_what_it_needs(rng):
    similarities, transfer = tables_of_c8(rng)
    assert c8(similarities, None).note == "no table: transfer"
    assert "needs more models: 3 have 6 permutations" in c8(*tables_of_c8(rng, n_models=3)).note
    assert "the same for all models" in c8(similarities, transfer.assign(value=0.5)).note
    some = transfer.assign(value=transfer["value"].where(transfer["task"] != "x", 0.5))
    assert "of 2 test tasks, 1 without any spread left out" in c8(similarities, some).note
    with pytest.raises(ValueError, match="'z' has no value of transfer"):
        c8(similarities, transfer[transfer["task"] != "z"])
    with pytest.raises(ValueError, match="value is missing or NaN"):
        c8(similarities, transfer.assign(value=math.nan))
    with pytest.raises(ValueError, match="several rows"):
        c8(similarities, pd.concat([transfer, transfer]))


def test_c8_false_positives():
    false_positives(lambda rng: c8(*tables_of_c8(rng, weight=0.0)))


# --- C9 and C10 ---

BEST = {"seq-ft": 0.2, "seq-lora": 0.4, "ncft": 0.6, "w-ncft": 0.7, "per-task": 0.8, "epi": 0.1}


def in_a_row(rng, means, orders=3, seeds=3, **axes):
    rows = grid(method=list(means), order=range(orders), seed=range(seeds), **axes)
    return rows, rows["method"].map(means) + rng.normal(0, 0.02, len(rows))


def last_stage(rng, means=BEST, **sizes):
    rows, values = in_a_row(rng, means, **sizes)
    return rows.assign(cl=values)


def test_c9_holds_and_fails(rng):
    found = c9(last_stage(rng))
    assert (found.verdict, found.n_hold, found.n) == ("holds", 4, 4)
    assert found.effect == pytest.approx(0.5 / 3, abs=0.02)
    first = found.comparisons[0]
    assert (first.what, first.p, first.p_holm) == ("seq-lora - seq-ft", 1 / 512, 3 / 512)
    same = c9(last_stage(rng, dict.fromkeys(BEST, 0.5)))
    assert same.verdict == "fails"
    turned = c9(last_stage(rng, {name: 1 - mean for name, mean in BEST.items()}))
    assert (turned.verdict, turned.n_hold) == ("fails", 0)


def test_c9_last_pair_is_at_most(rng):
    equal = c9(last_stage(rng, {**BEST, "per-task": 0.7}))
    assert equal.verdict == "holds"
    above = c9(last_stage(rng, {**BEST, "per-task": 0.5}))
    assert above.verdict == "fails"
    assert [each.what for each in above.comparisons if not each.holds] == ["per-task - w-ncft"]


def test_c9_says_what_it_needs(rng):
    assert c9(None).note == "no table: rows"
    rows = last_stage(rng)
    assert c9(rows[rows["method"] != "ncft"]).note == "methods not run: ncft"
    few = c9(last_stage(rng, orders=1, seeds=5))
    assert (few.verdict, few.n) == ("not tested", 4)
    assert few.note == "needs 6 rows of order and seed; there are 5"
    assert c9(last_stage(rng, orders=1, seeds=6)).verdict == "holds"
    single = c9(last_stage(rng, orders=1, seeds=1))
    assert single.effect == pytest.approx(0.5 / 3, abs=0.02)
    assert math.isnan(single.low)
    with pytest.raises(ValueError, match=r"cl is missing or NaN.*seq-lora"):
        c9(rows.drop(rows[rows["method"] == "seq-lora"].index[0]))


def test_c9_false_positives():
    means = {**BEST, "w-ncft": BEST["ncft"]}
    false_positives(lambda rng: c9(last_stage(rng, means)))


def stages(rng, means=None, weak_stage=None, **sizes):
    means = means or {"seq-ft": 0.3, "seq-lora": 0.4, "ncft": 0.8}
    rows, values = in_a_row(rng, means, stage=[1, 2, 3, 4], **sizes)
    if weak_stage is not None:
        weak = (rows["stage"] == weak_stage) & (rows["method"] == "ncft")
        values = values - weak * (means["ncft"] - means["seq-lora"])
    return rows.assign(fg=values.where(rows["stage"] > 1))


def test_c10_holds_and_fails(rng):
    found = c10(stages(rng))
    assert (found.verdict, found.n_hold, found.n) == ("holds", 6, 6)
    assert found.effect == pytest.approx(0.45, abs=0.02)
    assert [each.part for each in found.comparisons[::2]] == ["stage 2", "stage 3", "stage 4"]
    assert c10(stages(rng, dict.fromkeys(BEST, 0.5))).verdict == "fails"
    assert c10(stages(rng, {"seq-ft": 0.9, "seq-lora": 0.9, "ncft": 0.1})).n_hold == 0
    some = c10(stages(rng, weak_stage=3))
    assert [(each.part, each.what) for each in some.comparisons if not each.holds] == [
        ("stage 3", "ncft - seq-lora")
    ]


def test_c10_says_what_it_needs(rng):
    assert c10(None).note == "no table: stages"
    rows = stages(rng)
    assert c10(rows[rows["method"] != "seq-ft"]).note == "methods not run: seq-ft"
    assert c10(rows[rows["stage"] == 1]).note == "needs two stages or more"
    assert "needs 7 rows of order and seed; there are 6" in c10(stages(rng, seeds=2)).note
    undefined = rows.assign(fg=rows["fg"].where(rows.index != 1))
    assert "fg is undefined for seq-ft on 0, seed 0, stage 2" in c10(undefined).note


def test_c10_false_positives():
    false_positives(lambda rng: c10(stages(rng, weak_stage=3)))


# --- C11, all together, and their forms on disk ---


def evidence(rng, own=0.6) -> dict[str, pd.DataFrame]:
    silenced, gained, before = tables_of_c3(rng, own=own)
    similarities, transfer = tables_of_c8(rng)
    return {
        "deactivation": silenced, "trained": gained, "plain": before, "together": together(rng),
        "alone": alone(rng), "overlap": overlap(rng), "controlled": controlled(rng, rise=1.0),
        "similarity": similarity(rng), "similarity_overall": similarities, "transfer": transfer,
        "rows": last_stage(rng), "stages": stages(rng),
    }  # fmt: skip


def test_claims_on_all_tables(rng):
    found = claims(evidence(rng))
    assert [each.claim for each in found] == [f"C{k}" for k in range(1, 11)]
    assert {each.verdict for each in found} == {"holds"}
    assert all(each.low <= each.effect <= each.high for each in found)


def test_claims_without_tables():
    found = claims({"rows": None})
    assert {each.verdict for each in found} == {"not tested"}
    assert all(each.note.startswith("no table") for each in found)


def test_c8_takes_layers_where_there_is_no_overall_similarity(rng):
    tables = evidence(rng)
    overall = tables.pop("similarity_overall")
    tables["similarity"] = pd.concat([overall.assign(layer=k) for k in range(5)])
    assert claims(tables)[7].effect == pytest.approx(c8(overall, tables["transfer"]).effect)


def test_c11(rng):
    good, bad = claims(evidence(rng)), claims(evidence(rng, own=0.0))
    both = c11(good, good)
    assert (both.verdict, both.n_hold, both.n, both.effect) == ("holds", 10, 10, 1)
    mixed = c11(good, bad)
    assert (mixed.verdict, mixed.n_hold, mixed.n) == ("fails", 7, 10)
    assert mixed.effect == pytest.approx(0.85)
    assert "C1 holds / fails" in mixed.note
    assert c11(bad, bad).verdict == "fails"
    part = c11(good, claims({"rows": last_stage(rng)}))
    assert (part.verdict, part.n) == ("holds", 1)
    assert "1 of 10 claims are tested in all 2" in part.note
    assert c11(good).verdict == "not tested"
    assert c11(good, claims({})).note == "no claim is tested in all architectures"


def test_frames(rng):
    found = claims({"rows": last_stage(rng), "stages": stages(rng)})
    table = frame(found)
    assert list(table.columns) == ["claim", "statement", "verdict", "effect", "low", "high", "unit",
                                   "n_hold", "n", "note"]  # fmt: skip
    assert table["verdict"].tolist() == ["not tested"] * 8 + ["holds"] * 2
    compared = comparisons_frame(found)
    assert compared["claim"].value_counts().to_dict() == {"C10": 6, "C9": 4}
    assert comparisons_frame(claims({})).columns.tolist() == compared.columns.tolist()


def test_json_and_back(rng):
    found = claims(evidence(rng)) + [c11()]
    stored = json.loads(json.dumps(to_json(found), allow_nan=False))
    again = from_json(stored)
    for before, after in zip(found, again, strict=True):
        for field in dataclasses.fields(before):
            assert repr(getattr(before, field.name)) == repr(getattr(after, field.name))
    for wrong in ({}, {"claims": [{"claim": "C1"}]}, {"claims": 3}):
        with pytest.raises(ValueError, match="no file of verdicts"):
            from_json(wrong)


def test_same_tables_same_verdicts():
    first, second = (to_json(claims(evidence(np.random.default_rng(1)))) for _ in range(2))
    assert first == second
