"""Does a score predict what silencing does? Neuron by neuron, and set by set.

python figures/faithfulness.py [--table TABLE.csv] [--out FOLDER]
"""

import pandas as pd
from drawing import main
from matplotlib.figure import Figure

from tl_taskneurons.plots import faithfulness_scatter, faithfulness_sets

COMMAND = "faithfulness(model, task).neurons.to_csv('figures/faithfulness_mini.csv', index=False)"


def draw(table: pd.DataFrame) -> Figure:
    """Draw either table of a Faithfulness: ``neurons`` or ``sets``."""
    return (faithfulness_sets if "predicted" in table.columns else faithfulness_scatter)(table)


if __name__ == "__main__":
    raise SystemExit(main("faithfulness", "faithfulness_*.csv", draw, COMMAND))
