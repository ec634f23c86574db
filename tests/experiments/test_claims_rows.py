"""Claims C7 to C11 on made-up tables whose truth is known, and all claims together."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
from claim_tables import (
    BEST,
    ask,
    deactivation,
    evidence,
    first,
    grid,
    last_stage,
    similarity,
    stages,
    tables_of_c8,
)
from scipy import stats

from tl_taskneurons.experiments.claims import (
    c11,
    claims,
    comparisons_frame,
    frame,
    from_json,
    headline,
    to_json,
)

pytestmark = pytest.mark.needs("once")  # tables and numbers alone


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def one(claim: str, **tables):
    return claims(tables, [claim])[0]


# --- C7 ---


def test_c7_by_size(rng):
    found = one("C7", similarity=similarity(rng))
    assert (found.verdict, found.n) == ("supported for all", 6)
    assert found.effect == pytest.approx(0.4, abs=0.03)  # 4 layers up to the last but one
    assert one("C7", similarity=similarity(rng, rise=0.0)).verdict == "refuted"
    assert one("C7", similarity=similarity(rng, rise=-0.1, last=9.0)).verdict == "refuted"
    single = one("C7", similarity=similarity(rng, seeds=1))
    assert single.verdict == "supported on average"  # without replicates of a model


def test_c7_has_no_chance_in_it(rng):
    """What all pairs have, be it from large sets in a layer, is no effect, whatever its slope."""
    for common in (-0.2, 0.2):
        assert one("C7", similarity=similarity(rng, rise=0.0, common=common)).verdict == "refuted"
    rows = similarity(rng)
    by_layer = rows["layer"].where(rows["siblings"], 0) * 0.1  # chance explains it all
    assert one("C7", similarity=rows.assign(chance=by_layer)).verdict == "refuted"


def test_c7_by_hand():
    rows = grid(model=list("abcde"), layer=range(4), siblings=[True, False])
    rows = rows.assign(task_x=rows["model"], task_y=rows["siblings"].map({True: "s", False: "o"}))
    rows["similarity"] = np.where(rows["siblings"], 0.1 * rows["layer"], 0.05)
    found = one("C7", similarity=rows)
    assert found.effect == pytest.approx(0.2)  # layers 0 to 2
    assert found.p == 1 / 32


def test_c7_goes_through_the_layers_in_which_siblings_have_neurons():
    rows = grid(model=list("abcde"), layer=range(9), siblings=[True, False])
    rows = rows.assign(task_x=rows["model"], task_y=rows["siblings"].map({True: "s", False: "o"}))
    # What other pairs have in the layer that siblings of "a" lack must not count: it is far off.
    far = (rows["model"] == "a") & (rows["layer"] == 3) & ~rows["siblings"]
    rows["similarity"] = np.where(rows["siblings"], 0.1 * rows["layer"], 0.05) + 9.0 * far
    own = (rows["model"] == "a") & rows["siblings"]
    empty = rows.assign(similarity=rows["similarity"].mask(own & (rows["layer"] == 3)))
    found = one("C7", similarity=empty)
    assert len(found.comparisons) == 5 and found.effect == pytest.approx(0.7)  # layers 0 to 7
    # A model whose siblings lack more than a quarter of the layers says nothing.
    empty = rows.assign(similarity=rows["similarity"].mask(own & rows["layer"].between(2, 4)))
    assert (
        "needs 5 models with siblings and other pairs; there are 4"
        in one("C7", similarity=empty).note
    )


def test_c7_says_what_it_needs(rng):
    assert one("C7").note == "no table: similarity"
    rows = similarity(rng)
    assert "needs 4 layers; there are 3" in one("C7", similarity=rows[rows["layer"] < 3]).note
    few = similarity(rng, n_models=4)
    assert "needs 5 models" in one("C7", similarity=few).note
    unknown = rows.drop(columns="siblings")
    assert "lacks the columns siblings" in one("C7", similarity=unknown).note
    with pytest.raises(ValueError, match="several rows for"):
        one("C7", similarity=pd.concat([rows, rows]))


def test_c7_counts_no_model_that_was_trained_with_one_seed(rng):
    found = one("C7", similarity=similarity(rng, seeds=1))
    assert (found.verdict, found.n_hold, found.n) == ("supported on average", 0, 0)
    assert found.note == "6 models" and len(found.comparisons) == 6


# --- C8 ---


def c8(similarities, transfer, **tables):
    return ask("C8", similarity_overall=similarities, transfer=transfer, **tables)[0]


def test_c8_by_size(rng):
    similarities, transfer = tables_of_c8(rng)
    found = c8(similarities, transfer)
    assert (found.verdict, found.n_hold, found.n) == ("supported on average", 1, 1)
    x = similarities.pivot(index="model", columns="task_y", values="similarity")
    y = transfer.pivot(index="model", columns="task", values="value")
    by_task = [np.corrcoef(x[task], y[task])[0, 1] for task in x]
    assert found.effect == pytest.approx(np.mean(by_task))
    assert found.low < found.effect < found.high
    assert "above 0 on 3 of 3 test tasks" in found.note
    assert not c8(*tables_of_c8(rng, weight=0.0)).supported
    assert c8(*tables_of_c8(rng, weight=-1.0)).verdict == "refuted"


def test_c8_permutes_within_types(rng):
    similarities, transfer = tables_of_c8(rng, n_models=8, weight=0.0)
    kinds = transfer["model"].map(lambda name: "CLS" if name < "m4" else "GEN")
    by_kind = similarities.assign(
        similarity=similarities["similarity"] + 9 * (similarities["model"] < "m4")
    )
    better = transfer.assign(value=transfer["value"] + 9 * (kinds == "CLS"))
    assert c8(by_kind, better).supported  # the types differ
    assert not c8(by_kind, better.assign(type=kinds)).supported  # but nothing within them


def test_c8_says_what_it_needs(rng):
    similarities, transfer = tables_of_c8(rng)
    assert c8(similarities, None).note == "no table: transfer"
    assert "needs more models: 3 have 6 permutations" in c8(*tables_of_c8(rng, n_models=3)).note
    assert "the same for all models" in c8(similarities, transfer.assign(value=0.5)).note
    some = transfer.assign(value=transfer["value"].where(transfer["task"] != "x", 0.5))
    assert "of 2 test tasks" in c8(similarities, some).note
    with pytest.raises(ValueError, match="'m1' has no value of transfer|value is missing or NaN"):
        c8(similarities, transfer[transfer.index != 4])
    with pytest.raises(ValueError, match="several rows"):
        c8(similarities, pd.concat([transfer, transfer]))


def test_c8_false_positives():
    hits = sum(
        c8(*tables_of_c8(np.random.default_rng(seed), weight=0.0)).supported for seed in range(40)
    )
    assert hits <= stats.binom.ppf(0.99, 40, 0.05)


# --- C9 and C10 ---


def test_c9_by_size(rng):
    chain, bound = claims({"rows": last_stage(rng)}, ["C9"])
    assert (chain.verdict, chain.n_hold, chain.n) == ("supported for all", 3, 3)
    assert chain.effect == pytest.approx(0.5 / 3, abs=0.03)
    assert chain.comparisons[0].what == "seq-lora - seq-ft"
    assert bound.supported and not bound.primary
    turned = {name: 1 - mean for name, mean in BEST.items()}
    assert one("C9", rows=last_stage(rng, turned)).verdict == "refuted"
    two = one("C9", rows=last_stage(rng, {**BEST, "w-ncft": BEST["ncft"]}))
    assert two.verdict == "supported on average"


def test_c9_takes_seeds_not_rows(rng):
    """Nine rows of three seeds are three: identical rows of an order are no evidence."""
    once = last_stage(rng, orders=1, seeds=3)
    thrice = pd.concat([once.assign(order=k) for k in range(3)])
    first_, again = (one("C9", rows=rows) for rows in (once, thrice))
    assert (first_.low, first_.high, first_.p) == pytest.approx((again.low, again.high, again.p))


def test_c9_false_positives():
    """Methods that are all alike, rows of a seed that share most: over 80 tables."""
    hits = sum(
        one("C9", rows=last_stage(np.random.default_rng(seed), dict.fromkeys(BEST, 0.5))).supported
        for seed in range(80)
    )
    assert hits <= stats.binom.ppf(0.99, 80, 0.05)


def test_c9_bound_is_not_inferior(rng):
    def bound(per_task: float):
        rows = last_stage(rng, {**BEST, "per-task": per_task}, shared=0.005)
        return claims({"rows": rows}, ["C9"])[1]

    assert bound(0.75).supported
    assert bound(0.5).verdict == "refuted"
    rows = last_stage(rng, {**BEST, "per-task": 0.75}, shared=0.005)
    deeper = rows.assign(alone=rows["alone"].where(rows["method"] != "per-task", 0.99))
    chain, uneven = claims({"rows": deeper}, ["C9"])
    assert chain.verdict != "not testable"
    assert "w-ncft 0.90, per-task 0.99" in uneven.note and uneven.verdict == "not testable"


def test_c9_says_what_it_needs(rng):
    assert one("C9").note == "no table: rows"
    rows = last_stage(rng)
    assert one("C9", rows=rows[rows["method"] != "ncft"]).note == "methods not run: ncft"
    assert one("C9", rows=last_stage(rng, seeds=2)).note == "needs 3 seeds; there are 2"
    uneven = rows.assign(alone=rows["alone"].where(rows["method"] != "seq-lora", 0.72))
    assert "different single-task scores: seq-ft 0.90, seq-lora 0.72" in one("C9", rows=uneven).note
    with pytest.raises(ValueError, match=r"cl is missing or NaN.*seq-lora"):
        one("C9", rows=rows.drop(rows[rows["method"] == "seq-lora"].index[0]))


def test_c10_by_size(rng):
    found = one("C10", stages=stages(rng))
    assert (found.verdict, found.n_hold, found.n) == ("supported for all", 6, 6)
    assert found.effect == pytest.approx(0.45, abs=0.06)
    assert found.comparisons[0].what == "stage 2: ncft - seq-ft"
    less = one("C10", stages=stages(rng, {"seq-ft": 0.9, "seq-lora": 0.9, "ncft": 0.1}))
    assert less.verdict == "refuted"
    some = one("C10", stages=stages(rng, weak_stage=3))
    assert some.verdict != "supported for all"
    assert [each.what for each in some.comparisons if each.p >= 0.05] == [
        "stage 3: ncft - seq-lora"
    ]  # fmt: skip


def test_c10_says_what_it_needs(rng):
    assert one("C10").note == "no table: stages"
    rows = stages(rng)
    assert one("C10", stages=rows[rows["method"] != "seq-ft"]).note == "methods not run: seq-ft"
    assert one("C10", stages=rows[rows["stage"] == 1]).note == "needs two stages or more"
    undefined = one("C10", stages=rows.assign(fg=math.nan))
    assert undefined.note == "each task alone is above chance with 0 of 5 seeds; needs 3"
    some = rows.assign(fg=rows["fg"].where((rows["seed"] > 0) | (rows["order"] > 0)))
    assert "5 seeds, 14 rows" in one("C10", stages=some).note
    two_of_five = rows.assign(fg=rows["fg"].where(rows["seed"] > 2))
    told = "each task alone is above chance with 2 of 5 seeds; needs 3"
    assert one("C10", stages=two_of_five).note == told
    assert one("C10", stages=stages(rng, seeds=2)).note == "needs 3 seeds; there are 2"


# --- C11, all together, and their forms on disk ---


def test_claims_on_all_tables(rng):
    found = claims(evidence(rng))
    assert [each.claim for each in headline(found)] == [
        "C1", "C2", "C2", "C3", "C3", "C4", "C4", "C5", "C6", "C7", "C8", "C9", "C10",
    ]  # fmt: skip
    assert all(each.supported for each in found)
    assert all(each.low <= each.effect <= each.high for each in found)
    assert all(0 <= each.power <= 1 for each in found)


def test_claims_without_tables():
    found = claims({"rows": None})
    assert {each.verdict for each in found} == {"not testable"}
    with pytest.raises(ValueError, match="Unknown claim 'C12'"):
        claims({}, ["C12"])


def test_c11(rng):
    good, bad = claims(evidence(rng)), claims(evidence(rng, own=0.0))
    both = c11(good, good)
    assert (both.verdict, both.n_hold, both.n, both.effect) == ("supported for all", 13, 13, 1)
    mixed = c11(good, bad)
    assert (mixed.verdict, mixed.n_hold, mixed.n) == ("inconclusive", 8, 13)
    assert "C1 silenced (supported for all / refuted)" in mixed.note
    part = c11(good, claims({"rows": last_stage(rng)}))
    assert (part.verdict, part.n) == ("inconclusive", 1)
    assert "1 claims are testable in all 2" in part.note
    assert c11(good).verdict == "not testable"
    assert c11(good, claims({})).note == "no claim is testable in all architectures"


def test_frames(rng):
    found = claims({"rows": last_stage(rng), "stages": stages(rng)})
    table = frame(found)
    assert {"claim", "part", "primary", "verdict", "effect", "power", "note"} <= set(table.columns)
    tested = table[table["verdict"] != "not testable"]
    assert tested["claim"].tolist() == ["C9", "C9", "C10"]
    compared = comparisons_frame(found)
    assert compared["claim"].value_counts().to_dict() == {"C10": 6, "C9": 4}
    assert comparisons_frame(claims({})).columns.tolist() == compared.columns.tolist()


def test_json_and_back(rng):
    found = [*ask("C1", deactivation=deactivation(rng)), c11()]
    stored = json.loads(json.dumps(to_json(found), allow_nan=False))
    again = from_json(stored)
    for before, after in zip(found, again, strict=True):
        for field in dataclasses.fields(before):
            assert repr(getattr(before, field.name)) == repr(getattr(after, field.name))
    for wrong in ({}, {"claims": [{"claim": "C1"}]}, {"claims": 3}):
        with pytest.raises(ValueError, match="no file of verdicts"):
            from_json(wrong)


def test_same_tables_same_verdicts():
    made = (deactivation(np.random.default_rng(1)) for _ in range(2))
    one_, two = (to_json([first("C1", deactivation=rows)]) for rows in made)
    assert one_ == two
