from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_sets import PRINT, quick, scores, scores_of

from tl_taskneurons import NeuronScores


def test_contrast_by_exclusion():
    own = scores_of([[4.0, 3.0], [2.0, 1.0]])
    other, third = (
        scores_of([[0.0, 9.0], [8.0, 0.0]], "u"),
        scores_of([[1.0, 2.0], [3.0, 4.0]], "v"),
    )
    values = own.contrast([other, third], fraction=0.25).values
    assert values.tolist() == [[4.0, 0.0], [2.0, 0.0]]
    assert own.contrast(other, fraction=0.5).values.tolist() == [[4.0, 0.0], [0.0, 1.0]]
    result = own.contrast([other, third], fraction=0.25)
    assert (result.name, result.method, result.fingerprint) == ("t", "grad_act", PRINT)
    assert result.info == {"contrast": "exclude", "against": ["u", "v"], "contrast_fraction": 0.25}
    assert own.values.tolist() == [[4.0, 3.0], [2.0, 1.0]]


def test_contrast_by_difference():
    # Shares of the sum: (.4, .3; .2, .1) against the highest of (.1, .5; .4, 0) and
    # (.2, .2; .2, .4).
    own = scores_of([[4.0, 3.0], [2.0, 1.0]])
    others = [scores_of([[1.0, 5.0], [4.0, 0.0]], "u"), scores_of([[2.0, 2.0], [2.0, 4.0]], "v")]
    values = own.contrast(others, how="difference").values
    assert torch.allclose(values, torch.tensor([[0.2, 0.0], [0.0, 0.0]]), atol=1e-7)
    # The scale of another task's scores does not matter.
    louder = scores_of([[100.0, 500.0], [400.0, 0.0]], "u")
    assert torch.allclose(own.contrast([louder, others[1]], how="difference").values, values)


def test_signs_are_refused_in_a_contrast_on_either_side():
    own, other = scores_of([[4.0, 3.0], [2.0, 1.0]]), scores_of([[-1.0, 7.0], [1.0, 5.0]], "u")
    signed = replace(other, info={"signed": True, "better": "lower"})
    for first, second in ((own, signed), (signed, own)):
        with pytest.raises(ValueError, match="scores of 'u' are signed; contrast one side of each"):
            first.contrast(second, how="difference")
    assert own.contrast(signed.side("help"), how="difference").values.sum() > 0


def test_contrast_by_rank():
    # Shares of neurons below: own (.75, .5; .25, 0), the other (0, .75; 0, .5) with a tie.
    own, other = scores_of([[4.0, 3.0], [2.0, 1.0]]), scores_of([[1.0, 7.0], [1.0, 5.0]], "u")
    values = own.contrast(other, how="rank").values
    assert values.tolist() == [[0.75, 0.0], [0.25, 0.0]]
    assert values.dtype == torch.float32


@quick
@given(scores, scores, st.sampled_from(["exclude", "difference", "rank"]))
def test_contrast_never_adds(own: NeuronScores, other: NeuronScores, how: str):
    values = own.contrast(other, how=how, fraction=0.25).values
    assert (values >= 0).all()
    if how != "exclude":
        assert (own.contrast(own, how=how).values == 0).all()
    else:
        assert (values[other.top(fraction=0.25).mask] == 0).all()
        kept = ~other.top(fraction=0.25).mask
        assert torch.equal(values[kept], own.values[kept])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.contrast([]), "at least one other"),
        (lambda s: s.contrast(s, how="minus"), r"Unknown contrast 'minus'.*Known: exclude"),
        (lambda s: s.contrast(s, fraction=0.0), "fraction is 0"),
        (
            lambda s: s.contrast(scores_of([[0.0, 1.0]], "u", "exact")),
            "'t' come from method 'grad_act', those of 'u' from 'exact'",
        ),
        (
            lambda s: s.contrast(NeuronScores(torch.ones(2, 3), "bb", "u", "grad_act")),
            "different models",
        ),
    ],
)
def test_bad_contrasts(call: Callable[[NeuronScores], Any], message: str):
    with pytest.raises(ValueError, match=message):
        call(scores_of([[0.0, 1.0]]))
