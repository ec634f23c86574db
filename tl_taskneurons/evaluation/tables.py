"""From item-level results to tables with intervals. Plain pandas and numpy, no torch.

All intervals are of 95%, by Student's t, and Wilson's for shares of right answers. Items are
compared in pairs (with and without an intervention); where there are several random controls, an
interval over them covers both controls and items (``statistics.paired_effect``).
"""

from typing import Any

import numpy as np
import pandas as pd

from tl_taskneurons.evaluation.statistics import mean_interval, require_columns, share_interval
from tl_taskneurons.neurons.metrics import METRICS
from tl_taskneurons.runtime.errors import InputError, did_you_mean

# Scores that are shares of 1; all others are counted in a unit of their own.
_SHARES = ("accuracy", "exact_match", "rougeL", "prob")


def summarise(items: pd.DataFrame) -> pd.DataFrame:
    """Summarise the rows of ``evaluate_items``: one row per task, with intervals.

    Returns:
        ``task, metric, value, low, high, loss, n, n_truncated``; value is NaN for a task judged
        by loss alone.
    """
    rows = []
    for task, group in items.groupby("task", sort=False):
        low, high = _score_interval(group)
        rows.append(
            {"task": task, "metric": group["metric"].iloc[0], "value": group["score"].mean(),
             "low": low, "high": high, "loss": group["loss"].mean(), "n": len(group),
             "n_truncated": group["n_truncated"].iloc[0]}
        )  # fmt: skip
    return pd.DataFrame(rows)


def deactivation_matrix(items: pd.DataFrame) -> pd.DataFrame:
    """Change on every task when each task's neurons are silenced (the paper's Figure 5 a, b).

    Args:
        items: the rows of ``deactivation_items``.

    Returns:
        One row per pair: ``silenced, task, metric, n_neurons, value, change, low, high,
        loss_change, loss_low, loss_high, n``, and where a metric is no share of 1 its ``unit`` and
        which way is ``better``. Changes are silenced minus original, in the metric's unit, so a
        drop is negative and a rise of the loss positive (nats per token).

    Raises:
        ValueError: where an item has several rows with a task's neurons silenced, and no row of
            the plain model, or several.
    """
    items = _beside_original(items)
    rows = []
    chosen = items[items["kind"] == "task"]
    for (silenced, task), group in chosen.groupby(["silenced", "task"], sort=False):
        change = _difference(group, "score")
        loss_change = _difference(group, "loss")
        low, high = mean_interval(change)
        loss_low, loss_high = mean_interval(loss_change)
        rows.append(
            {"silenced": silenced, "task": task, "metric": group["metric"].iloc[0],
             "n_neurons": group["n_neurons"].iloc[0], "value": group["score"].mean(),
             "change": change.mean(), "low": low, "high": high,
             "loss_change": loss_change.mean(), "loss_low": loss_low, "loss_high": loss_high,
             "n": len(group), **_counted(group)}
        )  # fmt: skip
    return pd.DataFrame(rows)


def deactivation_table(items: pd.DataFrame) -> pd.DataFrame:
    """Original, Deactivate-Random and Deactivate-Task (the paper's Table 1) with specificity.

    Args:
        items: the rows of ``deactivation_items``.

    Returns:
        One row per silenced task: ``task, metric, n_neurons, original, original_low,
        original_high, random, random_low, random_high, n_controls, silenced, silenced_low,
        silenced_high, drop, drop_low, drop_high, excess, excess_low, excess_high, others_drop,
        specificity, loss, loss_rise, loss_rise_random, loss_rise_others, loss_specificity, n``;
        ``split_half``, the reliability of the sets, where they know it, and where a metric is no
        share of 1 its ``unit`` and which way is ``better``.
        ``drop`` is how much worse the task is done: original minus silenced, or silenced minus
        original for a metric of which less is better (``METRICS`` says so; more of a function of
        your own counts as better), so above 0 it is always hurt. ``excess``
        is the drop beyond the random controls' (the paper's claim is that it is above 0);
        ``specificity`` is the own drop minus the mean drop of the other tasks that have a score,
        when the same neurons are silenced. Losses in nats per token.

    Raises:
        ValueError: where neurons of a name are silenced that no task has; where an item has several
            rows with the same neurons silenced, and no row of the plain model, or several; and
            where a task has not the same items with its own neurons, random ones and none silenced.
    """
    items = _beside_original(items)
    plain = items[items["kind"] == "none"]
    rows = []
    names = list(dict.fromkeys(items["task"]))
    for task, group in items[items["kind"] == "task"].groupby("silenced", sort=False):
        if task not in names:
            raise InputError(
                f"The neurons of {task!r} are silenced, and no task has that name"
                f"{did_you_mean(str(task), names)} Rename the set, or use deactivation_matrix."
            )
        own = group[group["task"] == task]
        if own.empty:
            continue
        others = group[group["task"] != task]
        base = plain[plain["task"] == task].sort_values("item")
        _require_same_items(own, base, "none")
        control = items[(items["kind"] == "random") & (items["silenced"] == task)]
        control = control[control["task"] == task]
        drops, rises = _drops(own), _difference(own, "loss")
        low, high = mean_interval(drops)
        spans = [_score_interval(g) for g in (base, own)]
        row = {
            "task": task, "metric": own["metric"].iloc[0], "n_neurons": own["n_neurons"].iloc[0],
            "original": base["score"].mean(), "silenced": own["score"].mean(),
            "original_low": spans[0][0], "original_high": spans[0][1],
            "silenced_low": spans[1][0], "silenced_high": spans[1][1],
            "drop": drops.mean(), "drop_low": low, "drop_high": high,
            "loss": base["loss"].mean(), "loss_rise": rises.mean(), "n": len(own), **_counted(own),
        }  # fmt: skip
        if "split_half" in own:
            row["split_half"] = own["split_half"].iloc[0]
        row |= _against_controls(control, own)
        row |= _against_others(others, row)
        rows.append(row)
    reliability = "split_half " if "split_half" in items else ""
    columns = (
        f"task metric n_neurons {reliability}original original_low original_high random random_low "
        "random_high n_controls silenced silenced_low silenced_high drop drop_low drop_high "
        "excess excess_low excess_high others_drop specificity loss loss_rise loss_rise_random "
        "loss_rise_others loss_specificity n"
    )
    also = [name for name in ("unit", "better") if any(name in row for row in rows)]
    return pd.DataFrame(rows, columns=columns.split() + also)


def diagonal_wins(matrix: pd.DataFrame, column: str = "loss_change") -> dict[str, int]:
    """Count in how many rows and columns of a matrix the task's own cell is the most hurt.

    It is where every other cell of the row (or column) that has a value is hurt less; a tie is no
    win.

    Args:
        matrix: from ``deactivation_matrix``.
        column: ``"loss_change"`` (largest wins) or ``"change"`` (lowest wins; of a metric of
            which less is better, the largest).

    Returns:
        ``tasks``, those that have neurons of their own and a value for their own cell, and of
        these ``rows`` and ``columns``.
    """
    require_columns(matrix, ("silenced", "task", column), "The table of deactivation_matrix")
    hurt = matrix[column]
    if column != "loss_change":
        hurt = -hurt * (matrix["metric"].map(_sign) if "metric" in matrix else 1)
    table = matrix.assign(hurt=hurt).pivot(index="silenced", columns="task", values="hurt")
    own = [name for name in table.index if name in table and table[name].notna()[name]]
    return {
        "tasks": len(own),
        "rows": sum(_is_most(table.loc[name], name) for name in own),
        "columns": sum(_is_most(table[name], name) for name in own),
    }


def _is_most(hurt: pd.Series, name: str) -> bool:
    """Whether no other value is as large."""
    return not (hurt.drop(name) >= hurt[name]).any()


def _beside_original(items: pd.DataFrame) -> pd.DataFrame:
    """The rows with what the plain model has for the item: ``score_plain, loss_plain``."""
    columns = ("kind", "silenced", "task", "metric", "item", "score", "loss", "n_neurons")
    require_columns(items, columns, "The table of deactivation_items")
    _require_single(items[items["kind"] == "task"], ["silenced", "task", "item"])
    plain = items[items["kind"] == "none"]
    if plain.empty:
        raise InputError("The table has no rows of the plain model (kind 'none') to compare with.")
    values = plain.set_index(["task", "item"])[["score", "loss"]].add_suffix("_plain")
    several = values.index[values.index.duplicated()]
    asked = pd.MultiIndex.from_frame(items[["task", "item"]])
    lacking = asked[~asked.isin(values.index)]
    for wrong, found in ((several, "several rows"), (lacking, "no row")):
        if len(wrong):
            task, item = wrong[0]
            raise InputError(
                f"The table has {found} of the plain model (kind 'none') for item {item} of "
                f"{task!r}; it needs one for each item that neurons are silenced for."
            )
    return items.join(values, on=["task", "item"])


def _score_interval(items: pd.DataFrame) -> tuple[float, float]:
    """The interval of a mean score; of right answers, that of a share."""
    values = items["score"].to_numpy(dtype=float)
    right = "metric" not in items or items["metric"].isin(("accuracy", "exact_match", "rougeL"))
    shares = np.isin(values, (0, 1)).all() and np.all(right)
    return share_interval(values) if shares else mean_interval(values)


def _require_single(silenced: pd.DataFrame, keys: list[str]) -> None:
    """Refuse two rows for one item with the same neurons silenced."""
    again = silenced.duplicated(keys)
    if not again.any():
        return
    row = silenced[again].iloc[0]
    same = silenced[(silenced[keys] == row[keys]).all(axis=1)]
    sizes = " and ".join(str(size) for size in sorted(same["n_neurons"].unique()))
    seed = f", seed {row['seed']}" if "seed" in keys else ""
    raise InputError(
        f"The table has {len(same)} rows for item {row['item']} of {row['task']!r} with the "
        f"neurons of {row['silenced']!r} silenced (kind {row['kind']!r}{seed}), of sets of {sizes} "
        "neurons; give the rows of one set for each name."
    )


def _require_same_items(own: pd.DataFrame, other: pd.DataFrame, silenced: str) -> None:
    """Refuse to compare a task on different items; ``silenced`` says what ``other`` silences."""
    differ = set(own["item"]) ^ set(other["item"])
    if differ:
        raise InputError(
            f"The items of {own['task'].iloc[0]!r} differ: with its own neurons silenced it has "
            f"{len(own)}, with {silenced} silenced {len(other)}, and item {min(differ)} is in one "
            "of these alone; keep the same items in all rows of a task."
        )


def _sign(metric: object) -> int:
    """1 where more of a metric is better, -1 where less is; a user's own function counts as 1."""
    known = METRICS.get(str(metric))
    return -1 if known is not None and known.better == "lower" else 1


def _counted(group: pd.DataFrame) -> dict[str, str]:
    """The unit and direction of a score that is no share of 1."""
    metric = str(group["metric"].iloc[0])
    if metric in _SHARES or group["score"].isna().all():
        return {}
    known = METRICS.get(metric)
    better = "higher" if _sign(metric) > 0 else "lower"
    return {"unit": known.unit if known is not None else "", "better": better}


def _difference(group: pd.DataFrame, column: str) -> np.ndarray:
    """Silenced minus original, item by item."""
    ordered = group.sort_values(["task", "item"])
    return (ordered[column] - ordered[f"{column}_plain"]).to_numpy()


def _drops(group: pd.DataFrame) -> np.ndarray:
    """How much worse each item of a task is done with neurons silenced."""
    return -_sign(group["metric"].iloc[0]) * _difference(group, "score")


def _against_controls(control: pd.DataFrame, own: pd.DataFrame) -> dict[str, float | int]:
    if control.empty:
        return {"n_controls": 0}
    _require_single(control, ["silenced", "seed", "task", "item"])
    groups = []
    for seed, group in control.groupby("seed"):
        _require_same_items(own, group, f"random ones (seed {seed})")
        groups.append(group)
    drops = _drops(own)
    values = np.stack([g.sort_values("item")["score"].to_numpy() for g in groups])
    control_drops = np.stack([_drops(g) for g in groups])
    rises = [_difference(g, "loss").mean() for g in groups]
    low, high = mean_interval(values)
    excess_low, excess_high = mean_interval(drops[None] - control_drops)
    return {
        "random": values.mean(), "random_low": low, "random_high": high, "n_controls": len(groups),
        "excess": drops.mean() - control_drops.mean(), "excess_low": excess_low,
        "excess_high": excess_high, "loss_rise_random": float(np.mean(rises)),
    }  # fmt: skip


def _against_others(others: pd.DataFrame, row: dict[str, Any]) -> dict[str, float | int]:
    if others.empty:
        return {}
    groups = [group for _, group in others.groupby("task")]
    drops = [drop for drop in (_drops(g).mean() for g in groups) if not np.isnan(drop)]
    drop = float(np.mean(drops)) if drops else float("nan")
    rise = float(np.mean([_difference(g, "loss").mean() for g in groups]))
    return {
        "others_drop": drop, "specificity": row["drop"] - drop, "loss_rise_others": rise,
        "loss_specificity": row["loss_rise"] - rise,
    }  # fmt: skip
