"""Collect runs of the table-1 experiment into figures/table1_smollm2.csv and print it.

python figures/table1.py runs/table1 [runs/table1-mean ...]
"""

import argparse
from pathlib import Path

import pandas as pd

from tl_taskneurons.runtime.table_files import read_json, read_table

HERE = Path(__file__).parent
SHOWN = [
    "ablation",
    "fraction",
    "selection",
    "task",
    "n_neurons",
    "original",
    "random",
    "random_low",
    "random_high",
    "silenced",
    "excess",
    "excess_low",
    "excess_high",
    "others_drop",
    "specificity",
    "loss",
    "loss_rise",
    "loss_rise_random",
    "loss_rise_others",
    "loss_specificity",
    "n",
    "n_controls",
]


def collect(folders: list[Path]) -> pd.DataFrame:
    """Read the tables of finished runs of one model."""
    tables = [read_table(folder / "table.parquet") for folder in folders]
    fingerprints = {read_json(folder / "run.json")["facts"]["fingerprint"] for folder in folders}
    if len(fingerprints) > 1:
        raise ValueError(f"The runs are of different models: {sorted(fingerprints)}.")
    return pd.concat(tables, ignore_index=True)[SHOWN]


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Average over tasks, and count the tasks in which the claim holds."""
    keys = ["ablation", "fraction", "selection"]
    columns = ["n_neurons", "original", "random", "silenced", "others_drop", "specificity"]
    columns += ["loss_rise", "loss_rise_random", "loss_rise_others"]
    means = table.groupby(keys, sort=False)[columns].mean()
    flags = table.assign(
        tasks=1,
        **{
            "task < random": table["silenced"] < table["random"],
            "excess interval > 0": table["excess_low"] > 0,
            "loss rise > random": table["loss_rise"] > table["loss_rise_random"],
            "loss rise > others": table["loss_rise"] > table["loss_rise_others"],
        },
    )
    counts = flags.groupby(keys, sort=False)[
        [
            "tasks",
            "task < random",
            "excess interval > 0",
            "loss rise > random",
            "loss rise > others",
        ]
    ].sum()
    return means.join(counts).reset_index()


def main() -> None:
    """Write the CSV files and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", help="folders of finished runs")
    table = collect(parser.parse_args().folders)
    means = summary(table)
    table.round(4).to_csv(HERE / "table1_smollm2.csv", index=False)
    means.round(4).to_csv(HERE / "table1_smollm2_mean.csv", index=False)
    print(means.round(2).to_string(index=False))


if __name__ == "__main__":
    main()
