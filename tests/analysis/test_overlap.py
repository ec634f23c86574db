import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_taskneurons import (
    NeuronScores,
    NeuronSet,
    group_overlap,
    overlap,
    overlap_by_fraction,
    overlap_matrix,
)

N_LAYERS, D_MLP = 3, 6
quick = settings(max_examples=40, deadline=None)


def of_pairs(pairs: set[tuple[int, int]], shape: tuple[int, int] = (N_LAYERS, D_MLP)) -> NeuronSet:
    mask = torch.zeros(shape, dtype=torch.bool)
    for layer, j in pairs:
        mask[layer, j] = True
    return NeuronSet(mask, "m")


def only_row(table: pd.DataFrame) -> dict:
    assert len(table) == 1
    return table.iloc[0].to_dict()


NEURONS = [(layer, j) for layer in range(N_LAYERS) for j in range(D_MLP)]
some_neurons = st.sets(st.sampled_from(NEURONS), min_size=1)


# --- measures ---


@quick
@given(some_neurons, some_neurons)
def test_measures_are_those_of_python_sets(x: set, y: set):
    row = only_row(overlap({"x": of_pairs(x), "y": of_pairs(y)}))
    assert (row["task_x"], row["task_y"]) == ("x", "y")
    assert (row["n_x"], row["n_y"], row["shared"]) == (len(x), len(y), len(x & y))
    assert row["iou"] == len(x & y) / len(x | y)
    assert row["share_of_x"] == len(x & y) / len(x)
    assert row["share_of_y"] == len(x & y) / len(y)


@quick
@given(some_neurons, some_neurons)
def test_laws(x: set, y: set):
    there = only_row(overlap({"x": of_pairs(x), "y": of_pairs(y)}))
    back = only_row(overlap({"y": of_pairs(y), "x": of_pairs(x)}))
    symmetric = ["shared", "iou", "expected_shared", "expected_iou", "z", "p"]
    np.testing.assert_allclose(
        [there[c] for c in symmetric], [back[c] for c in symmetric], atol=1e-12
    )
    assert there["share_of_x"] == back["share_of_y"]
    assert (there["iou"] == 1) is (x == y)
    assert (there["iou"] == 0) is x.isdisjoint(y)
    assert (there["share_of_x"] == 1) is x.issubset(y)
    assert 0 < there["p"] <= 1
    assert there["p_holm"] == there["p"]
    assert 0 <= there["iou"] <= min(there["share_of_x"], there["share_of_y"])


def test_every_pair_once_or_each_with_each_of_the_others():
    sets = {name: of_pairs({(0, k), (1, 0)}) for k, name in enumerate("abc")}
    found = overlap(sets)
    assert list(zip(found["task_x"], found["task_y"], strict=True)) == [
        ("a", "b"), ("a", "c"), ("b", "c"),
    ]  # fmt: skip
    across = overlap({"a": sets["a"]}, {"b": sets["b"], "a": of_pairs({(2, 2)})})
    assert across["task_y"].tolist() == ["b", "a"]
    assert across["shared"].tolist() == [1, 0]
    assert len(overlap(sets, sets)) == 9


# --- chance ---


def test_chance_by_hand():
    # Of four neurons two and two: 0, 1 or 2 are shared with chances 1/6, 4/6, 1/6.
    one = {"x": of_pairs({(0, 0), (0, 1)}, (1, 4)), "y": of_pairs({(0, 1), (0, 2)}, (1, 4))}
    row = only_row(overlap(one))
    assert row["expected_shared"] == pytest.approx(1)
    assert row["expected_iou"] == pytest.approx(4 / 6 * 1 / 3 + 1 / 6)
    assert row["z"] == pytest.approx(0)
    assert row["p"] == pytest.approx(5 / 6)
    # The same in two layers, of which the second shares both: at least 3 of 4 in 9 of 36 cases.
    x = of_pairs({(0, 0), (0, 1), (1, 0), (1, 1)}, (2, 4))
    y = of_pairs({(0, 1), (0, 2), (1, 0), (1, 1)}, (2, 4))
    row = only_row(overlap({"x": x, "y": y}))
    assert row["p"] == pytest.approx(9 / 36)
    assert row["z"] == pytest.approx((3 - 2) / math.sqrt(1 / 3 + 1 / 3))


@quick
@given(some_neurons, some_neurons)
def test_chance_is_every_placement_of_one_set(x: set, y: set):
    row = only_row(overlap({"x": of_pairs(x), "y": of_pairs(y)}))
    sizes = [sum(at == layer for at, _ in y) for layer in range(N_LAYERS)]
    # How often each number of neurons is shared when y's are placed in every possible way.
    counts = {0: 1}
    for layer, size in enumerate(sizes):
        own = {j for at, j in x if at == layer}
        so_far, counts = counts, {}
        for placed in itertools.combinations(range(D_MLP), size):
            hit = len(own & set(placed))
            for shared, ways in so_far.items():
                counts[shared + hit] = counts.get(shared + hit, 0) + ways
    shared, ways = np.array(list(counts)), np.array(list(counts.values()))
    chances = ways / ways.sum()
    mean = shared @ chances
    assert row["expected_shared"] == pytest.approx(mean)
    assert row["expected_iou"] == pytest.approx((shared / (len(x) + len(y) - shared)) @ chances)
    assert row["p"] == pytest.approx(chances[shared >= len(x & y)].sum())
    deviation = math.sqrt((shared - mean) ** 2 @ chances)
    if len(counts) == 1:
        assert math.isnan(row["z"])
    else:
        assert row["z"] == pytest.approx((len(x & y) - mean) / deviation)


def test_chance_agrees_with_random_controls():
    shape = (4, 40)
    generator = torch.Generator().manual_seed(1)
    # Layers of very different sizes, where chance per layer is not chance over all.
    density = torch.tensor([0.5, 0.3, 0.1, 0.05])[:, None]
    x, y = (NeuronSet(torch.rand(shape, generator=generator) < density, "m", name) for name in "xy")
    row = only_row(overlap({"x": x, "y": y}))
    n_draws = 1000
    shared = np.array([len(x & y.random_like(seed)) for seed in range(n_draws)])
    iou = shared / (len(x) + len(y) - shared)
    for name, draws in (("expected_shared", shared), ("expected_iou", iou)):
        assert abs(draws.mean() - row[name]) < 4 * draws.std() / math.sqrt(n_draws)
    assert row["z"] == pytest.approx((len(x & y) - shared.mean()) / shared.std(), abs=0.2)
    tail = shared >= len(x & y)
    assert abs(tail.mean() - row["p"]) < 4 * math.sqrt(row["p"] * (1 - row["p"]) / n_draws)
    # Over all layers together the same sets would be expected to share fewer.
    total = np.array([len(x & y.random_like(seed, match="total")) for seed in range(100)])
    assert total.mean() < row["expected_shared"] - 1


def test_chance_in_a_model_of_seven_billion_parameters():
    n_layers, d_mlp, n = 32, 14_336, 1434
    x, y = torch.zeros(2, n_layers, d_mlp, dtype=torch.bool)
    x[:, :n] = True
    y[:, n - 146 : 2 * n - 146] = True
    row = only_row(overlap({"x": NeuronSet(x, "m"), "y": NeuronSet(y, "m")}))
    mean = n_layers * n * n / d_mlp
    share = n / d_mlp
    variance = n_layers * n * share * (1 - share) * (d_mlp - n) / (d_mlp - 1)
    assert row["shared"] == n_layers * 146
    assert row["expected_shared"] == pytest.approx(mean, rel=1e-9)
    assert row["z"] == pytest.approx((n_layers * 146 - mean) / math.sqrt(variance), rel=1e-6)
    normal = 0.5 * math.erfc((n_layers * 146 - 0.5 - mean) / math.sqrt(2 * variance))
    assert row["p"] == pytest.approx(normal, rel=0.02)
    # Far more than chance: beyond what a float can say.
    assert only_row(overlap({"x": NeuronSet(x, "m"), "y": NeuronSet(x, "m")}))["p"] < 1e-300


def test_no_freedom_no_surprise():
    everything, half = ~of_pairs(set()), of_pairs({(0, j) for j in range(3)})
    row = only_row(overlap({"all": everything, "half": half}))
    assert row["p"] == 1
    assert math.isnan(row["z"])
    assert row["expected_iou"] == row["iou"] == 3 / (N_LAYERS * D_MLP)


def test_holm():
    generator = torch.Generator().manual_seed(0)
    sets = {
        f"t{k}": NeuronSet(torch.rand(N_LAYERS, D_MLP, generator=generator) < 0.5, "m")
        for k in range(4)
    }
    sets["t4"] = sets["t0"]
    table = overlap(sets)
    p = table["p"].tolist()
    ranked = sorted(range(len(p)), key=lambda i: p[i])
    so_far = 0.0
    for rank, i in enumerate(ranked):
        so_far = max(so_far, min(1.0, p[i] * (len(p) - rank)))
        assert table["p_holm"].iloc[i] == pytest.approx(so_far)
    assert table["p_holm"].min() == pytest.approx(len(p) * min(p))


def test_a_matrix_of_corrected_p_corrects_for_each_pair_once():
    sets = {name: of_pairs({(0, k), (1, 0), (2, 0)}) for k, name in enumerate("cab")}
    wide, table = overlap_matrix(sets, column="p_holm"), overlap(sets)
    assert list(wide.index) == list(wide.columns) == ["c", "a", "b"]
    np.testing.assert_array_equal(wide, wide.T)
    assert wide.to_numpy()[np.triu_indices(3, 1)].tolist() == table["p_holm"].tolist()
    assert np.isnan(np.diag(wide)).all() and table["p_holm"].max() < 1
    # Asked for the full grid, each set with itself is a comparison too.
    grid = overlap_matrix(sets, sets, column="p_holm")
    assert grid.to_numpy().flatten().tolist() == overlap(sets, sets)["p_holm"].tolist()


# --- groups, shares, matrices ---


def ramp(name: str, start: int) -> NeuronScores:
    """Highest at one neuron, falling after it, over all layers laid end to end."""
    values = -((torch.arange(N_LAYERS * D_MLP) - start) % (N_LAYERS * D_MLP)).float()
    return NeuronScores(values.reshape(N_LAYERS, D_MLP), "m", name)


SCORES = {"a": ramp("a", 0), "b": ramp("b", 2), "c": ramp("c", 9), "d": ramp("d", 10)}
GROUPS = {"AB": ["a", "b"], "CD": ["c", "d"]}


def test_groups_are_unions():
    sets = {name: own.top(n=3) for name, own in SCORES.items()}
    row = only_row(group_overlap(sets, GROUPS))
    # a has 0, 1, 2; b has 2, 3, 4; c has 9, 10, 11; d has 10, 11, 12.
    assert (row["task_x"], row["task_y"], row["n_x"], row["n_y"]) == ("AB", "CD", 5, 4)
    assert row["shared"] == 0
    unseen = group_overlap(sets, GROUPS, {"AC": ["a", "c"]})
    assert unseen["task_y"].tolist() == ["AC", "AC"]
    assert unseen["n_y"].tolist() == [6, 6]
    assert unseen["shared"].tolist() == [3, 3]
    single = overlap(sets)
    pd.testing.assert_frame_equal(group_overlap(sets, {name: [name] for name in sets}), single)


def test_overlap_against_the_share():
    table = overlap_by_fraction(SCORES, (1 / 6, 0.5, 1.0))
    assert list(table)[:3] == ["fraction", "task_x", "task_y"]
    assert table["fraction"].tolist() == [1 / 6] * 6 + [0.5] * 6 + [1.0] * 6
    own = overlap({name: own.top(fraction=0.5) for name, own in SCORES.items()})
    half = table[table["fraction"] == 0.5].drop(columns="fraction").reset_index(drop=True)
    pd.testing.assert_frame_equal(half, own)
    assert (table[table["fraction"] == 1.0]["iou"] == 1).all()
    # a and b: 3 neurons each of which 1 is shared, then 9 and 7.
    assert table[table["task_x"] + table["task_y"] == "ab"]["iou"].tolist() == [1 / 5, 7 / 11, 1]


def test_shares_in_an_array_are_shares():
    listed = overlap_by_fraction(SCORES, [0.1, 0.5])
    pd.testing.assert_frame_equal(overlap_by_fraction(SCORES, np.array([0.1, 0.5])), listed)
    with pytest.raises(ValueError, match="fractions is empty"):
        overlap_by_fraction(SCORES, np.array([]))


def test_the_papers_four_rates():
    table = overlap_by_fraction(SCORES, [1 / 6], {"X": ["a"], "Y": ["c"]}, {"X": ["b"], "Y": ["d"]})
    assert (table["task_x"] + "-" + table["task_y"]).tolist() == ["X-X", "X-Y", "Y-X", "Y-Y"]
    assert table["iou"].tolist() == [1 / 5, 0, 0, 2 / 4]


def test_matrix():
    sets = {name: own.top(n=3) for name, own in SCORES.items()}
    wide = overlap_matrix(sets)
    assert list(wide.index) == list(wide.columns) == list(sets)
    np.testing.assert_array_equal(np.diag(wide), np.ones(4))
    np.testing.assert_array_equal(wide, wide.T)
    assert wide.loc["a", "b"] == 1 / 5
    some = overlap_matrix({"b": sets["b"]}, {"d": sets["d"], "a": sets["a"]}, column="shared")
    assert (list(some.index), list(some.columns)) == (["b"], ["d", "a"])
    assert some.to_numpy().tolist() == [[0, 1]]
    with pytest.raises(ValueError, match="Unknown column 'share'; did you mean 'shared'"):
        overlap_matrix(sets, column="share")


# --- bad input ---


def test_bad_sets():
    full, empty = of_pairs({(0, 0)}), of_pairs(set())
    with pytest.raises(ValueError, match="The set 'none' is empty"):
        overlap({"one": full, "none": empty})
    with pytest.raises(
        ValueError, match=r"no pair of sets to compare in \['one'\]; give at least two"
    ):
        overlap({"one": full})
    with pytest.raises(ValueError, match=r"compare in \['one'\] and \[\]"):
        overlap({"one": full}, {})
    with pytest.raises(ValueError, match="different models"):
        overlap({"one": full}, {"two": NeuronSet(full.mask, "n")})


def test_bad_groups_and_shares():
    sets = {name: own.top(n=3) for name, own in SCORES.items()}
    with pytest.raises(ValueError, match="group 'AB' names 'aa', which has no set; did you mean"):
        group_overlap(sets, {"AB": ["aa"], "C": ["c"]})
    with pytest.raises(ValueError, match="group 'C' has no tasks"):
        group_overlap(sets, {"AB": ["a"], "C": []})
    with pytest.raises(ValueError, match="fractions is empty"):
        overlap_by_fraction(SCORES, [])
    with pytest.raises(ValueError, match="fraction is 10"):
        overlap_by_fraction(SCORES, [10.0])
    with pytest.raises(ValueError, match="there are no groups"):
        overlap_by_fraction(SCORES, [0.5], other=GROUPS)
