"""Results found again by what they depend on, so that nothing is computed twice.

A result's name is a digest of all that decides it: the model's fingerprint, the neurons, the
settings, the examples. Beside each lies a JSON file with these in plain text and the seconds it
took. Several processes may work in one store: who computes something holds a lock on it.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import pandas as pd

from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.runtime.progress import Progress
from tl_taskneurons.runtime.table_files import read_table, write_json, write_table

try:
    import fcntl
except ImportError:  # Windows: two processes in one store may compute the same thing twice there
    fcntl = None

Needs = Mapping[str, Any]
T = TypeVar("T")
# Part of every digest. Raise it when a change of the code changes results.
RECIPE = 1


def digest(content: Any) -> str:
    """Return a short name for JSON content."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Recipe(Generic[T]):
    """How a result is found and made: its kind, all that it depends on, and what computes it."""

    kind: str
    needs: Needs
    compute: Callable[[], T]


@dataclass(frozen=True)
class Cell:
    """A piece of work that leaves results in a store.

    Attributes:
        label: what it is, for messages and estimates, e.g. ``"train/mini_food"``.
        lock: name of the lock; cells that compute the same things share one.
        missing: whether some of its results are not there yet.
        run: computes what is missing and stores it.
        flops: about how many floating-point operations that takes.
    """

    label: str
    lock: str
    missing: Callable[[], bool]
    run: Callable[[], None]
    flops: float


@dataclass(frozen=True)
class Store:
    """A folder of results.

    Attributes:
        folder: where they are; it is made where it is missing.
    """

    folder: Path

    def has(self, kind: str, needs: Needs) -> bool:
        """Whether there is a result."""
        return any(self._file(kind, needs, end).exists() for end in ("parquet", "safetensors"))

    def put(
        self, kind: str, needs: Needs, result: pd.DataFrame | NeuronScores, seconds: float = 0.0
    ) -> None:
        """Write a result and what it depends on."""
        facts = {"needs": {**needs, "recipe": RECIPE}, "seconds": round(seconds, 3)}
        write_json(self._file(kind, needs, "json"), facts)
        if isinstance(result, pd.DataFrame):
            write_table(self._file(kind, needs, "parquet"), result)
        else:
            result.save(self._file(kind, needs, "safetensors"))

    def get(self, kind: str, needs: Needs) -> pd.DataFrame:
        """Read a table.

        Raises:
            FileNotFoundError: when it is not there.
        """
        return read_table(self._file(kind, needs, "parquet"))

    def table(self, recipe: Recipe[pd.DataFrame]) -> pd.DataFrame:
        """Return a table; compute and store it where it is missing."""
        self._fill(recipe)
        # Read back also what was just written: a stopped run then sees the same column types.
        return self.get(recipe.kind, recipe.needs)

    def scores(self, recipe: Recipe[NeuronScores]) -> NeuronScores:
        """Return scores; compute and store them where they are missing."""
        self._fill(recipe)
        return NeuronScores.load(self._file(recipe.kind, recipe.needs, "safetensors"))

    def cell(self, label: str, recipe: Recipe[Any], flops: float, *, lock: str = "") -> Cell:
        """The work of one result; the lock is by default its own."""
        kind, needs = recipe.kind, recipe.needs
        return Cell(
            label, lock or digest(dict(needs)), lambda: not self.has(kind, needs),
            lambda: self._fill(recipe), flops,
        )  # fmt: skip

    def work(self, cells: Sequence[Cell], title: str = "", *, shown: bool = False) -> None:
        """Run the cells that are missing; with other processes in the same store, share them.

        Cells that another process is busy with are left to it at first, and waited for at the end,
        so that all are there when this returns.
        """
        left = list(cells)
        with Progress(title, shown=shown) as bar:
            move = bar.weigh(sum((cell.flops for cell in left), 0.0))
            for wait in (False, True):
                busy = []
                for cell in left:
                    bar.say(f"{title}: {cell.label}")
                    if self._run(cell, wait):
                        move(cell.flops)
                    else:
                        busy.append(cell)
                left = busy

    def _run(self, cell: Cell, wait: bool) -> bool:
        if not cell.missing():
            return True
        with self.locked(f"cell-{cell.lock}", wait=wait) as mine:
            if mine and cell.missing():
                cell.run()
            return mine

    @contextmanager
    def locked(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold a lock; gives False where another process has it and ``wait`` is off.

        The system lets go of the lock when the process ends, however it ends.
        """
        if fcntl is None:
            yield True
            return
        file = self.folder / "locks" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True

    def _fill(self, recipe: Recipe[Any]) -> None:
        kind, needs = recipe.kind, recipe.needs
        if self.has(kind, needs):
            return
        with self.locked(f"{kind}-{digest(dict(needs))}"):
            if self.has(kind, needs):  # another process has made it while this one waited
                return
            start = time.perf_counter()
            result = recipe.compute()
            self.put(kind, needs, result, time.perf_counter() - start)

    def _file(self, kind: str, needs: Needs, end: str) -> Path:
        return self.folder / kind / f"{digest({**needs, 'recipe': RECIPE})}.{end}"
