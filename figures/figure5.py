"""Figure 5: what silencing or training a task's neurons changes on every task.

python figures/figure5.py [--table TABLE.csv] [--out FOLDER]
"""

import pandas as pd
from drawing import main
from matplotlib.figure import Figure

from tl_taskneurons.plots import deactivation_heatmap, training_heatmap

COMMAND = "tl-taskneurons reproduce --model mini-llama --only figure5 --csv figures"
CELL = ("model", "ablation", "selection", "fraction")


def draw(matrix: pd.DataFrame) -> Figure:
    """Draw either matrix: by score, or by loss where a task has no score."""
    column = "change" if matrix["change"].notna().all() else "loss_change"
    heatmap = training_heatmap if "trained" in matrix.columns else deactivation_heatmap
    return heatmap(matrix, column)


if __name__ == "__main__":
    raise SystemExit(main("figure5", "figure5_*.csv", draw, COMMAND, split=CELL))
