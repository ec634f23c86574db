"""Tasks from the Hugging Face hub: their examples, drawn in even classes from its datasets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from tl_taskneurons.loading.hub_mappings import HUB_TASKS, HubTask
from tl_taskneurons.runtime.errors import InputError, did_you_mean
from tl_taskneurons.tasks.task import Example, Task


def hub_task_names() -> tuple[str, ...]:
    """Return the names of the tasks with a ready mapping."""
    return tuple(HUB_TASKS)


def hub_task(
    name: str,
    *,
    dataset: Mapping[Any, Any] | None = None,
    n_train: int = 2000,
    n_test: int = 500,
    seed: int = 0,
) -> Task:
    """Make a task of a dataset of the Hugging Face hub.

    Classes come equally often: where one is short of rows, the others are cut to its number.
    Repeated inputs are dropped, and no training input is in the test split. Where an input has
    several rows (e2e, commongen), each is a training example, the test has one example an input,
    and all carry every target as references.

    Args:
        name: one of :func:`hub_task_names`.
        dataset: splits with the same columns (a ``datasets.DatasetDict``, or a mapping from split
            names to lists of dicts); None loads the dataset from the hub or its cache.
        n_train: the most training examples.
        n_test: the most test examples.
        seed: which examples, and their order. The same seed gives the same task.

    Raises:
        ValueError: an unknown name (with the nearest names), a missing split or column, a label
            outside the dataset's, a class without rows, or numbers below 1.
        ConnectionError: the hub cannot be reached; the message names the dataset.
    """
    if name not in HUB_TASKS:
        raise InputError(f"No hub task {name!r}{did_you_mean(name, hub_task_names())}")
    if n_train < 1 or n_test < 1:
        raise InputError(f"n_train is {n_train} and n_test is {n_test}; both must be 1 or more.")
    spec = HUB_TASKS[name]
    splits = _load(name, spec) if dataset is None else dataset
    train_name, test_name = spec.splits
    for split in (train_name, test_name or train_name):
        if split not in splits:
            raise InputError(
                f"Task {name!r} reads the splits {[s for s in spec.splits if s]}, but there is no "
                f"{split!r}, only {sorted(splits)}; rename or add the split."
            )
    rng = Random(seed)
    train_order = list(range(len(splits[train_name])))
    rng.shuffle(train_order)
    if test_name is None:
        test_name, n_held = train_name, round(len(train_order) * n_test / (n_train + n_test))
        test_order, train_order = train_order[:n_held], train_order[n_held:]
    else:
        test_order = list(range(len(splits[test_name])))
        rng.shuffle(test_order)
    read = _Reader(name, spec, splits, rng)
    test = read.sample(test_name, test_order, n_test, used=frozenset(), one_each=True)
    used = frozenset(example.input for example in test)
    train = read.sample(train_name, train_order, n_train, used=used, one_each=not spec.grouped)
    return Task(name, train, test, spec.instruction, spec.labels, spec.metric, spec.family)


@dataclass(frozen=True)
class _Reader:
    """Draws examples from the splits of one dataset."""

    name: str
    spec: HubTask
    splits: Mapping[Any, Any]
    rng: Random

    def sample(
        self,
        split: str,
        order: Sequence[int],
        count: int,
        *,
        used: frozenset[str],
        one_each: bool,
    ) -> tuple[Example, ...]:
        """Take rows in ``order`` until every class has its share of ``count``."""
        labels: tuple[str | None, ...] = self.spec.labels or (None,)
        quota = {
            label: count // len(labels) + (i < count % len(labels))
            for i, label in enumerate(labels)
        }
        drawn: dict[str | None, list[Example]] = {label: [] for label in labels}
        seen = set()
        references = self._references(split, order) if self.spec.grouped else {}
        for index in order:
            if all(len(drawn[label]) == quota[label] for label in labels):
                break
            row = self._row(split, index)
            if row is None or row["input"] in used:
                continue
            key = row["input"] if one_each else (row["input"], row["target"])
            if key in seen:
                continue
            seen.add(key)
            label = row["target"] if self.spec.labels else None
            if len(drawn[label]) < quota[label]:
                accepted = tuple(references.get(row["input"], ()))
                drawn[label].append(Example(row["input"], row["target"], label, accepted))
        self._level(split, drawn, quota)
        examples = [example for group in drawn.values() for example in group]
        self.rng.shuffle(examples)
        return tuple(examples)

    def _level(
        self, split: str, drawn: Mapping[str | None, list[Example]], quota: Mapping[str | None, int]
    ) -> None:
        """Cut every class to the smallest one where a class is short of rows."""
        short = [label for label in drawn if len(drawn[label]) < quota[label]]
        if not short:
            return
        least = min(len(drawn[label]) for label in short)
        if least == 0:
            missing = [label for label in short if not drawn[label]]
            raise InputError(
                f"Split {split!r} of task {self.name!r} has no usable row"
                + (f" with the labels {missing}" if self.spec.labels else "")
                + "; give a larger or another dataset."
            )
        for group in drawn.values():
            del group[least:]

    def _references(self, split: str, order: Sequence[int]) -> dict[str, list[str]]:
        """Collect every target of each input, in the order of the dataset."""
        found: dict[str, list[str]] = {}
        for index in sorted(order):
            row = self._row(split, index)
            if row is not None and row["target"] not in found.setdefault(row["input"], []):
                found[row["input"]].append(row["target"])
        return found

    def _row(self, split: str, index: int) -> dict[str, Any] | None:
        where = f"Row {index} of split {split!r} of task {self.name!r}"
        source = self.splits[split][index]
        try:
            row = self.spec.to_row(source)
        except KeyError as error:
            raise InputError(
                f"{where} has no column {error.args[0]!r}, only {sorted(source)}; the mapping "
                f"expects the columns of {self.spec.path or 'the original files'}: rename yours."
            ) from error
        except ValueError as error:
            raise InputError(f"{where}: {error}") from error
        return row if row and row["input"] and row["target"] else None


def _load(name: str, spec: HubTask) -> Mapping[Any, Any]:
    if spec.path is None:
        raise InputError(
            f"Task {name!r} is not on the Hugging Face hub; get its files, write their rows to "
            f"FOLDER/{name}.jsonl and name the source 'hub+FOLDER', or call "
            f"hub_task({name!r}, dataset={{'train': [{{...}}, ...]}})."
        )
    import datasets

    try:
        loaded: Any = datasets.load_dataset(spec.path, spec.config, revision=spec.revision)
        return loaded
    except (OSError, RuntimeError, ValueError) as error:
        cause = " ".join(str(error).split())[:200]
        call = ", ".join(map(repr, filter(None, (spec.path, spec.config))))
        call += f", revision={spec.revision!r}" if spec.revision else ""
        raise ConnectionError(
            f"Task {name!r} needs the dataset {spec.path!r} of the Hugging Face hub, which could "
            f"not be loaded ({type(error).__name__}: {cause}). Go online (and unset "
            "HF_HUB_OFFLINE), or fetch it on another machine with "
            f"datasets.load_dataset({call}).save_to_disk('FOLDER/{name}'), copy FOLDER, and name "
            f"the source 'hub+FOLDER' (or call "
            f"hub_task({name!r}, dataset=datasets.load_from_disk('FOLDER/{name}')))."
        ) from error
