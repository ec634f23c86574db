"""The command ``reproduce``: the whole paper on one model, and which of its claims hold."""

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from tl_taskneurons.cli.options import (
    Dtype,
    Flat,
    Many,
    Names,
    check_device,
    check_sources,
    check_writable,
    numbers,
    several,
)  # fmt: skip
from tl_taskneurons.cli.reproduced import tell_plan, tell_verdicts, write_csv_files
from tl_taskneurons.continual.methods import METHODS
from tl_taskneurons.continual.orders import order
from tl_taskneurons.experiments.lab.presets import PRESETS, find_preset, overridden, subject_of
from tl_taskneurons.runtime.console import console
from tl_taskneurons.runtime.errors import InputError, did_you_mean
from tl_taskneurons.runtime.options import require_number, require_seed

_EXAMPLE = """\
examples:
  tl-taskneurons reproduce --model mini-llama --preset smoke
  tl-taskneurons reproduce --model mini-llama
  tl-taskneurons reproduce --model smollm2-135m --data my_data/ \\
      --only table1,table8
  tl-taskneurons reproduce --model meta-llama/Llama-2-7b-hf --plan

The first tells in a minute whether everything runs here, the second is the paper in miniature.

Call the same command again to go on where it was stopped, and with other sizes to compute only \
what these change. The folder gets a table and the figures of each experiment, claims.json, and \
report.html, which opens in any browser.
"""
# As experiments.reproduce.EXPERIMENTS, which needs torch.
EXPERIMENTS = {
    "table1": "silenced neurons", "table2": "training chosen neurons",
    "rate_map": "when task neurons beat random ones", "figure5": "single tasks",
    "figure2": "generalisation by share", "figure6": "single tasks by share",
    "table8": "overlap by share", "tables9_11": "fixed overlap", "figure3": "overlap by layer",
    "table4": "similarity and transfer", "table5": "tasks in a row",
}  # fmt: skip
# As paper.table2; a space can't be typed in an option.
QUESTIONS = {
    "end-point": "who ends better, each at its best rate", "speed": "who is faster at a low rate",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is reproduced, and where.

    Attributes:
        model: mini-llama, mini-bloom, smollm2-135m, a Hugging Face id or folder.
        preset: sizes (default: by the model).
        data: 'mini', 'hub' or a folder of tasks (default: by the model).
        tasks: with commas between: trained, sibling, ...
        out: folder (default: runs/reproduce/MODEL).
        workers: processes (default: one per core for mini models on the CPU, else 1).
        also: folders of reproductions with other models, for claim C11.
        csv: also write the tables as CSV, and the figures, into this folder.
        tuned: model for Table 1: a name, or base, all or lora (default: by the model).
        dtype: of the weights.
        device: cpu, cuda ... (default: the first GPU, else the CPU).
    """

    model: str = "mini-llama"
    preset: Annotated[str | None, Parameter(choices=tuple(PRESETS))] = None
    data: str | None = None
    tasks: Names | None = None
    only: Annotated[tuple[str, ...] | None, several(EXPERIMENTS, says="default: all; or ")] = None
    out: Path | None = None
    workers: int | None = None
    also: Annotated[tuple[Path, ...], Many] = ()
    csv: Path | None = None
    tuned: str | None = None
    dtype: Dtype = "float32"
    device: str | None = None

    def __post_init__(self) -> None:
        """Refuse what could not work, before any model is loaded."""
        for name in ("tasks", "only"):
            if getattr(self, name) == ():
                raise InputError(f"{name} is empty; name at least one, or leave --{name} out.")
        for name in self.only or ():
            if name not in EXPERIMENTS:
                raise InputError(
                    f"Unknown experiment {name!r}{did_you_mean(name, list(EXPERIMENTS))}"
                )
        if self.workers is not None and self.workers < 1:
            raise InputError(f"workers is {self.workers}; it must be at least 1.")

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.out or Path("runs", "reproduce", self.model.replace("/", "--"))

    @property
    def processes(self) -> int:
        """How many processes work."""
        if self.workers is not None:
            return self.workers
        on_cpu = self.device is None or self.device == "cpu"
        return max(1, os.cpu_count() or 1) if self.model.startswith("mini-") and on_cpu else 1


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes in place of the preset's.

    Attributes:
        seeds: seeds of training and of random neurons.
        shares: shares of neurons in Figures 2 and 6 and Table 8.
        fractions: shares of neurons that are silenced, and trained for C2's speed.
        questions: what is asked of trained neurons (C2, C3).
        rates: learning rates to choose from.
        steps: updates for each training task.
        transfer_steps: the same where transfer to siblings is asked.
        batch_size: examples of an update.
        n_detect: training examples that neurons are found on.
        n_train: training examples to learn from.
        n_test: test examples.
        shots: demonstrations in a prompt.
        max_new_tokens: the longest generated answer.
        max_chars: leave out examples with a longer input.
        cut_tasks: tasks whose longer inputs are cut at a word's end instead.
        orders: orders of tasks in a row (Table 5).
        methods: methods of Table 5.
        row_rates: learning rates for Table 5.
        row_steps: updates of a stage.
        row_n_train: training examples of a stage.
        row_n_test: test examples of a task.
        map_tasks: tasks of the map of C2.
        map_fractions: shares of neurons there.
        map_rates: constant learning rates there.
        map_updates: after how many updates there; multiples of the first.
    """

    seeds: Annotated[tuple[int, ...] | None, numbers(int)] = None
    shares: Annotated[tuple[float, ...] | None, numbers(float)] = None
    fractions: Annotated[tuple[float, ...] | None, numbers(float)] = None
    questions: Annotated[tuple[str, ...] | None, several(QUESTIONS)] = None
    rates: Annotated[tuple[float, ...] | None, numbers(float)] = None
    steps: int | None = None
    transfer_steps: int | None = None
    batch_size: int | None = None
    n_detect: Annotated[int | None, Parameter(name="--detect")] = None
    n_train: Annotated[int | None, Parameter(name="--train")] = None
    n_test: Annotated[int | None, Parameter(name="--test")] = None
    shots: int | None = None
    max_new_tokens: int | None = None
    max_chars: int | None = None
    cut_tasks: Names | None = None
    orders: Names | None = None
    methods: Names | None = None
    row_rates: Annotated[tuple[float, ...] | None, numbers(float)] = None
    row_steps: int | None = None
    row_n_train: Annotated[int | None, Parameter(name="--row-train")] = None
    row_n_test: Annotated[int | None, Parameter(name="--row-test")] = None
    map_tasks: Names | None = None
    map_fractions: Annotated[tuple[float, ...] | None, numbers(float, "--map-shares")] = None
    map_rates: Annotated[tuple[float, ...] | None, numbers(float)] = None
    map_updates: Annotated[tuple[int, ...] | None, numbers(int)] = None

    def __post_init__(self) -> None:
        """Refuse what could not work, before any model is loaded."""
        for name, value in asdict(self).items():
            if value == ():
                raise InputError(f"{name} is empty; name at least one, or leave it out.")
        for seed in self.seeds or ():
            require_seed(seed)
        for name, value in asdict(self).items():
            if isinstance(value, int):
                require_number(name, value, least=0 if name == "shots" else 1)
        for name in self.questions or ():
            if name not in QUESTIONS:
                raise InputError(f"Unknown question {name!r}{did_you_mean(name, list(QUESTIONS))}")
        asked = (self.shares, self.fractions, self.map_fractions)
        for share in (share for shares in asked for share in shares or ()):
            if not 0 < share <= 1:
                raise InputError(f"shares has {share}; a share must be in (0, 1], e.g. 0.1.")
        for rate in (*(self.rates or ()), *(self.row_rates or ()), *(self.map_rates or ())):
            if not 0 < rate < math.inf:
                raise InputError(f"rates has {rate}; a rate must be a positive number.")
        updates = self.map_updates or (1,)
        if updates[0] < 1 or any(n % updates[0] for n in updates) or sorted(updates) != [*updates]:
            raise InputError(
                f"map_updates is {updates}; one run is looked at after the first number of updates "
                "and multiples of it, so give these in rising order, e.g. 8,16,32."
            )
        for name in self.methods or ():
            METHODS.find(name)
        for name in self.orders or ():
            order(name)

    def changes(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Return the sizes of the plan, those of the tasks in a row, and those of the map."""
        given = asdict(self)
        if self.questions is not None:
            given["questions"] = tuple(name.replace("-", " ") for name in self.questions)
        rows = {name: given.pop(name) for name in ("orders", "methods")} | _taken(given, "row_")
        return given, rows, _taken(given, "map_")


def _taken(given: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Take what begins with a prefix out of a dictionary, and the prefix off."""
    names = [name for name in given if name.startswith(prefix)]
    return {name.removeprefix(prefix): given.pop(name) for name in names}


def _require_known(what: str, asked: Sequence[str], tasks: Sequence[str] | None) -> None:
    """Refuse names of none of the tasks; None are all that the data has."""
    for name in asked:
        if tasks and name not in tasks:
            raise InputError(f"Unknown {what} {name!r}{did_you_mean(name, tasks)}")


def reproduce(
    run: Annotated[Run, Flat] = Run(),
    sizes: Annotated[Sizes, Parameter(name="*", group="Sizes")] = Sizes(),
    *,
    plan: bool = False,
) -> None:
    """Run the paper's tables and figures on a model, and test its claims.

    Args:
        run: what is reproduced, and where.
        sizes: in place of the preset's.
        plan: say what would be run, beside what it took where it is there, and run nothing.
    """
    subject = subject_of(run.model)
    subject = replace(subject, data=run.data or subject.data, tuned=run.tuned or subject.tuned)
    changes, rows, in_map = sizes.changes()
    preset = find_preset(run.preset or subject.preset)
    found = overridden(preset, {**changes, "tasks": run.tasks}, rows, in_map)
    if sizes.cut_tasks:
        if found.max_chars is None:
            raise InputError("cut_tasks needs a length to cut at; give --max-chars too.")
        in_rows = [name for each in found.sequences.orders for name in order(each)]
        _require_known("task to cut", sizes.cut_tasks, found.tasks and (*found.tasks, *in_rows))
    if subject.data:
        asked = sizes.map_tasks or ()
        _require_known("map task", asked, found.tasks)
        check_sources(subject.data, found.tasks or asked, run.model)
    check_device(run.device)
    for folder in (None if plan else run.folder, run.csv):
        if folder is not None:
            check_writable(folder)
    from tl_taskneurons.experiments import reproduce as experiments

    loading = {"dtype": run.dtype, "device": run.device}
    job = experiments.Job(
        subject, found, experiments.find_experiments(run.only), run.folder,
        tuple(loading.items()), 1 if run.processes > 1 else None,
    )  # fmt: skip
    if plan:
        tell_plan(job, run.processes, run.model, run.csv)
        return
    verdicts = experiments.reproduce(job, workers=run.processes, also=run.also, progress=True)
    if run.csv is not None:
        write_csv_files(run.folder, run.model, run.csv)
    tell_verdicts(verdicts)
    console().print(f"All tables and figures: {run.folder / 'report.html'}", soft_wrap=True)


COMMANDS = {reproduce: _EXAMPLE}
