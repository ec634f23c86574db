"""Bad calls are told: a sample of the benchmark's, none silent and no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.needs("once")
def test_a_sample_of_bad_calls_is_told():
    # In a process of its own: there are no type checks by the tests' import hook there.
    done = subprocess.run(
        [sys.executable, "benchmarks/bad_calls.py", "--sample", "60"], cwd=ROOT, text=True,
        capture_output=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
