"""Groups of tasks, their scores and intervals, and sets drawn with a given overlap."""

import numpy as np
import pandas as pd
import pytest
import torch
from small_lab import TASKS

from tl_taskneurons.experiments.lab.groups import (
    Group,
    groups_of,
    interval,
    seed_rows,
    union_scores,
)
from tl_taskneurons.experiments.paper import tables9_11
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.tasks.task import Tasks


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.5, 1.0])
def test_drawn_set_has_the_size_and_the_overlap(overlap):
    mask = torch.zeros(2, 50, dtype=torch.bool)
    mask[0, :30] = True
    target = NeuronSet(mask, "f", "target")
    drawn = tables9_11.draw_overlapping(target, overlap, seed=3)
    assert len(drawn) == 30
    assert len(drawn & target) == round(30 * overlap)
    assert drawn == tables9_11.draw_overlapping(target, overlap, seed=3)
    if overlap < 1:
        assert drawn != tables9_11.draw_overlapping(target, overlap, seed=4)


def test_impossible_overlap_says_which_is_possible():
    target = NeuronSet(torch.ones(1, 10, dtype=torch.bool), "f", "all")
    with pytest.raises(ValueError, match="at least 100%"):
        tables9_11.draw_overlapping(target, 0.5, seed=0)
    with pytest.raises(ValueError, match="from 0 to 1"):
        tables9_11.draw_overlapping(target, 1.5, seed=0)


def test_groups_need_two_tasks_of_a_family():
    assert groups_of(TASKS) == {
        "CLS": Group(("food",), ("film",)),
        "GEN": Group(("past",), ("plural",)),
    }
    with pytest.raises(ValueError, match="one family"):
        groups_of(Tasks([TASKS["food"], TASKS["past"]]))


def test_union_scores_weigh_tasks_alike():
    scores = {
        "a": NeuronScores(torch.tensor([[1.0, 3.0]]), "f", "a", "grad_act"),
        "b": NeuronScores(torch.tensor([[300.0, 100.0]]), "f", "b", "grad_act"),
    }
    assert union_scores(scores, ["a", "b"]).values.tolist() == [[0.5, 0.5]]


def test_interval_covers_the_mean_and_widens_with_spread():
    def items(spread: float) -> pd.DataFrame:
        rng = np.random.default_rng(0)
        return pd.DataFrame(
            [
                {"task": task, "seed": seed, "item": item, "score": 0.5 + spread * rng.normal()}
                for task in ("a", "b") for seed in range(3) for item in range(20)
            ]
        )  # fmt: skip

    narrow, wide = interval(items(0.01)), interval(items(0.1))
    assert narrow["low"] < narrow["score"] < narrow["high"]
    assert wide["high"] - wide["low"] > 5 * (narrow["high"] - narrow["low"])
    assert seed_rows(items(0.0).query("task == 'a'")).shape == (3, 20)
