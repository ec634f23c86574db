"""What was learnt and what was forgotten, from the scores of tasks after each stage. No torch.

``a[i, j]`` is the score of task i after stage j of the sequence, ``alone[i]`` its score after
training on task i alone, ``zero_shot[i]`` before any training. Tasks stand in the order of the
sequence, so that task i is trained at stage i; both count from 0 here.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from tl_taskneurons.runtime.errors import InputError


def average_score(a: ArrayLike, stage: int | None = None) -> float:
    """Return the mean score of the tasks seen until a stage (the paper's CL at the last stage).

    Args:
        a: scores ``[task, stage]``.
        stage: which; None is the last.
    """
    scores = _square(a)
    last = len(scores) - 1 if stage is None else stage
    return float(scores[: last + 1, last].mean())


def retained(a: ArrayLike, alone: ArrayLike, stage: int, chance: ArrayLike | None = None) -> float:
    """Return the paper's FG: the mean over earlier tasks of ``a[i, stage] / alone[i]``.

    1 (100% in the paper) means that nothing was forgotten. NaN at the first stage, and where a
    task trained alone scores 0 (with ``chance``, no more than chance), so that there is nothing to
    compare with.

    Args:
        a: scores ``[task, stage]``.
        alone: scores of tasks trained alone.
        stage: which.
        chance: each task's score by guessing, taken away from both; None takes nothing away.
    """
    scores, single = _square(a), np.asarray(alone, dtype=float)
    floor = np.zeros(len(single)) if chance is None else np.asarray(chance, dtype=float)
    learnt = (single - floor)[:stage]
    if stage == 0 or (learnt <= 0).any():
        return float("nan")
    return float(((scores[:stage, stage] - floor[:stage]) / learnt).mean())


def backward_transfer(a: ArrayLike) -> float:
    """Return the mean change of a task's score from its own stage to the last; below 0: forgotten.

    NaN for a sequence of one task.
    """
    scores = _square(a)
    if len(scores) == 1:
        return float("nan")
    return float((scores[:, -1] - scores.diagonal())[:-1].mean())


def forward_transfer(a: ArrayLike, zero_shot: ArrayLike) -> float:
    """Return the mean gain over the base model, for each task just before it is trained.

    NaN for a sequence of one task.
    """
    scores, base = _square(a), np.asarray(zero_shot, dtype=float)
    if len(scores) == 1:
        return float("nan")
    return float((scores.diagonal(offset=-1) - base[1:]).mean())


def stage_table(a: ArrayLike, alone: ArrayLike, chance: ArrayLike | None = None) -> pd.DataFrame:
    """Return CL and FG at each stage: ``stage`` (from 1), ``cl``, ``fg`` (see ``retained``)."""
    scores = _square(a)
    return pd.DataFrame(
        {
            "stage": range(1, len(scores) + 1),
            "cl": [average_score(scores, j) for j in range(len(scores))],
            "fg": [retained(scores, alone, j, chance) for j in range(len(scores))],
        }
    )


def _square(a: ArrayLike) -> np.ndarray:
    scores = np.asarray(a, dtype=float)
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or not len(scores):
        raise InputError(
            f"The scores have shape {scores.shape}; one row per task and one column per stage, "
            "as many of both, are needed."
        )
    return scores
