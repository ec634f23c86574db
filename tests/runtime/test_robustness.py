"""A small sample of what ``benchmarks/robustness.py`` measures."""

import importlib
import random
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def robustness(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("robustness")


# The model doesn't run inside the blocks, whose clean-up is what is looked at.
@pytest.mark.filterwarnings("ignore::tl_taskneurons.neurons.interventions.HookNeverFiredWarning")
def test_exceptions_anywhere_leave_nothing_over(robustness: Any):
    assert robustness.injections(60, random.Random(1)) == {"tries": 60, "left over": 0}


def test_flipped_bits_and_full_disks_are_named(robustness: Any):
    assert robustness.flips(16, random.Random(1)) == {"tries": 16, "named": 16}
    assert robustness.disks(8, random.Random(1)) == {"tries": 8, "told in one line": 8}
