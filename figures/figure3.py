"""Figure 3: similarity of the parameters of two tasks' neurons, by layer.

python figures/figure3.py [--table TABLE.csv] [--out FOLDER]
"""

from drawing import main

from tl_taskneurons.plots import similarity_by_layer

COMMAND = "tl-taskneurons reproduce --model mini-llama --only figure3 --csv figures"

if __name__ == "__main__":
    raise SystemExit(main("figure3", "figure3_*.csv", similarity_by_layer, COMMAND))
