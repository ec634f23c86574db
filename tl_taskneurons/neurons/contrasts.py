"""What a task needs that others don't: the contrasts that ``NeuronScores.contrast`` takes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tl_taskneurons.neurons.scores import NeuronScores


def excluding(own: NeuronScores, rivals: Sequence[NeuronScores], fraction: float) -> Tensor:
    """Keep a task's scores, with 0 in the top fraction of any other task."""
    taken = torch.stack([rival.top(fraction=fraction).mask for rival in rivals]).any(0)
    return own.values.masked_fill(taken, 0.0)


def difference(
    own: NeuronScores,
    rivals: Sequence[NeuronScores],
    fraction: float,  # noqa: ARG001 (every contrast takes it)
) -> Tensor:
    """Subtract the highest of the others' shares from a task's; 0 where that is negative."""
    return _above(own, rivals, _shares)


def rank_difference(
    own: NeuronScores,
    rivals: Sequence[NeuronScores],
    fraction: float,  # noqa: ARG001 (every contrast takes it)
) -> Tensor:
    """Subtract the highest of the others' ranks from a task's; 0 where that is negative."""
    return _above(own, rivals, _ranks)


def _above(
    own: NeuronScores, rivals: Sequence[NeuronScores], scale: Callable[[Tensor], Tensor]
) -> Tensor:
    highest = torch.stack([scale(rival.values) for rival in rivals]).amax(0)
    return (scale(own.values) - highest).clamp_min(0.0)


def _shares(values: Tensor) -> Tensor:
    total = values.sum()
    return values / total if total > 0 else values


def _ranks(values: Tensor) -> Tensor:
    """Share of neurons that score lower; equal scores have equal ranks."""
    flat = values.flatten()
    below = torch.searchsorted(flat.sort().values, flat)
    return (below / flat.numel()).reshape(values.shape).to(torch.float32)
