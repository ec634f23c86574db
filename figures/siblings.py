"""C7: how much more alike siblings' neurons are than other pairs', by layer, beyond chance.

python figures/siblings.py [--table TABLE.csv] [--out FOLDER]
"""

from drawing import main

from tl_taskneurons.plots import sibling_curves

COMMAND = "tl-taskneurons reproduce --model mini-llama --only figure3 --csv figures"

if __name__ == "__main__":
    raise SystemExit(main("siblings", "siblings_*.csv", sibling_curves, COMMAND))
