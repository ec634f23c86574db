"""What the scores of a table are counted in, and which way is better."""

from dataclasses import dataclass

import pandas as pd

from tl_taskneurons.plots.look import metric_names
from tl_taskneurons.runtime.errors import InputError


@dataclass(frozen=True)
class Unit:
    """How scores are drawn.

    Attributes:
        metric: the metric, or metrics, for labels.
        name: of the unit; empty where it is unknown. Of shares it is left to the label.
        is_share: whether the scores are shares of 1.
        less_is_better: whether a lower score means that a task is done better.
    """

    metric: str
    name: str = ""
    is_share: bool = True
    less_is_better: bool = False

    @property
    def factor(self) -> int:
        """What scores are multiplied by: 100 for shares."""
        return 100 if self.is_share else 1

    def label(self, share: str, *notes: str) -> str:
        """Name metric and unit, which for shares is called ``share``, and notes in brackets."""
        told = ", ".join(filter(None, (share if self.is_share else self.name, *notes)))
        return f"{self.metric} ({told})" if told else self.metric


def unit_of(frame: pd.DataFrame) -> Unit:
    """Return what a table's scores are counted in, by its columns ``metric, unit, better``.

    Where the last is not there, or empty, they are shares of 1.

    Raises:
        ValueError: for scores of several metrics that are not all shares.
    """
    shown = metric_names(frame)
    if "better" not in frame.columns or frame["better"].isna().all():
        return Unit(shown)
    metrics = set(frame["metric"])
    if len(metrics) > 1:
        raise InputError(
            f"The table has the metrics {sorted(map(str, metrics))}, which are not counted in the "
            "same unit; draw the rows of one at a time."
        )
    first = frame.iloc[0]
    unit = first.get("unit")
    named = unit if isinstance(unit, str) else ""  # an empty one is NaN when read from a file
    return Unit(shown, named, is_share=False, less_is_better=first.get("better") == "lower")
