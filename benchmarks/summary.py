"""Read all result files and say which targets are met.

python benchmarks/summary.py [--results benchmarks/results]
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from targets import Target

RESULTS = Path(__file__).parent / "results"


def verdicts(folder: Path) -> pd.DataFrame:
    """Return one row per target of every result file: ``result, what, value, limit, verdict``."""
    rows: list[dict[str, Any]] = []
    for file in sorted(folder.glob("*.json")):
        for stated in _targets(file):
            value = stated["value"]
            target = Target(**{**stated, "value": math.nan if value is None else value})
            sign = ">=" if target.at_least else "<="
            rows.append(
                {
                    "result": file.stem, "what": target.what, "value": target.value,
                    "target": f"{sign} {target.limit:g}", "verdict": target.verdict,
                }
            )  # fmt: skip
    return pd.DataFrame(rows, columns=["result", "what", "value", "target", "verdict"])


def left_out(folder: Path) -> dict[str, str]:
    """Return the contenders that were not run, with the reasons."""
    found: dict[str, str] = {}
    for file in sorted(folder.glob("*.json")):
        reasons = json.loads(file.read_text()).get("left_out", {})
        found |= {f"{file.stem}: {name}": reason for name, reason in reasons.items()}
    return found


def _targets(file: Path) -> list[dict[str, Any]]:
    stated = json.loads(file.read_text()).get("targets")
    # Files that an earlier version wrote state their targets in other ways, or not at all.
    return stated if isinstance(stated, list) else []


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table and the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    folder = parser.parse_args(argv).results
    table = verdicts(folder)
    shown = table.assign(value=[f"{value:.3g}" for value in table["value"]])
    print(shown.to_string(index=False) if len(table) else f"no targets in {folder}")
    for name, reason in left_out(folder).items():
        print(f"left out: {name}: {reason}")
    counts = table["verdict"].value_counts()
    print(", ".join(f"{counts.get(kind, 0)} {kind}" for kind in ("met", "missed", "not measured")))


if __name__ == "__main__":
    main()
