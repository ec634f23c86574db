"""What is kept of earlier tasks, where with some seed nothing is defined."""

import pandas as pd

from tl_taskneurons.experiments.paper.table5 import curves, table


def test_kept_is_empty_where_a_seed_has_none():
    rows = [
        {"instructions": "neutral", "method": method, "order": "one", "seed": seed, "lr": 0.1,
         "updates": 8, "reached": True, "stage": stage, "cl": 0.5, "fg_paper": 0.5, "bwt": 0.0,
         "fwt": 0.0, "alone": 0.6,
         "fg": float("nan") if (method, seed, stage) == ("ncft", 2, 3) else 0.25 * stage + seed}
        for method in ("ncft", "seq-ft") for seed in range(3) for stage in (1, 2, 3)
    ]  # fmt: skip
    stages = pd.DataFrame(rows)
    kept = table(stages[stages["stage"] == 3]).set_index(["method", "order"])["fg"]
    assert kept.loc["seq-ft", "all"] == 1.75 and pd.isna(kept.loc["ncft", "all"])
    drawn = curves(stages)[["method", "stage"]].to_numpy().tolist()
    assert drawn == [["ncft", 2], ["seq-ft", 2], ["seq-ft", 3]]
