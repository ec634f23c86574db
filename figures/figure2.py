"""Figure 2: scores of groups of tasks against the share of neurons trained together.

python figures/figure2.py [--table TABLE.csv] [--out FOLDER]
"""

from drawing import main

from tl_taskneurons.plots import share_curves

COMMAND = "tl-taskneurons reproduce --model mini-llama --only figure2 --csv figures"

if __name__ == "__main__":
    raise SystemExit(main("figure2", "figure2_*.csv", share_curves, COMMAND))
