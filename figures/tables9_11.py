"""Tables 9 to 11 as curves: transfer at a set overlap and a fixed share.

python figures/tables9_11.py [--table TABLE.csv] [--out FOLDER]
"""

from drawing import main

from tl_taskneurons.plots import controlled_overlap_curves

COMMAND = "tl-taskneurons reproduce --model mini-llama --only tables9_11 --csv figures"

if __name__ == "__main__":
    raise SystemExit(main("tables9_11", "tables9_11_*.csv", controlled_overlap_curves, COMMAND))
