"""Results found again by what they depend on, so that nothing is computed twice.

A result's file name is a digest of all that decides it: the model's fingerprint, the neurons, the
settings, the examples. Beside it lies a JSON file with these in plain text and the seconds it took.
Several processes may work in one store: who computes something holds a lock on it.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.runtime.locks import locked
from tl_taskneurons.runtime.progress import Progress
from tl_taskneurons.runtime.stored import stored
from tl_taskneurons.runtime.table_files import read_json, read_table, write_json, write_table
from tl_taskneurons.training.deltas import load_delta

Key = Mapping[str, Any]
T = TypeVar("T")
# Part of every digest. Raise it when a change of the code changes results.
DESIGN = 2


def digest(content: Any) -> str:
    """Return a short name for JSON content."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Form(Generic[T]):
    """How results of a type are written and read."""

    suffix: str
    load: Callable[[Path], T]
    save: Callable[[Path, T], object]


TABLE = Form("parquet", read_table, write_table)
SCORES = Form("safetensors", NeuronScores.load, lambda path, scores: scores.save(path))
DELTA: Form[Any] = Form("safetensors", load_delta, lambda path, delta: delta.save(path))


@dataclass(frozen=True)
class Result(Generic[T]):
    """Something that is computed once.

    Attributes:
        kind: its folder in the store, e.g. ``"answers"``.
        key: all that it depends on, as JSON content.
        compute: makes it.
        form: how it is written.
        stand_in: makes something of the same shape at once, for plans of work.
    """

    kind: str
    key: Key
    compute: Callable[[], T]
    form: Form[Any] = TABLE
    stand_in: Callable[[], T] | None = None

    @property
    def digest(self) -> str:
        """Its name."""
        return digest({**self.key, "design": DESIGN})


@dataclass(frozen=True)
class Unit:
    """A unit of work that leaves results in a store.

    Attributes:
        label: what it is, for messages and estimates, e.g. ``"train mini_food"``.
        lock: name of the lock; units that compute the same things share one.
        files: where its results are.
        run: computes what is missing and stores it.
        flops: about how many floating-point operations that takes.
    """

    label: str
    lock: str
    files: tuple[Path, ...]
    run: Callable[[], object]
    flops: float

    def missing(self) -> bool:
        """Whether some of its results are not there yet."""
        return not all(file.exists() for file in self.files)

    def spent(self) -> float:
        """The seconds that its results took, of those that are there."""
        there = [file for file in self.files if file.exists()]
        return sum((read_json(_facts(file))["seconds"] for file in there), 0.0)


def _facts(file: Path) -> Path:
    """Where it says what a result depends on, and the seconds that it took."""
    return file.with_suffix(".json")


@dataclass(frozen=True)
class Store:
    """A folder of results.

    Attributes:
        folder: where they are; it is made where it is missing.
    """

    folder: Path

    def has(self, result: Result[Any]) -> bool:
        """Whether a result is there."""
        return self.path(result).exists()

    def path(self, result: Result[Any]) -> Path:
        """The result's file."""
        return self.folder / result.kind / f"{result.digest}.{result.form.suffix}"

    def get(self, result: Result[T]) -> T:
        """Return a result; compute and store it where it is missing."""
        path, start = self.path(result), time.perf_counter()

        def save(_: Path, value: T) -> None:
            self.put(result, value, time.perf_counter() - start)

        if path.exists():
            return result.form.load(path)
        with self.locked(f"{result.kind}-{result.digest}"):
            return stored(path, result.compute, load=result.form.load, save=save)

    def put(self, result: Result[T], value: T, seconds: float = 0.0) -> None:
        """Write a result and, beside it, what it depends on and the seconds that it took."""
        path = self.path(result)
        facts = {"key": {**result.key, "design": DESIGN}, "seconds": round(seconds, 3)}
        write_json(_facts(path), facts)
        result.form.save(path, value)

    def unit(self, label: str, result: Result[Any], flops: float, *, lock: str = "") -> Unit:
        """The work of one result; the lock is by default its own."""
        return Unit(
            label,
            lock or result.digest,
            (self.path(result),),
            run=lambda: self.get(result),
            flops=flops,
        )

    def work(self, units: Sequence[Unit], title: str = "", *, shown: bool = False) -> None:
        """Run the units that are missing; with other processes in the same store, share them.

        Units that another process is busy with are left to it at first, and waited for at the end,
        so that all are there when this returns.
        """
        left = list(units)
        with Progress(title, shown=shown) as bar:
            move = bar.weigh(sum((unit.flops for unit in left), 0.0))
            for wait in (False, True):
                busy = []
                for unit in left:
                    bar.say(f"{title}: {unit.label}")
                    if self._run(unit, wait):
                        move(unit.flops)
                    else:
                        busy.append(unit)
                left = busy

    def _run(self, unit: Unit, wait: bool) -> bool:
        if not unit.missing():
            return True
        with self.locked(f"unit-{unit.lock}", wait=wait) as mine:
            if mine and unit.missing():
                unit.run()
            return mine

    def locked(self, name: str, *, wait: bool = True) -> AbstractContextManager[bool]:
        """Hold a lock; gives False where another process has it and ``wait`` is off."""
        return locked(self.folder / "locks" / name, wait=wait)


class DryStore(Store):
    """A store that computes nothing: what it lacks is made up, so that work can be listed.

    The units of work are as many and as large as the real ones, which need the neurons and the
    learning rates that are not known yet; of units that rest on made-up results none is there.
    """

    def get(self, result: Result[T]) -> T:
        """Return a result from the store, or its stand-in."""
        if self.has(result) or result.stand_in is None:
            return super().get(result)
        return result.stand_in()
