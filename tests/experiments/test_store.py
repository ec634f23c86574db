import json
import multiprocessing
from pathlib import Path

import pandas as pd
import pytest
import torch

from tl_taskneurons.experiments.lab import store as stores
from tl_taskneurons.experiments.lab.store import Cell, Recipe, Store, digest
from tl_taskneurons.neurons.scores import NeuronScores

TABLE = pd.DataFrame({"a": [1, 2]})


def forbidden():
    raise AssertionError("computed again")


def cell(store: Store, name: str, done: list[str], **options) -> Cell:
    needs = {"name": name}

    def run():
        store.table(Recipe("cells", needs, lambda: TABLE))
        done.append(name)

    return Cell(
        name, options.get("lock", name), lambda: not store.has("cells", needs), run, flops=1.0
    )


def test_a_result_is_found_by_all_that_it_needs_and_only_by_that(tmp_path):
    store = Store(tmp_path)
    pd.testing.assert_frame_equal(
        store.table(Recipe("kind", {"a": 1, "b": "x"}, lambda: TABLE)), TABLE
    )
    same = Store(tmp_path).table(Recipe("kind", {"b": "x", "a": 1}, forbidden))
    pd.testing.assert_frame_equal(same, TABLE)
    for needs in ({"a": 2, "b": "x"}, {"a": 1}, {"a": 1, "b": "x", "c": None}):
        assert not store.has("kind", needs)
    assert not store.has("other", {"a": 1, "b": "x"})


def test_a_new_recipe_makes_all_results_old(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.put("kind", {"a": 1}, TABLE)
    assert store.has("kind", {"a": 1})
    monkeypatch.setattr(stores, "RECIPE", stores.RECIPE + 1)
    assert not store.has("kind", {"a": 1})


def test_scores_are_kept_too(tmp_path):
    scores = NeuronScores(torch.rand(2, 3), "f", "task", "grad_act")
    store = Store(tmp_path)
    store.scores(Recipe("scores", {"a": 1}, lambda: scores))
    assert torch.equal(store.scores(Recipe("scores", {"a": 1}, forbidden)).values, scores.values)


def test_how_long_it_took_lies_beside_the_result(tmp_path):
    store = Store(tmp_path)
    store.put("kind", {"a": 1}, TABLE, seconds=1.25)
    (file,) = tmp_path.rglob("*.json")
    facts = json.loads(file.read_text())
    assert facts["seconds"] == 1.25
    assert facts["needs"] == {"a": 1, "recipe": stores.RECIPE}


def test_work_does_what_is_missing_in_order(tmp_path):
    store, done = Store(tmp_path), []
    store.put("cells", {"name": "b"}, TABLE)
    store.work([cell(store, name, done) for name in "abc"])
    assert done == ["a", "c"]
    store.work([cell(store, name, done) for name in "abc"])
    assert done == ["a", "c"]


def test_what_was_computed_before_an_error_is_kept(tmp_path):
    store, done = Store(tmp_path), []
    bad = Cell("bad", "bad", lambda: True, forbidden, 1.0)
    with pytest.raises(AssertionError, match="computed again"):
        store.work([cell(store, "a", done), bad, cell(store, "b", done)])
    assert done == ["a"] and store.has("cells", {"name": "a"})
    store.work([cell(store, name, done) for name in "ab"])
    assert done == ["a", "b"]


def _hold(folder: str, ready, release) -> None:
    store = Store(Path(folder))
    with store.locked("cell-a"):
        ready.set()
        release.wait(30)
        store.put("cells", {"name": "a"}, TABLE)


@pytest.mark.slow
def test_a_cell_that_another_process_is_busy_with_is_left_to_it_and_waited_for(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path), ready, release))
    other.start()
    try:
        assert ready.wait(120)
        store, done = Store(tmp_path), []
        last = cell(store, "b", done)

        def run_and_release():
            last.run()
            release.set()

        cells = [
            cell(store, "a", done), Cell("b", "b", last.missing, run_and_release, 1.0)
        ]  # fmt: skip
        store.work(cells)
        assert done == ["b"]  # and a was made by the other process by the time work returned
        assert store.has("cells", {"name": "a"})
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
