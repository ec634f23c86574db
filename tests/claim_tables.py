"""Made-up tables whose truth is known, for the tests of the claims."""

import numpy as np
import pandas as pd
from scipy import stats

TASKS = ["a", "b", "c"]
Sizes = float | dict  # one for all, or by task or share
WITH_ITEMS = 60  # tables with items take longer


def grid(**axes) -> pd.DataFrame:
    listed = {name: list(axis) for name, axis in axes.items()}
    whole = pd.MultiIndex.from_product(list(listed.values()), names=list(listed))
    return whole.to_frame(index=False)


def scored(rows: pd.DataFrame, mean, rng, seed_spread: float = 0.05) -> pd.DataFrame:
    """Scores around the mean, with an own shift of each state of the model, and noise."""
    states = rows.groupby([name for name in rows.columns if name != "item"], sort=False).ngroup()
    shifts = rng.normal(0, seed_spread, states.max() + 1)[states]
    return rows.assign(score=mean + shifts + rng.normal(0, 0.1, len(rows)), loss=1.0)


def false_positives(make, n_tables: int = 100) -> float:
    """Share of verdicts that hold; at most what chance allows a rate of 5% in 99 of 100 cases."""
    rng = np.random.default_rng(0)
    n_holding = sum(make(rng).verdict == "holds" for _ in range(n_tables))
    assert n_holding <= stats.binom.ppf(0.99, n_tables, 0.05)
    return n_holding / n_tables


def of(verdict, part: str) -> list:
    return [each for each in verdict.comparisons if each.part == part]


def deactivation(
    rng, own: Sizes = 0.5, others=0.0, random=0.1, tasks=TASKS, controls=5, n_items=15
):
    """Drops when own, others' and random neurons are silenced; ``own`` may differ by task."""
    chosen = grid(silenced=tasks, kind=["task"], seed=[-1], task=tasks, item=range(n_items))
    on_own = chosen["silenced"] == chosen["task"]
    own_drop = chosen["task"].map(own) if isinstance(own, dict) else own
    control = grid(silenced=tasks, kind=["random"], seed=range(controls), item=range(n_items))
    control = control.assign(task=control["silenced"])
    plain = grid(silenced=[""], kind=["none"], seed=[-1], task=tasks, item=range(n_items))
    parts = [
        scored(chosen, np.where(on_own, 0.8 - own_drop, 0.8 - others), rng, 0.02),
        scored(control, 0.8 - random, rng, 0.05),
        scored(plain, 0.8, rng, 0.0),
    ]
    return pd.concat(parts, ignore_index=True).sample(frac=1, random_state=0)


def trained(rng, own: Sizes = 0.6, others=0.0, random=0.1, tasks=TASKS, seeds=5, n_items=15):
    chosen = grid(neurons=["task"], trained=tasks, seed=range(seeds), task=tasks,
                  item=range(n_items))  # fmt: skip
    on_own = chosen["trained"] == chosen["task"]
    own_gain = chosen["task"].map(own) if isinstance(own, dict) else own
    control = grid(neurons=["random"], trained=tasks, seed=range(seeds), item=range(n_items))
    control = control.assign(task=control["trained"])
    return pd.concat(
        [scored(chosen, 0.2 + np.where(on_own, own_gain, others), rng),
         scored(control, 0.2 + random, rng)],
        ignore_index=True,
    )  # fmt: skip


def plain(rng, tasks=TASKS, n_items=15):
    return scored(grid(task=tasks, item=range(n_items)), 0.2, rng, 0.0)


FIVE = ["a", "b", "c", "d", "e"]


def tables_of_c3(rng, tasks=FIVE, own: Sizes = 0.5, others=0.0, **of_trained):
    gains = {"own": own, "others": others, **of_trained}
    return (
        deactivation(rng, own, others, tasks=tasks),
        trained(rng, **gains, tasks=tasks),
        plain(rng, tasks),
    )


SHARES = (0.1, 0.5, 0.7, 1.0)


def together(rng, fall=0.4, rise=0.5, groups=("CLS", "GEN"), shares=SHARES, seeds=4):
    """``fall``: from the peak to all neurons; ``rise``: of transfer, per unit of share."""
    parts = []
    for group in groups:
        best = {"CLS": 0.7, "GEN": 0.5}[group]
        for kind in ("in-domain", "out-of-domain"):
            rows = grid(train_group=[group], test_group=[group], kind=[kind], fraction=shares,
                        seed=range(seeds), task=[f"{group}1{kind}", f"{group}2{kind}"],
                        item=range(10))  # fmt: skip
            mean = 0.6 - fall * (rows["fraction"] > best)
            if kind == "out-of-domain":
                mean = 0.2 + rise * rows["fraction"]
            parts.append(scored(rows, mean, rng))
            if kind == "out-of-domain" and len(groups) > 1:  # across types, where nothing rises
                other = rows.assign(test_group=groups[group == groups[0]], task="other" + rows.task)
                parts.append(scored(other, 0.5 - rows["fraction"], rng))
    return pd.concat(parts, ignore_index=True)


def alone(rng, rise: Sizes = 0.5, tasks=("a", "b"), shares=SHARES, seeds=4):
    rows = grid(trained=tasks, fraction=shares, seed=range(seeds), item=range(10))
    rises = rows["trained"].map(rise) if isinstance(rise, dict) else rise
    own = scored(rows.assign(task=rows["trained"]), 0.2 + rises * rows["fraction"], rng)
    sibling = scored(rows.assign(task="sibling of " + rows["trained"]), 0.5, rng)
    return pd.concat([own, sibling], ignore_index=True)


def overlap(rng, gap=0.1, seeds=5, shares=(0.1, 0.5, 1.0), weakest=None):
    rows = grid(detection_seed=range(seeds), fraction=shares, train_group=["CLS", "GEN"],
                test_group=["CLS", "GEN"])  # fmt: skip
    within = rows["train_group"] == rows["test_group"]
    gaps = np.where(rows["fraction"] == shares[0], gap if weakest is None else weakest, gap)
    iou = rows["fraction"] * 0.8 + gaps * within + rng.normal(0, 0.01, len(rows))
    return rows.assign(iou=np.where(rows["fraction"] == 1, 1.0, iou))


def controlled(rng, rise: Sizes = 0.5, shares=(0.1, 0.3), groups=("CLS", "GEN"), seeds=3):
    rows = grid(group=groups, fraction=shares, overlap=(0.1, 0.4, 0.7, 1.0), seed=range(seeds),
                task=["x", "y"], item=range(10))  # fmt: skip
    rises = rows["fraction"].map(rise) if isinstance(rise, dict) else rise
    return scored(
        rows.assign(task=rows["group"] + rows["task"]), 0.2 + rises * rows["overlap"], rng
    )


LAYERS = 6


def similarity(rng, rise=0.1, n_models=5, n_layers=LAYERS, last=-1.0):
    rows = grid(model=[f"m{k}" for k in range(n_models)], layer=range(n_layers), task_y=["x", "y"])
    noise = rng.normal(0, 0.05, (n_models, n_layers)).ravel().repeat(2)  # of a model's layer
    values = 0.3 + rise * rows["layer"] + noise + rng.normal(0, 0.02, len(rows))
    values = values.where(rows["layer"] < n_layers - 1, last)  # the fall at the top
    return rows.assign(task_x=rows["model"], similarity=values)


def tables_of_c8(rng, weight=1.0, n_models=6, tests=("x", "y", "z")):
    rows = grid(model=[f"m{k}" for k in range(n_models)], task_y=tests)
    values = rng.normal(size=len(rows))
    scores = weight * values + rng.normal(0, 0.2, len(rows))
    similarities = rows.assign(task_x=rows["model"], layer="all", similarity=values)
    return similarities, rows.rename(columns={"task_y": "task"}).assign(value=scores)


BEST = {"seq-ft": 0.2, "seq-lora": 0.4, "ncft": 0.6, "w-ncft": 0.7, "per-task": 0.8, "epi": 0.1}


def in_a_row(rng, means, orders=3, seeds=3, **axes):
    rows = grid(method=list(means), order=range(orders), seed=range(seeds), **axes)
    return rows, rows["method"].map(means) + rng.normal(0, 0.02, len(rows))


def last_stage(rng, means=BEST, **sizes):
    rows, values = in_a_row(rng, means, **sizes)
    return rows.assign(cl=values)


def stages(rng, means=None, weak_stage=None, **sizes):
    means = means or {"seq-ft": 0.3, "seq-lora": 0.4, "ncft": 0.8}
    rows, values = in_a_row(rng, means, stage=[1, 2, 3, 4], **sizes)
    if weak_stage is not None:
        weak = (rows["stage"] == weak_stage) & (rows["method"] == "ncft")
        values = values - weak * (means["ncft"] - means["seq-lora"])
    return rows.assign(fg=values.where(rows["stage"] > 1))


def evidence(rng, own=0.6) -> dict[str, pd.DataFrame]:
    silenced, gained, before = tables_of_c3(rng, own=own)
    similarities, transfer = tables_of_c8(rng)
    return {
        "deactivation": silenced, "trained": gained, "plain": before, "together": together(rng),
        "alone": alone(rng), "overlap": overlap(rng), "controlled": controlled(rng, rise=1.0),
        "similarity": similarity(rng), "similarity_overall": similarities, "transfer": transfer,
        "rows": last_stage(rng), "stages": stages(rng),
    }  # fmt: skip
