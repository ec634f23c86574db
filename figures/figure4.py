"""Figure 4: what is left of earlier tasks after each stage of a row of tasks.

python figures/figure4.py [--table TABLE.csv] [--out FOLDER]
"""

from drawing import main

from tl_taskneurons.plots import forgetting_curves

COMMAND = "tl-taskneurons reproduce --model mini-llama --only table5 --csv figures"

if __name__ == "__main__":
    raise SystemExit(main("figure4", "figure4_*.csv", forgetting_curves, COMMAND))
