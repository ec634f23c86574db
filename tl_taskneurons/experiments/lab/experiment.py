"""What an experiment is: its work, its tables, the evidence for the claims, and its figures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from tl_taskneurons.experiments.lab.lab import Lab
from tl_taskneurons.experiments.lab.store import Cell

Tables = Mapping[str, pd.DataFrame]


def no_figures(_: Tables) -> dict[str, Figure]:
    """For an experiment without figures."""
    return {}


@dataclass(frozen=True)
class Experiment:
    """A table or figure of the paper.

    Attributes:
        name: short, e.g. ``"table2"``.
        title: what it shows.
        cells: the work, which may be shared with other experiments.
        tables: the tables that are published, small; the first is the main one.
        evidence: tables for the claims, by the names that ``claims`` takes.
        draw: figures by name, from the published tables.
        tuned: whether it needs neurons of the model that was trained on all tasks.
        detections: whether it needs neurons of several samples of examples.
        trains: whether something is trained at the learning rate of the reproduction.
    """

    name: str
    title: str
    cells: Callable[[Lab], list[Cell]]
    tables: Callable[[Lab], Tables]
    evidence: Callable[[Lab], Tables]
    draw: Callable[[Tables], dict[str, Figure]] = no_figures
    tuned: bool = False
    detections: bool = False
    trains: bool = True
