"""The overlap of every pair of tasks, as a matrix.

python figures/overlap.py [--table TABLE.csv] [--out FOLDER]
"""

from drawing import main

from tl_taskneurons.plots import overlap_heatmap

COMMAND = "tl-taskneurons reproduce --model mini-llama --only table8 --csv figures"

if __name__ == "__main__":
    raise SystemExit(main("overlap", "overlap_*.csv", overlap_heatmap, COMMAND))
