from dataclasses import replace

import pytest
import torch

from tl_taskneurons.analysis.reliability import halves_of, selection_reliability
from tl_taskneurons.neurons.scores import NeuronScores


def scores(name: str, examples: list[list[float]], method: str = "grad_act") -> NeuronScores:
    """Scores of one layer."""
    kept = torch.tensor(examples)[:, None]
    return NeuronScores(kept.mean(0), "model", name, method, {}, kept)


def test_halves_are_means_over_half_the_examples_each():
    own = scores("a", [[1.0, 0.0], [3.0, 0.0], [5.0, 8.0]])
    halves = halves_of(own, n_cuts=4)
    assert halves.shape == (4, 2, 1, 2)
    # Three examples: two in the first half, one in the second.
    assert torch.allclose((2 * halves[:, 0] + halves[:, 1]) / 3, own.values)
    assert torch.equal(halves, halves_of(own, n_cuts=4))
    assert set(halves[:, 1, 0, 0].tolist()) <= {1.0, 3.0, 5.0}


def test_sizes_are_taken_last_where_the_method_does():
    own = scores("a", [[-1.0, 0.0], [-3.0, 0.0]], "grad_act_mean")
    assert (halves_of(own) >= 0).all()


def test_what_every_example_says_returns_and_what_one_says_does_not():
    steady = scores("steady", [[9.0, 1.0, 0.0, 0.0]] * 4)
    # Every example has a top neuron of its own: two halves never agree.
    single = scores("single", torch.eye(4).mul(torch.tensor([4.0, 3.0, 2.0, 1.0])).tolist())
    found = selection_reliability([steady, single], fraction=0.25)
    assert found == {"steady": 1.0, "single": 0.0}
    assert found["single"] == single.split_half(fraction=0.25, n_splits=5)


def test_a_contrast_is_selected_anew_by_each_half():
    first = scores("first", [[9.0, 5.0, 0.0, 0.0]] * 2)
    second = scores("second", [[9.0, 0.0, 5.0, 0.0]] * 2)
    assert selection_reliability([first, second], "exclusive", 0.5) == {"first": 1, "second": 1}
    # In the halves one or the other has what both have in all: nothing of it is left.
    with pytest.raises(ValueError, match="leaves no neurons"):
        selection_reliability([first, second], "exclusive", 0.25)


def test_scores_of_too_few_examples_are_told():
    with pytest.raises(ValueError, match="'a' are kept of 1 examples"):
        halves_of(scores("a", [[1.0, 0.0]]))
    bare = NeuronScores(torch.ones(1, 2), "model", "b", "grad_act")
    with pytest.raises(ValueError, match="per_example=True"):
        selection_reliability(bare)
    with pytest.raises(ValueError, match="n_cuts is 0; it must be at least 1"):
        selection_reliability(scores("a", [[1.0, 0.0]] * 2), n_cuts=0)


def test_sizes_of_signed_scores_are_as_reliable_as_these():
    # Two neurons have the largest effects in every example, one up and one down.
    signed = replace(scores("a", [[9.0, -8.0, 1.0, 0.0]] * 4), info={"signed": True})
    sizes = signed.side("both")
    assert signed.top(n=2).info["split_half"] == signed.split_half(n=2) == 1.0
    assert selection_reliability([sizes], fraction=0.5) == {"a": 1.0}
    assert selection_reliability([signed], fraction=0.5) == {"a": 1.0}
    # Effects that cancel over the examples have no size of their own.
    turning = replace(scores("a", [[9.0, -8.0], [-9.0, -8.0]]), info={"signed": True})
    assert turning.top(n=1).mask.tolist() == [[False, True]]
    assert torch.equal(turning.side("both").standard_errors(), turning.standard_errors())
