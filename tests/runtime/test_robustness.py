"""A small sample of what ``benchmarks/robustness.py`` measures."""

import importlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def robustness(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("robustness")


BAD = {"other bytes", "other results", "refused", "left to delete", "in place", "failures"}


# Ctrl-C that strikes while garbage is collected can't be raised.
BROKEN_OFF = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


# The model doesn't run inside the blocks, whose clean-up is what is looked at.
@BROKEN_OFF
@pytest.mark.filterwarnings("ignore::tl_taskneurons.neurons.interventions.HookNeverFiredWarning")
def test_exceptions_anywhere_leave_nothing_over(robustness: Any):
    assert robustness.injections(60, random.Random(1)) == {"tries": 60, "left over": 0}


def test_flipped_bits_and_full_disks_are_named(robustness: Any):
    assert robustness.flips(16, random.Random(1)) == {"tries": 16, "named": 16}
    assert robustness.disks(8, random.Random(1)) == {"tries": 8, "told in one line": 8}


@BROKEN_OFF
def test_training_and_evaluation_that_are_broken_off_leave_nothing_over(robustness: Any):
    assert robustness.injections_at_work(5, random.Random(1)) == {"tries": 5, "left over": 0}


@pytest.mark.needs("once")
@pytest.mark.skipif(os.name != "posix", reason="needs fork")
def test_killed_commands_go_on_to_the_same_results():
    # In a process of its own, since it is forked.
    code = (
        "import json, random, robustness, robustness_commands as r, robustness_states as s; "
        "found = [robustness.states(1, random.Random(1)), "
        "s.every_state(2, random.Random(1), ('continual',)), "
        "r.kills(1, random.Random(1), ('detect',))]; "
        "print('found:', json.dumps(found))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=FOLDER, text=True, capture_output=True, timeout=600,
        env={**os.environ, "PYTHONPATH": str(FOLDER.parent), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.partition("found:")[2])
    bad = [{name: one[name] for name in BAD & one.keys()} for one in found]
    # Files are written aside, and moved when they are whole, so none is told to be in place.
    assert bad == [
        {"other bytes": 0, "left to delete": 0},
        *[{"other results": 0, "refused": 0, "left to delete": 0}] * 2,
    ], f"{json.dumps(found, indent=1)}\n{done.stderr}"
