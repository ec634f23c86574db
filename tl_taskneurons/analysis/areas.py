"""Areas under ablation curves: numbers that sum up a ranking of neurons."""

import numpy as np
import pandas as pd

from tl_taskneurons.runtime.errors import InputError

_BY = ("necessity", "sufficiency", "harm")


def areas_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per ranking with the areas under its curves.

    ``cpr_neurons`` and ``cmd_neurons`` are MIB's CPR and CMD (Mueller et al. 2025), where the units
    are d_mlp neurons and not edges or d_model dimensions: with f the faithfulness when all but the
    top k are silenced, the areas under f and under abs(1 - f) over the share k, by trapezoids
    linear in k from 0 to the largest share measured.

    Areas over k say most about large sets. ``necessity``, ``sufficiency`` and ``harm`` are means
    over log k between the smallest set measured and the largest, of the share of the task lost
    (1 - f), of the share kept (f), and of the share that the other tasks lose on average. Shares
    are cut to [0, 1] there. ``specificity`` is necessity less harm; without others it is NaN.

    Args:
        table: ``AblationCurves.table``.

    Raises:
        ValueError: for a ranking without a sufficiency curve from k = 0.
    """
    rows = []
    for name, part in table.groupby("ranking", sort=False):
        curves = {curve: _mean_curve(part[part["curve"] == curve]) for curve in _BY}
        kept = curves["sufficiency"]
        if not len(kept) or kept.index[0] != 0:
            raise InputError(f"Ranking {name!r} has no curve of sufficiency from k = 0.")
        shares, f = kept.index.to_numpy(dtype=float), kept.to_numpy()
        necessity = _log_mean(1 - curves["necessity"])
        harm = _log_mean(1 - curves["harm"])
        rows.append(
            {"ranking": name,
             "cpr_neurons": _area(f, shares),
             "cmd_neurons": _area(np.abs(1 - f), shares),
             "necessity": necessity, "sufficiency": _log_mean(kept), "harm": harm,
             "specificity": necessity - harm}
        )  # fmt: skip
    return pd.DataFrame(rows)


def _mean_curve(part: pd.DataFrame) -> pd.Series:
    """Faithfulness by share of neurons, the mean over tasks that have something to lose."""
    return part.groupby("fraction")["faithfulness"].mean().sort_index()


def _log_mean(curve: pd.Series) -> float:
    above = curve[curve.index > 0].clip(0, 1)
    if above.empty:
        return float("nan")
    at = np.log(above.index.to_numpy(dtype=float))
    if len(at) == 1:
        return float(above.iloc[0])
    return _area(above.to_numpy(), at) / float(at[-1] - at[0])


def _area(y: np.ndarray, x: np.ndarray) -> float:
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())
