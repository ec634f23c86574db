"""Collect a run of the planted experiment into figures/planted.csv and planted.png.

python figures/planted.py runs/planted
"""

import argparse
from pathlib import Path

import pandas as pd

from tl_taskneurons import plots
from tl_taskneurons.runtime.table_files import read_table

HERE = Path(__file__).parent
NOISES = (0.0, 0.05, 0.1, 0.2, 0.4)


def markdown(table: pd.DataFrame) -> str:
    """Return the table of ``builtin/README.md``: methods by noise, gated / plain, no overlap."""
    alone = table[table["overlap"] == 0]
    lines = [
        "| method | " + " | ".join(f"noise {noise:g}" for noise in NOISES) + " | as exact |",
        "|---" * (len(NOISES) + 2) + "|",
    ]
    for method in table["method"].unique():
        own = alone[alone["method"] == method]
        cells = [_pair(own[own["noise"] == noise], "precision") for noise in NOISES]
        cells.append(_pair(own[own["noise"] > 0].groupby("mlp").mean(numeric_only=True), "exact"))
        lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _pair(rows: pd.DataFrame, column: str) -> str:
    by_kind = rows.set_index("mlp")[column] if "mlp" in rows else rows[column]
    return " / ".join(f"{by_kind[kind]:.2f}" for kind in ("gated", "plain"))


def main() -> None:
    """Write the CSV and the picture, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of a finished run")
    table = read_table(parser.parse_args().folder / "planted.parquet")
    table.round(4).to_csv(HERE / "planted.csv", index=False)
    plots.save(plots.recovery_curves(table), HERE / "planted.png")
    print(markdown(table.round(4)))


if __name__ == "__main__":
    main()
