"""Figure 4: what is left of earlier tasks after each stage of a row of tasks.

python figures/figure4.py [--table TABLE.csv] [--out FOLDER]
"""

from drawing import main

from tl_taskneurons.plots import forgetting_curves

COMMAND = (
    "python -m tl_taskneurons.experiments.table5 --out runs/table5 --csv figures/table5_mini.csv"
)

if __name__ == "__main__":
    raise SystemExit(main("figure4", "table5_*_curves.csv", forgetting_curves, COMMAND))
