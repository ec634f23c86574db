"""Table 8 as curves: overlap of tasks or groups against the share of neurons taken.

python figures/table8.py [--table TABLE.csv] [--out FOLDER]
"""

from drawing import main

from tl_taskneurons.plots import overlap_curves

COMMAND = "tl-taskneurons reproduce --model mini-llama --only table8 --csv figures"

if __name__ == "__main__":
    raise SystemExit(main("table8", "table8_*.csv", overlap_curves, COMMAND))
