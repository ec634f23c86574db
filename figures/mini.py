"""Collect runs of the table-1 experiment on mini models into figures/mini_*.csv.

python figures/mini.py runs/mini/mini-llama runs/mini/mini-bloom

The task x task matrix is kept at the largest share alone; ``figure5.py`` draws it.
"""

import argparse
from pathlib import Path

import pandas as pd
from table1 import SHOWN

from tl_taskneurons.builtin.mini.tasks import recipe
from tl_taskneurons.evaluation.statistics import mean_interval
from tl_taskneurons.evaluation.tables import diagonal_wins
from tl_taskneurons.runtime.table_files import read_table

HERE = Path(__file__).parent
CELL = ["model", "fraction", "selection"]
MATRIX = [
    *CELL, "silenced", "task", "metric", "value", "change", "low", "high", "loss_change",
    "loss_low", "loss_high", "n",
]  # fmt: skip


def means(table: pd.DataFrame, matrix: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Average over the tasks, count the tasks and the rows and columns in which the claim holds.

    Returns:
        One row per model, share and selection. ``random_low`` and ``random_high`` are the 95%
        interval over the control seeds of the mean over tasks; ``rows`` and ``columns``
        say in how many rows and columns of the task x task matrix the own cell is the most hurt,
        ``family_`` in how many the own or the sibling's.
    """
    rows = []
    for key, part in table.groupby(CELL, sort=False):
        cell = dict(zip(CELL, key, strict=True))
        controls = _of(items, cell).query("kind == 'random'")
        by_seed = controls.groupby(["seed", "task"])["score"].mean().groupby("seed").mean()
        low, high = mean_interval(by_seed.to_numpy())
        loss, score = (diagonal_wins(_of(matrix, cell), c) for c in ("loss_change", "change"))
        shown = ["n_neurons", "original", "random", "silenced", "others_drop", "loss_rise"]
        rows.append(
            {**cell, **part[[*shown, "loss_rise_random", "loss_rise_others"]].mean(),
             "random_low": low, "random_high": high, "tasks": len(part),
             "below_random": int((part["silenced"] < part["random"]).sum()),
             "excess_above_0": int((part["excess_low"] > 0).sum()),
             "loss_above_random": int((part["loss_rise"] > part["loss_rise_random"]).sum()),
             "rows": score["rows"], "columns": score["columns"],
             "loss_rows": loss["rows"], "loss_columns": loss["columns"],
             **family_wins(_of(matrix, cell))}
        )  # fmt: skip
    return pd.DataFrame(rows)


def family_wins(matrix: pd.DataFrame) -> dict[str, int]:
    """Count the rows and columns whose most hurt cell, by loss, is of the same family."""
    rises = matrix.pivot(index="silenced", columns="task", values="loss_change")
    found = {"family_rows": rises.idxmax(axis=1), "family_columns": rises.idxmax(axis=0)}
    return {
        name: sum(recipe(one).family == recipe(other).family for one, other in most.items())
        for name, most in found.items()
    }


def _of(frame: pd.DataFrame, cell: dict[str, object]) -> pd.DataFrame:
    """The rows of one cell."""
    keep = pd.Series(True, index=frame.index)
    for name, value in cell.items():
        keep &= frame[name] == value
    return frame[keep]


def main() -> None:
    """Write the CSV files, print the means."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", help="folders of finished runs")
    folders = parser.parse_args().folders
    table, matrix, items = (
        pd.concat([read_table(folder / f"{name}.parquet") for folder in folders])
        for name in ("table", "matrix", "items")
    )
    found = means(table, matrix, items)
    table[["model", *SHOWN]].round(4).to_csv(HERE / "mini_deactivation.csv", index=False)
    paper = matrix[matrix["fraction"] == matrix["fraction"].max()]
    paper[MATRIX].round(4).to_csv(HERE / "mini_matrix.csv", index=False)
    found.round(4).to_csv(HERE / "mini_deactivation_mean.csv", index=False)
    print(found.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
