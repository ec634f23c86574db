"""Claims C7 to C11 on made-up tables whose truth is known, and all claims together."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
from claim_tables import (
    BEST,
    evidence,
    false_positives,
    grid,
    last_stage,
    similarity,
    stages,
    tables_of_c8,
)

from tl_taskneurons.experiments.claims import (
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


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# --- C7 ---


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
    false_positives(lambda rng: c7(similarity(rng, rise=0.0)))


# --- C8 ---


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
