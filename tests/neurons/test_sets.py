from typing import Any

import micro
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_sets import D_MLP, N_LAYERS, PRINT, neuron_set, quick, scores, scores_of

from tl_taskneurons import NeuronScores, NeuronSet, common, exclusive
from tl_taskneurons.models.view import view


def pairs(neurons: NeuronSet) -> set[tuple[int, int]]:
    return {(layer, j) for layer, j in neurons.mask.nonzero().tolist()}


sets = st.integers(0, 2 ** (N_LAYERS * D_MLP) - 1).map(neuron_set)


# --- algebra ---


@quick
@given(sets, sets)
def test_operators_are_those_of_python_sets(a: NeuronSet, b: NeuronSet):
    assert pairs(a | b) == pairs(a) | pairs(b)
    assert pairs(a & b) == pairs(a) & pairs(b)
    assert pairs(a - b) == pairs(a) - pairs(b)
    assert pairs(a ^ b) == pairs(a) ^ pairs(b)
    everything = {(layer, j) for layer in range(N_LAYERS) for j in range(D_MLP)}
    assert pairs(~a) == everything - pairs(a)
    assert a.isdisjoint(b) is pairs(a).isdisjoint(pairs(b))
    assert a.issubset(b) is pairs(a).issubset(pairs(b))
    assert (a == b) is (pairs(a) == pairs(b))
    assert all((neuron in a) is (neuron in pairs(a)) for neuron in everything)


@quick
@given(sets, sets, sets)
def test_laws(a: NeuronSet, b: NeuronSet, c: NeuronSet):
    assert ~(a | b) == ~a & ~b
    assert ~(a & b) == ~a | ~b
    assert len(a) + len(b) == len(a | b) + len(a & b)
    assert a & (b | c) == (a & b) | (a & c)
    assert (a - b) | (a & b) == a
    assert a ^ b == (a | b) - (a & b)
    assert ~~a == a
    assert hash(a | b) == hash(b | a)
    assert a == a.rename("other")
    assert sum(a.per_layer) == len(a)
    assert a.fraction == len(a) / (N_LAYERS * D_MLP)
    assert {layer: index.tolist() for layer, index in a.layers().items()} == {
        layer: [j for at, j in sorted(pairs(a)) if at == layer] for layer, _ in sorted(pairs(a))
    }


@quick
@given(st.lists(sets, min_size=2, max_size=5))
def test_exclusive_and_common(members: list[NeuronSet]):
    named = {f"t{i}": member.rename(f"t{i}") for i, member in enumerate(members)}
    alone = exclusive(named)
    assert list(alone) == list(named)
    for name, own in alone.items():
        assert own.name == name
        others = [pairs(other) for other_name, other in named.items() if other_name != name]
        assert pairs(own) == pairs(named[name]) - set().union(*others)
        assert all(own.isdisjoint(other) for n, other in alone.items() if n != name)
    assert pairs(common(named)) == set.intersection(*map(pairs, members))
    assert pairs(common(members, at_least=1)) == set().union(*map(pairs, members))
    assert common(members, at_least=2).issubset(common(members, at_least=1))
    # Once or more = exactly once, or twice and more.
    once = set().union(*map(pairs, alone.values()))
    assert once == pairs(common(members, at_least=1) - common(members, at_least=2))


def test_membership_of_neurons_that_do_not_exist():
    everything = ~neuron_set(0)
    assert (2, 7) in everything
    assert (3, 0) not in everything
    assert (0, 8) not in everything
    assert (-1, 0) not in everything


def test_what_is_no_set_is_refused():
    for operator in (
        lambda a, b: a | b, lambda a, b: a & b, lambda a, b: a - b, lambda a, b: a ^ b
    ):  # fmt: skip
        with pytest.raises(TypeError, match="Expected a NeuronSet, got set"):
            operator(neuron_set(3), {(0, 0)})
    assert neuron_set(3) != {(0, 0), (0, 1)}


@pytest.mark.parametrize("shape", [(N_LAYERS, D_MLP), (N_LAYERS, D_MLP + 1), (2, 5)])
def test_sets_of_two_models_do_not_mix(shape: tuple[int, int]):
    ours = neuron_set(5)
    theirs = NeuronSet(torch.ones(shape, dtype=torch.bool), "bb", "theirs")
    for operator in (
        lambda a, b: a | b, lambda a, b: a & b, lambda a, b: a - b, lambda a, b: a ^ b,
        lambda a, b: a.isdisjoint(b), lambda a, b: a.issubset(b),
        lambda a, b: a.random_like(0, exclude=b), lambda a, b: common([a, b]),
        lambda a, b: exclusive({"a": a, "b": b}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="different models") as caught:
            operator(ours, theirs)
        assert PRINT in str(caught.value)
        assert "model bb" in str(caught.value)
    assert ours != NeuronSet(ours.mask, "bb")


# --- making sets of scores ---


def by_hand(found: NeuronScores, n: int) -> set[tuple[int, int]]:
    """Highest first; ties by layer, then by index."""
    everything = [(layer, j) for layer in range(N_LAYERS) for j in range(D_MLP)]
    return set(sorted(everything, key=lambda at: (-found.values[at].item(), at))[:n])


@quick
@given(scores, st.integers(0, N_LAYERS * D_MLP), st.integers(0, N_LAYERS * D_MLP))
def test_top_n(found: NeuronScores, n: int, m: int):
    assert pairs(found.top(n=n)) == by_hand(found, n)
    smaller, larger = sorted((n, m))
    assert found.top(n=smaller).issubset(found.top(n=larger))


@quick
@given(scores, st.integers(1, D_MLP))
def test_top_per_layer(found: NeuronScores, n: int):
    chosen = found.top(n=n, per_layer=True)
    assert chosen.per_layer == [n] * N_LAYERS
    for layer in range(N_LAYERS):
        row = sorted(range(D_MLP), key=lambda j: (-found.values[layer, j].item(), j))[:n]
        assert {j for at, j in pairs(chosen) if at == layer} == set(row)
    assert found.top(fraction=n / D_MLP, per_layer=True) == chosen


@quick
@given(scores, st.sampled_from([-1.0, 0.0, 0.5, 0.7, 2.0, 3.0]))
def test_top_above_a_threshold(found: NeuronScores, threshold: float):
    expected = {(layer, j) for layer, j in (found.values >= threshold).nonzero().tolist()}
    assert pairs(found.top(threshold=threshold)) == expected


def test_fractions_are_rounded_and_never_empty():
    found = scores_of([[float(i * 8 + j) for j in range(8)] for i in range(3)])
    for fraction, n in [(1.0, 24), (0.5, 12), (0.1, 2), (0.11, 3), (1e-6, 1)]:
        assert len(found.top(fraction=fraction)) == n
    assert pairs(found.top(fraction=1e-6)) == {(2, 7)}
    chosen = found.top(fraction=0.25)
    assert (chosen.name, chosen.fingerprint) == ("t", PRINT)
    assert chosen.info["fraction"] == 0.25
    assert chosen.info["method"] == "grad_act"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *[
            ({"fraction": value}, rf"fraction is {value}; it must be in \(0, 1\]")
            for value in (0.0, -1.0, 1.5, float("nan"), float("inf"))
        ],
        ({"n": -1}, "n is -1; there are 24"),
        ({"n": 25}, "n is 25; there are 24"),
        ({"n": 9, "per_layer": True}, "n is 9; there are 8"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({}, "exactly one of"),
        ({"n": 1, "fraction": 0.5}, "exactly one of"),
    ],
)
def test_bad_selections(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        scores_of([[0.0] * 8] * 3).top(**options)


def test_scores_must_be_finite():
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=rf"neuron \(1, 0\) for 't' is {value}"):
            scores_of([[1.0, 2.0], [value, 1.0]])


# --- random controls ---


@quick
@given(sets, st.integers(0, 2**31), sets)
def test_random_controls(own: NeuronSet, seed: int, other: NeuronSet):
    control = own.random_like(seed)
    assert control.per_layer == own.per_layer
    assert control == own.random_like(seed)
    assert len(own.random_like(seed, match="total")) == len(own)
    free = (~other).per_layer
    if all(need <= room for need, room in zip(own.per_layer, free, strict=True)):
        without = own.random_like(seed, exclude=other)
        assert without.per_layer == own.per_layer
        assert without.isdisjoint(other)
    else:
        with pytest.raises(ValueError, match=r"Can't draw \d+ random neurons in layer \d: only"):
            own.random_like(seed, exclude=other)
    if len(own) <= len(~other):
        without = own.random_like(seed, match="total", exclude=other)
        assert len(without) == len(own)
        assert without.isdisjoint(other)


def test_random_controls_are_uniform_and_differ_by_seed():
    own = NeuronSet.from_pairs(micro.one_layer(), [(0, 1)]).rename("own")
    drawn = [pairs(own.random_like(seed)).pop()[1] for seed in range(300)]
    counts = [drawn.count(j) for j in range(3)]
    assert min(counts) > 70
    control = own.random_like(7)
    assert control.info == {"random_like": "own", "seed": 7, "match": "layer"}
    wide = NeuronSet(torch.rand(4, 200) < 0.3, "fp")
    assert wide.random_like(0) != wide.random_like(1)
    assert wide.random_like(0, match="total").per_layer != wide.per_layer


def test_bad_random_controls():
    with pytest.raises(ValueError, match="Can't draw 24 random neurons in the model: only 23"):
        (~neuron_set(0)).random_like(0, match="total", exclude=neuron_set(1))
    wrong: Any = "rows"
    with pytest.raises(Exception, match="rows"):
        neuron_set(1).random_like(0, match=wrong)


# --- pairs, rebinding, frames ---


def test_sets_of_pairs():
    model = micro.one_layer()
    chosen = NeuronSet.from_pairs(model, [(0, 2), (0, 0), (0, 2)], "mine")
    assert pairs(chosen) == {(0, 0), (0, 2)}
    assert (chosen.name, chosen.fingerprint) == ("mine", view(model).fingerprint)
    for wrong in ((0, 3), (1, 0), (0, -1), (-1, 0)):
        with pytest.raises(ValueError, match=rf"No neuron \({wrong[0]}, {wrong[1]}\) in micro"):
            NeuronSet.from_pairs(model, [wrong])


def test_rebinding():
    model, other = micro.one_layer(), micro.two_layers()
    with torch.no_grad():
        other.blocks[0].mlp.W_out.add_(1)
    chosen = NeuronSet(torch.tensor([[True], [False]]), "2x1-00", "s", {"k": 1})
    bound = chosen.rebind(other)
    assert bound.fingerprint == view(other).fingerprint
    assert (pairs(bound), bound.name, bound.info) == ({(0, 0)}, "s", {"k": 1})
    found = NeuronScores(torch.ones(2, 1), "2x1-00", "t", "m").rebind(other)
    assert found.fingerprint == view(other).fingerprint
    for item in (chosen, found):
        with pytest.raises(ValueError, match=r"don't fit micro .* its shape is \(1, 3\)"):
            item.rebind(model)


def test_scores_are_kept_detached_in_float32():
    given = torch.tensor([[1.0, 3.0], [3.0, 2.0]])
    for values in (given.bfloat16(), given.double(), given.clone().requires_grad_()):
        found = NeuronScores(values, PRINT, examples=values.expand(3, 2, 2))
        for kept in (found.values, found.examples):
            assert kept is not None and kept.dtype == torch.float32 and not kept.requires_grad
        assert found.to_frame()["score"].tolist() == [3.0, 3.0, 2.0, 1.0]
        assert found.top(n=2).info["split_half"] == 1.0
    assert NeuronScores(given, PRINT).values.data_ptr() == given.data_ptr()  # no copy


def test_frames():
    found = scores_of([[1.0, 3.0], [3.0, 2.0]])
    frame = found.to_frame()
    assert list(frame.columns) == ["layer", "neuron", "score"]
    assert frame.to_numpy().tolist() == [[0, 1, 3], [1, 0, 3], [1, 1, 2], [0, 0, 1]]
    frame = found.top(n=3).to_frame()
    assert frame.to_numpy().tolist() == [[0, 1], [1, 0], [1, 1]]
    assert len(neuron_set(0).to_frame()) == 0
    assert "3 of 4 neurons (75.00%)" in repr(found.top(n=3))
    assert "'t', grad_act, 2 layers x 2 neurons" in repr(found)
