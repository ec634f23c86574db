"""What bad calls are made of: good arguments, and bad values in their place."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pandas as pd

import tl_taskneurons as tn

Make = Callable[["World"], Any]


class World:
    """What good calls take, made when it is first used."""

    def __init__(self, folder: Path) -> None:
        """Start with an empty folder."""
        self.folder = folder

    @cached_property
    def model(self) -> Any:
        """A model."""
        return tn.load_model("mini-llama-base", device="cpu")

    @cached_property
    def other(self) -> Any:
        """A model of another shape."""
        return tn.load_model("mini-bloom-base", device="cpu")

    @cached_property
    def tasks(self) -> tn.Tasks:
        """Two tasks."""
        return tn.load_tasks("mini", ["mini_film", "mini_food"], limit=6)

    @cached_property
    def scores(self) -> dict[str, tn.NeuronScores]:
        """Their scores."""
        return tn.score_tasks(self.model, self.tasks)

    @cached_property
    def sets(self) -> dict[str, tn.NeuronSet]:
        """Their neurons."""
        return tn.select(self.scores, fraction=0.02)

    @property
    def score(self) -> tn.NeuronScores:
        """The first task's scores."""
        return next(iter(self.scores.values()))

    @property
    def neurons(self) -> tn.NeuronSet:
        """The first task's neurons."""
        return next(iter(self.sets.values()))

    @property
    def empty(self) -> tn.NeuronSet:
        """No neuron."""
        return self.neurons - self.neurons

    @cached_property
    def foreign(self) -> tn.NeuronSet:
        """A set of the other model."""
        return tn.NeuronSet.from_pairs(self.other, [(0, 1)], "foreign")

    @cached_property
    def delta(self) -> tn.NeuronDelta:
        """Trained neurons."""
        return tn.finetune(self.model, self.tasks[0], self.neurons, tn.Training(steps=1), limit=4)

    @cached_property
    def items(self) -> pd.DataFrame:
        """The rows of silencing."""
        return tn.deactivation_items(self.model, self.tasks, self.sets, controls=1, limit=2)

    @cached_property
    def text(self) -> str:
        """A file that holds no tensors and no table."""
        path = self.folder / "notes.txt"
        path.write_text("nothing\n")
        return str(path)

    def new_folder(self) -> Path:
        """A folder that nothing was written to."""
        return Path(mkdtemp(dir=self.folder))

    @cached_property
    def nowhere(self) -> str:
        """A file that isn't there."""
        return str(self.folder / "not_there.safetensors")


@dataclass(frozen=True)
class Bad:
    """A bad value, and what its message must name."""

    value: Any
    needs: tuple[str, ...] | None = None
    made: bool = False

    def get(self, world: World) -> Any:
        """The value in a world."""
        return self.value(world) if self.made else self.value

    @property
    def text(self) -> str:
        """How it is shown."""
        return f"the world's {self.needs}" if self.made else repr(self.value)[:60]

    @property
    def words(self) -> tuple[str, ...]:
        """The words that the message must hold."""
        return (repr(self.value)[:60],) if self.needs is None else self.needs


@dataclass(frozen=True)
class BadCall:
    """One call that must be told."""

    area: str
    text: str
    needs: tuple[str, ...]
    make: Make
    shell: bool = False

    def words_of(self, world: World) -> list[str]:
        """The words of a command."""
        return [str(word) for word in self.make(world)]


def of(make: Make, *needs: str) -> Bad:
    """A bad value that is made in a world."""
    return Bad(make, needs, made=True)


def plain(*values: Any) -> list[Bad]:
    """Bad values that messages write as Python does."""
    return [Bad(value) for value in values]
