import json
import multiprocessing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from tl_taskneurons.experiments.lab import store as stores
from tl_taskneurons.experiments.lab.store import SCORES, DryStore, Result, Store, Unit, digest
from tl_taskneurons.neurons.scores import NeuronScores

TABLE = pd.DataFrame({"a": [1, 2]})


def result(kind: str = "kind", compute: Any = lambda: TABLE, **key: Any) -> Result:
    return Result(kind, key, compute)


def forbidden():
    raise AssertionError("computed again")


def unit(store: Store, name: str, done: list[str], **options) -> Unit:
    def run():
        store.get(result(name=name))
        done.append(name)

    files = (store.path(result(name=name)),)
    return Unit(name, options.get("lock", name), files, run, flops=1.0)


def test_a_result_is_found_by_all_that_it_needs_and_only_by_that(tmp_path):
    store = Store(tmp_path)
    pd.testing.assert_frame_equal(store.get(result(a=1, b="x")), TABLE)
    same = Store(tmp_path).get(result(compute=forbidden, b="x", a=1))
    pd.testing.assert_frame_equal(same, TABLE)
    keys: list[dict[str, Any]] = [{"a": 2, "b": "x"}, {"a": 1}, {"a": 1, "b": "x", "c": None}]
    for key in keys:
        assert not store.has(result(**key))
    assert not store.has(result("other", a=1, b="x"))


def test_a_new_design_makes_all_results_old(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.put(result(a=1), TABLE)
    assert store.has(result(a=1))
    monkeypatch.setattr(stores, "DESIGN", stores.DESIGN + 1)
    assert not store.has(result(a=1))


def test_scores_are_kept_too(tmp_path):
    scores = NeuronScores(torch.rand(2, 3), "f", "task", "grad_act")
    store = Store(tmp_path)
    store.get(Result("scores", {"a": 1}, lambda: scores, SCORES))
    again = store.get(Result("scores", {"a": 1}, forbidden, SCORES))
    assert torch.equal(again.values, scores.values)


def test_how_long_it_took_lies_beside_the_result(tmp_path):
    store = Store(tmp_path)
    store.put(result(a=1), TABLE, seconds=1.25)
    (file,) = tmp_path.rglob("*.json")
    facts = json.loads(file.read_text())
    assert facts["seconds"] == 1.25
    assert facts["key"] == {"a": 1, "design": stores.DESIGN}
    work = [store.unit(name, result(a=a), 1.0) for name, a in (("there", 1), ("missing", 2))]
    assert [each.spent() for each in work] == [1.25, 0]


def test_a_dry_store_makes_up_what_is_missing_and_writes_nothing(tmp_path):
    store = DryStore(tmp_path)
    made_up = pd.DataFrame({"a": [0, 0]})
    asked = Result("kind", {"a": 1}, forbidden, stand_in=lambda: made_up)
    assert store.get(asked) is made_up and not store.has(asked)
    Store(tmp_path).put(result(a=1), TABLE)
    pd.testing.assert_frame_equal(store.get(asked), TABLE)


def test_work_does_what_is_missing_in_order(tmp_path):
    store, done = Store(tmp_path), []
    store.put(result(name="b"), TABLE)
    store.work([unit(store, name, done) for name in "abc"])
    assert done == ["a", "c"]
    store.work([unit(store, name, done) for name in "abc"])
    assert done == ["a", "c"]


def test_what_was_computed_before_an_error_is_kept(tmp_path):
    store, done = Store(tmp_path), []
    bad = Unit("bad", "bad", (tmp_path / "never",), forbidden, 1.0)
    with pytest.raises(AssertionError, match="computed again"):
        store.work([unit(store, "a", done), bad, unit(store, "b", done)])
    assert done == ["a"] and store.has(result(name="a"))
    store.work([unit(store, name, done) for name in "ab"])
    assert done == ["a", "b"]


def _hold(folder: str, ready, release) -> None:
    store = Store(Path(folder))
    with store.locked("unit-a"):
        ready.set()
        release.wait(30)
        store.put(result(name="a"), TABLE)


@pytest.mark.slow
def test_a_unit_that_another_process_is_busy_with_is_left_to_it_and_waited_for(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path), ready, release))
    other.start()
    try:
        assert ready.wait(120)
        store, done = Store(tmp_path), []
        last = unit(store, "b", done)

        def run_and_release():
            last.run()
            release.set()

        units = [unit(store, "a", done), Unit("b", "b", last.files, run_and_release, 1.0)]
        store.work(units)
        assert done == ["b"]  # and a was made by the other process by the time work returned
        assert store.has(result(name="a"))
    finally:
        release.set()
        other.join(30)


def test_a_lock_that_is_held_is_not_taken_and_is_free_afterwards(tmp_path):
    store = Store(tmp_path)
    with store.locked("x") as mine:
        assert mine
        with store.locked("x", wait=False) as second:
            assert not second
    with store.locked("x", wait=False) as third:
        assert third


def test_digests_depend_on_content_and_not_on_order():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.5})
    assert len(digest({})) == 20
