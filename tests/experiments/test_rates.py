"""Learning rates: chosen by held-out loss, from a grid that grows where its edge is best."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from small_lab import PLAN, TASKS, small_lab

from tl_taskneurons.experiments.lab import rates, search
from tl_taskneurons.experiments.lab.lab import Lab
from tl_taskneurons.experiments.lab.rates import ALL_WEIGHTS, Kind
from tl_taskneurons.experiments.lab.store import Result, Store


@pytest.fixture
def lab(tokenizer, tmp_path) -> Lab:
    return small_lab(tokenizer, tmp_path / "store")


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


@pytest.mark.parametrize(
    ("grid", "tried"),
    [
        ((1.0, 2.0), [4.0, 8.0, 16.0, 32.0]),  # four times, and no more
        ((1.0, 1.001), []),  # two digits hold no further rate
    ],
)
def test_a_search_beyond_the_grid_ends(grid: tuple[float, ...], tried: list[float], lab: Lab):
    def results(lr: float):
        return [(Result("rates", {"lr": lr}, lambda: pd.DataFrame({"loss": [-lr]})), 1.0)]

    falling = search.RateSearch(lab.store, grid, results)
    assert list(falling.losses()) == [*grid, *tried]
    assert falling.further() == tried
    assert [row["at_edge"] for row in falling.rows()][-1]


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
        # And still is when it is there, so that what it took is counted.
        listed = [unit for units in search.phases([rates.search(found, kind)]) for unit in units]
        assert len({unit.files for unit in listed}) == n_tried
        assert not any(unit.missing() for unit in listed)
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
