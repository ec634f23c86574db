"""The choice of a learning rate by held-out loss, never at the edge of what was tried.

Where the best rate is at an edge of the grid, one more is tried beyond, up to ``MAX_EXTENSIONS``
times; the table says where the best is still there.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tl_taskneurons.experiments.lab.store import Result, Store, Unit

MAX_EXTENSIONS = 4


@dataclass(frozen=True, eq=False)
class RateSearch:
    """One choice.

    Attributes:
        store: where losses are kept.
        grid: the rates that are tried first; a single one leaves nothing to choose.
        results: the held-out losses (column ``loss``, of which the last counts) of a rate, one
            for each task, with the operations that each takes.
        curves: whether these are needed for more than the choice, so also where there is none.
    """

    store: Store
    grid: tuple[float, ...]
    results: Callable[[float], Sequence[tuple[Result[pd.DataFrame], float]]]
    curves: bool = False

    def units(self, lr: float) -> list[Unit]:
        """The work for a rate."""
        return [
            self.store.unit(f"learning rate {lr:g}", result, flops)
            for result, flops in self.results(lr)
        ]

    def best(self) -> float:
        """The rate of lowest mean loss."""
        return self.grid[0] if len(self.grid) == 1 else best_rate(self.losses())

    def losses(self) -> dict[float, float]:
        """Mean losses of the grid, and of the rates beyond it that were needed."""
        return {lr: self._loss(lr) for lr in (*self.grid, *self._beyond())}

    def further(self) -> list[float]:
        """The rates beyond the grid that are needed, up to the first that wasn't tried yet."""
        found = list[float]()
        for lr in self._beyond() if len(self.grid) > 1 else ():
            found.append(lr)
            if not all(self.store.has(result) for result, _ in self.results(lr)):
                break
        return found

    def rows(self) -> list[dict[str, object]]:
        """One row per rate: ``lr, loss, chosen, at_edge``; none where nothing was chosen."""
        if len(self.grid) == 1:
            return []
        losses = self.losses()
        best = best_rate(losses)
        still_at_edge = beyond(losses) is not None
        return [
            {"lr": lr, "loss": loss, "chosen": lr == best, "at_edge": lr == best and still_at_edge}
            for lr, loss in sorted(losses.items())
        ]

    def _beyond(self) -> Iterator[float]:
        """The rates beyond the grid, each once the loss of the one before it is known."""
        losses = {lr: self._loss(lr) for lr in self.grid}
        for _ in range(MAX_EXTENSIONS):
            lr = beyond(losses)
            if lr is None or lr in losses:  # rates may be too close for another between
                return
            yield lr
            losses[lr] = self._loss(lr)

    def _loss(self, lr: float) -> float:
        found = [self.store.get(result) for result, _ in self.results(lr)]
        return float(np.mean([each["loss"].iloc[-1] for each in found]))


def phases(searches: Sequence[RateSearch]) -> Iterator[list[Unit]]:
    """The work of several searches: their grids, then, one after the other, rates beyond edges."""
    asked = [search for search in searches if len(search.grid) > 1 or search.curves]
    yield [unit for search in asked for lr in search.grid for unit in search.units(lr)]
    for k in range(MAX_EXTENSIONS):
        further = [(search, lr) for search in asked for lr in search.further()[k : k + 1]]
        units = [unit for search, lr in further for unit in search.units(lr)]
        if not units:
            return
        yield units


def best_rate(losses: dict[float, float]) -> float:
    """The rate of the lowest loss, of equal ones the smallest; NaN and infinite are the worst."""
    return min(sorted(losses), key=lambda lr: losses[lr] if math.isfinite(losses[lr]) else math.inf)


def beyond(losses: dict[float, float]) -> float | None:
    """The rate to try next when the best of those tried is at an edge; None when it is within."""
    ordered = sorted(losses)
    best = best_rate(losses)
    if best not in (ordered[0], ordered[-1]):
        return None
    return extended(ordered, upward=best == ordered[-1])


def extended(rates: Sequence[float], *, upward: bool) -> float:
    """The next rate beyond an edge, by the ratio of the two rates there."""
    low, high = sorted(rates)[-2:] if upward else sorted(rates)[:2]
    return float(f"{high * high / low if upward else low * low / high:.2g}")


def stand_in(grid: Sequence[float], lr: float) -> pd.DataFrame:
    """A loss in place of an unknown one, for plans of work: the middle of the grid is the best."""
    middle = sorted(grid)[len(grid) // 2]
    return pd.DataFrame({"loss": [abs(math.log(lr / middle))]})
