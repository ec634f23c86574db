"""Which neurons of a compiled program are needed, by hand; compiling needs other packages."""

import importlib
import math
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def truth(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2] / "benchmarks"), *sys.path])
    return importlib.import_module("tracr_truth")


def test_steps_from_the_value_that_is_there_anyway(truth: Any):
    """As Tracr wires a histogram: from 4 down, step by step, to what the count is."""

    def step(reads: str, *writes: str) -> Any:
        return truth.Wires((reads, "one"), writes)

    wires = [
        truth.Wires(("tokens:BOS",), ("hist:0", "hist_attn_output")),
        step("hist_attn_output", "hist:3", "hist:4"),
        step("hist_attn_output", "hist:1", "hist:2"),
        step("hist_attn_output", "hist:0", "hist:1"),
        truth.Wires(("one",), ("hist:4",)),
        truth.Wires((), ()),
    ]
    variables = {"hist": lambda xs: [xs.count(x) for x in xs]}
    # Counts 1, 2, 2: all go from 4 to 3 and on to 2, one of them to 1, none to 0.
    assert truth.needed(wires, variables, [["a", "b", "b"]]) == [
        False, True, True, False, True, None
    ]  # fmt: skip
    # Where only the last place has count 1, it is left open whether that step is needed.
    assert truth.needed(wires, variables, [["b", "b", "a"]])[2] is None


def test_neurons_that_ask_for_two_things_at_once(truth: Any):
    wires = [
        truth.Wires(("tokens:a", "indices:0", "one"), ("both:1",)),
        truth.Wires(("tokens:a", "indices:1", "one"), ("both:2",)),
        truth.Wires(("indices:1",), ("other:2",)),
    ]
    variables = {"tokens": lambda xs: xs, "indices": lambda xs: list(range(len(xs)))}
    assert truth.needed(wires, variables, [["a", "b", "b"]]) == [True, False, True]


def test_the_area_counts_pairs_in_order(truth: Any):
    assert truth.area_under_roc([3.0, 1.0, 2.0, 0.0], [True, True, False, False]) == 0.75
    assert truth.area_under_roc([1.0, 1.0], [True, False]) == 0.5
    assert math.isnan(truth.area_under_roc([1.0], [True]))
