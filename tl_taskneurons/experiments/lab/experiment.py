"""What an experiment is: its work, its tables, the evidence for the claims, and its figures."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import pandas as pd
from matplotlib.figure import Figure

from tl_taskneurons.experiments.lab.lab import Lab
from tl_taskneurons.experiments.lab.rates import Kind
from tl_taskneurons.experiments.lab.states import Condition, all_items, answers_unit
from tl_taskneurons.experiments.lab.store import Unit

Tables = Mapping[str, pd.DataFrame]


class Experiment(ABC):
    """A table or figure of the paper. Most are a list of conditions under which tasks are tested.

    Attributes:
        name: short, e.g. ``"table2"``.
        title: what it shows.
        needs_neurons: whether it needs neurons of the base model.
        needs_tuned: whether it needs neurons of the model that was trained on all tasks.
        needs_samples: whether it needs neurons of several samples of examples.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    needs_neurons: ClassVar[bool] = True
    needs_tuned: ClassVar[bool] = False
    needs_samples: ClassVar[bool] = False

    def rates(self, lab: Lab) -> list[Kind]:  # noqa: ARG002 (nothing is trained by default)
        """For which kinds of sets it needs learning rates."""
        return []

    def conditions(self, lab: Lab) -> Sequence[Condition]:  # noqa: ARG002
        """Every state that is tested, the tasks tested in it, and what describes it."""
        return ()

    def units(self, lab: Lab) -> list[Unit]:
        """The work, which may be shared with other experiments: by default one per condition."""
        return [answers_unit(lab, condition) for condition in self.conditions(lab)]

    def items(self, lab: Lab) -> pd.DataFrame:
        """All answers under its conditions, item by item."""
        return all_items(lab, self.conditions(lab))

    @abstractmethod
    def tables(self, lab: Lab) -> Tables:
        """The tables that are published, small; the first is the main one."""

    def evidence(self, lab: Lab) -> Tables:  # noqa: ARG002
        """Tables for the claims, by the names in ``claims.columns``."""
        return {}

    def gates(self, lab: Lab) -> list[pd.DataFrame]:  # noqa: ARG002
        """What must hold before anything is concluded, see ``gates.gate``."""
        return []

    def draw(self, tables: Tables) -> dict[str, Figure]:  # noqa: ARG002
        """Figures by name, from the published tables."""
        return {}
