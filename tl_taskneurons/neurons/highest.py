"""Which of many neurons have the highest scores."""

import math
import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_taskneurons.runtime.errors import InputError


def highest(
    values: Float[Tensor, "layer d_mlp"],
    fraction: float | None,
    n: int | None,
    threshold: float | None,
    per_layer: bool,
) -> Bool[Tensor, "layer d_mlp"]:
    """Choose by one of fraction, number and threshold; see ``NeuronScores.top``.

    Raises:
        ValueError: for a fraction outside (0, 1], more neurons than there are, or a NaN.
    """
    if threshold is not None:
        if math.isnan(threshold):
            raise InputError("threshold is nan; it must be a number.")
        return values >= threshold
    rows = values if per_layer else values.reshape(1, -1)
    count = _count(fraction, n, rows.shape[1])
    order = rows.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order, True).reshape(values.shape)


def tell_unscored(mask: Bool[Tensor, "layer d_mlp"], scored: Sequence[int], name: str) -> None:
    """Warn of chosen neurons in layers that were not scored, which have 0."""
    chosen = int(mask.sum())
    outside = chosen - int(mask[list(scored)].sum())
    if outside:
        warnings.warn(
            f"{outside} of the {chosen} chosen neurons of {name!r} are in layers that were not "
            f"scored (only {list(scored)} were); choose fewer, or score all layers.",
            stacklevel=3,
        )


def tell_nothing_scored(
    mask: Bool[Tensor, "layer d_mlp"], values: Float[Tensor, "layer d_mlp"], name: str
) -> None:
    """Warn of chosen neurons to which a contrast gives 0: others need them more."""
    zeros = int((mask & (values == 0)).sum())
    if zeros:
        warnings.warn(
            f"{zeros} of the {int(mask.sum())} chosen neurons of {name!r} have a score of 0, which "
            "the contrast gives to what others need more; choose fewer, or leave them out with "
            "sign='both'.",
            stacklevel=3,
        )


def _count(fraction: float | None, n: int | None, pool: int) -> int:
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise InputError(f"fraction is {fraction}; it must be in (0, 1], e.g. 0.10 for 10%.")
        return max(1, round(fraction * pool))
    assert n is not None
    if not 0 <= n <= pool:
        raise InputError(f"n is {n}; there are {pool} neurons to choose from.")
    return n
