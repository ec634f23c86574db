"""Made-up tables whose truth is known, for the tests of the claims."""

import numpy as np
import pandas as pd

from tl_taskneurons.experiments.claims import claims, headline

TASKS = list("abcdefghijkl")
Sizes = float | dict  # one for all, or by task or share


def grid(**axes) -> pd.DataFrame:
    listed = {name: list(axis) for name, axis in axes.items()}
    whole = pd.MultiIndex.from_product(list(listed.values()), names=list(listed))
    return whole.to_frame(index=False)


def scored(rows: pd.DataFrame, mean, rng, seed_spread: float = 0.05) -> pd.DataFrame:
    """Scores around the mean, with an own shift of each state of the model, and noise.

    The loss is 1 minus the score, so that effects are the same by both.
    """
    states = rows.groupby([name for name in rows.columns if name != "item"], sort=False).ngroup()
    shifts = rng.normal(0, seed_spread, states.max() + 1)[states]
    score = mean + shifts + rng.normal(0, 0.1, len(rows))
    return rows.assign(score=score, loss=1 - score)


def gates(tables: dict[str, list[str]], learned: Sizes = 0.6, n_items=20) -> pd.DataFrame:
    """How far each table's tasks are above zero-shot and guessing; ``learned`` may be by task."""
    parts = [grid(table=[name], task=tasks, item=range(n_items)) for name, tasks in tables.items()]
    rows = pd.concat(parts, ignore_index=True)
    gain = rows["task"].map(learned) if isinstance(learned, dict) else learned
    wobble = 0.1 * (-1.0) ** rows["item"]
    return rows.assign(
        zero_shot_score=0.2, zero_shot_loss=0.8, floor=0.2, score=0.2 + gain + wobble,
        loss=0.8 - gain - wobble,
    )  # fmt: skip


def ask(claim: str, gate: Sizes = 0.6, **tables) -> list:
    """The verdicts on a claim, with gates of all tasks of its tables."""
    columns = {name: "task" for name, t in tables.items() if t is not None and "task" in t}
    named = {name: sorted(set(tables[name][column])) for name, column in columns.items()}
    gated = {"gates": gates(named, gate)} if named else {}
    return claims({**tables, **gated}, [claim])


def first(claim: str, gate: Sizes = 0.6, **tables):
    """Of these the one for the first page."""
    return headline(ask(claim, gate, **tables))[0]


def deactivation(
    rng, own: Sizes = 0.5, others=0.0, random=0.1, tasks=TASKS, controls=2, samples=3, n_items=8,
    matches=("total",), spread=0.05,
):  # fmt: skip
    """Drops when own, others' and random neurons are silenced; ``own`` may differ by task."""
    at = {"selection": ["plain"], "fraction": [0.01], "sample": range(samples)}
    chosen = grid(**at, silenced=tasks, kind=["task"], match=[""], seed=[-1], task=tasks,
                  item=range(n_items))  # fmt: skip
    on_own = chosen["silenced"] == chosen["task"]
    own_drop = chosen["task"].map(own) if isinstance(own, dict) else own
    control = grid(**at, silenced=tasks, kind=["random"], match=matches, seed=range(controls),
                   item=range(n_items))  # fmt: skip
    control = control.assign(task=control["silenced"])
    plain = grid(**{**at, "sample": [0]}, silenced=[""], kind=["none"], match=[""], seed=[-1],
                 task=tasks, item=range(n_items))  # fmt: skip
    parts = [
        scored(chosen, np.where(on_own, 0.8 - own_drop, 0.8 - others), rng, spread),
        scored(control, 0.8 - random, rng, spread),
        scored(plain, 0.8, rng, 0.0),
    ]
    return pd.concat(parts, ignore_index=True).sample(frac=1, random_state=0)


def trained(
    rng, own: Sizes = 0.6, others=0.0, random=0.1, tasks=TASKS, seeds=5, n_items=8,
    questions=("speed", "end point"),
):  # fmt: skip
    at = {"question": questions, "fraction": [0.01], "trained": tasks, "seed": range(seeds)}
    chosen = grid(neurons=["task"], match=[""], **at, task=tasks, item=range(n_items))
    on_own = chosen["trained"] == chosen["task"]
    own_gain = chosen["task"].map(own) if isinstance(own, dict) else own
    control = grid(neurons=["random"], match=["total"], **at, item=range(n_items))
    control = control.assign(task=control["trained"])
    return pd.concat(
        [scored(chosen, 0.2 + np.where(on_own, own_gain, others), rng),
         scored(control, 0.2 + random, rng)],
        ignore_index=True,
    ).assign(lr=1e-3, updates=64)  # fmt: skip


def plain(rng, tasks=TASKS, n_items=8):
    return scored(grid(task=tasks, item=range(n_items)), 0.2, rng, 0.0)


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


def controlled(rng, rise: Sizes = 0.5, own=0.0, shares=(0.1, 0.3), groups=("CLS", "GEN"), seeds=3):
    """``rise`` of the siblings over overlap, and of the trained tasks."""
    parts = []
    for kind, slope in (("out-of-domain", rise), ("in-domain", own)):
        rows = grid(group=groups, fraction=shares, overlap=(0.1, 0.4, 0.7, 1.0), kind=[kind],
                    seed=range(seeds), task=["x", "y"], item=range(10))  # fmt: skip
        rises = rows["fraction"].map(slope) if isinstance(slope, dict) else slope
        rows["task"] = rows["group"] + kind + rows["task"]
        parts.append(scored(rows, 0.2 + rises * rows["overlap"], rng, 0.02))
    return pd.concat(parts, ignore_index=True)


LAYERS = 6


def similarity(rng, rise=0.1, n_models=6, n_layers=LAYERS, last=-1.0, common=0.0, seeds=2):
    """``rise``: of siblings less others, by layer; ``common``: of all pairs."""
    models = [f"m{k}" for k in range(n_models)]
    rows = grid(model=models, seed=range(seeds), layer=range(n_layers), task_y=models)
    rows = rows.assign(siblings=rows["model"] == rows["task_y"], task_x=rows["model"])
    values = 0.3 + (rise * rows["siblings"] + common) * rows["layer"]
    values = values + rng.normal(0, 0.02, len(rows))
    return rows.assign(similarity=values.where(rows["layer"] < n_layers - 1, last))


def tables_of_c8(rng, weight=1.0, n_models=6, tests=("x", "y", "z")):
    rows = grid(model=[f"m{k}" for k in range(n_models)], task_y=tests)
    values = rng.normal(size=len(rows))
    scores = weight * values + rng.normal(0, 0.2, len(rows))
    similarities = rows.assign(task_x=rows["model"], layer="all", similarity=values)
    return similarities, rows.rename(columns={"task_y": "task"}).assign(value=scores, type="CLS")


BEST = {"seq-ft": 0.2, "seq-lora": 0.4, "ncft": 0.6, "w-ncft": 0.7, "per-task": 0.8, "epi": 0.1}


def in_a_row(rng, means, orders=3, seeds=5, shared=0.05, **axes):
    """Rows of one seed share half of what is drawn."""
    rows = grid(method=list(means), order=range(orders), seed=range(seeds), **axes)
    of_seed = pd.Series(rng.normal(0, shared, len(rows))).groupby(
        [rows["method"], rows["seed"]]
    ).transform("first")  # fmt: skip
    noise = of_seed + rng.normal(0, 0.02, len(rows))
    return rows.assign(alone=0.9), rows["method"].map(means) + noise


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
    similarities, transfer = tables_of_c8(rng)
    found = {
        "deactivation": deactivation(rng, own), "trained": trained(rng, own), "plain": plain(rng),
        "together": together(rng), "alone": alone(rng), "overlap": overlap(rng),
        "controlled": controlled(rng, rise=1.0), "similarity": similarity(rng),
        "similarity_overall": similarities, "transfer": transfer, "rows": last_stage(rng),
        "stages": stages(rng),
    }  # fmt: skip
    tasks = {name: sorted(set(table["task"])) for name, table in found.items() if "task" in table}
    return {**found, "gates": gates(tasks)}
