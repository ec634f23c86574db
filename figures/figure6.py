"""Figure 6: scores against the share of neurons, with one task trained alone.

python figures/figure6.py [--table TABLE.csv] [--out FOLDER]
"""

from functools import partial

from drawing import main

from tl_taskneurons.plots import share_curves

COMMAND = "tl-taskneurons reproduce --model mini-llama --only figure6 --csv figures"

if __name__ == "__main__":
    draw = partial(share_curves, panel="task", line=None)
    raise SystemExit(main("figure6", "figure6_*.csv", draw, COMMAND))
