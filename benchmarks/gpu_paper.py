"""Part c: the paper's experiments on SmolLM2-135M, by the command that a reader would use.

The command keeps every finished result in the folder ``reproduce``, so a run that the time limit
ended goes on there. Its tables, in ``tables``, have the form that ``RESULTS.md`` is made of.
"""

import subprocess
import sys
from typing import Any

import pandas as pd


def speed(setting: Any) -> pd.DataFrame:
    """When task neurons learn faster than random ones: the map over rate, updates and share."""
    return reproduced(setting, "rate_map", "rate_map")


def silenced(setting: Any) -> pd.DataFrame:
    """Table 1 on the model that was first trained on all tasks together."""
    return reproduced(setting, "table1", "table1")


def sequences(setting: Any) -> pd.DataFrame:
    """Table 5: tasks in a row."""
    return reproduced(setting, "table5", "table5")


def reproduced(setting: Any, experiment: str, table: str) -> pd.DataFrame:
    """Run one experiment and return its table."""
    model = "mini-llama" if setting.tiny else "smollm2-135m"
    command = [
        sys.executable, "-m", "tl_taskneurons.cli", "reproduce", "--model", model,
        "--only", experiment, "--device", str(setting.device), "--workers", "1",
        "--out", str(setting.out / "reproduce"), "--csv", str(setting.out / "tables"),
    ]  # fmt: skip
    command += ["--preset", "smoke"] if setting.tiny else ["--data", str(setting.data)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return pd.read_csv(setting.out / "tables" / f"{table}_{model}.csv")
