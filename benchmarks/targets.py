"""Targets of the benchmarks; without torch, so that a summary is quick."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A number that was measured and the number that it should not pass.

    Attributes:
        what: what was measured.
        value: the measured number; not a number where it could not be measured.
        limit: the target.
        at_least: whether the value should be at least the limit, not at most.
    """

    what: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def verdict(self) -> str:
        """``"met"``, ``"missed"`` or ``"not measured"``."""
        if math.isnan(self.value):
            return "not measured"
        met = self.value >= self.limit if self.at_least else self.value <= self.limit
        return "met" if met else "missed"
