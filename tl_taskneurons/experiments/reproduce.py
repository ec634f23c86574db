"""Every table and figure of the paper, and which of its claims hold: one run over one store.

The work is a list of units in phases: neurons of the base model, learning rates, the tuned model
and its neurons, everything else. Each process of a run goes through the same list and does what no
other has done or is doing; the first one then makes the tables, all of whose parts are there.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from tl_taskneurons.experiments import claims
from tl_taskneurons.experiments.lab import detection, search, states, tuned
from tl_taskneurons.experiments.lab.experiment import Experiment
from tl_taskneurons.experiments.lab.lab import Lab
from tl_taskneurons.experiments.lab.plan import Plan
from tl_taskneurons.experiments.lab.presets import Subject, hub_limit
from tl_taskneurons.experiments.lab.rates import Kind, rate_table
from tl_taskneurons.experiments.lab.rates import search as rate_search
from tl_taskneurons.experiments.lab.store import DESIGN, Store, Unit
from tl_taskneurons.experiments.paper import row_budgets, table5
from tl_taskneurons.experiments.paper.figure2 import Figure2
from tl_taskneurons.experiments.paper.figure3 import Figure3
from tl_taskneurons.experiments.paper.figure5 import Figure5
from tl_taskneurons.experiments.paper.figure6 import Figure6
from tl_taskneurons.experiments.paper.rate_map import RateMap
from tl_taskneurons.experiments.paper.table1 import Table1
from tl_taskneurons.experiments.paper.table2 import Table2
from tl_taskneurons.experiments.paper.table4 import Table4
from tl_taskneurons.experiments.paper.table8 import Table8
from tl_taskneurons.experiments.paper.tables9_11 import Tables9To11
from tl_taskneurons.loading.models import load_model
from tl_taskneurons.loading.tasks import load_tasks
from tl_taskneurons.plots import save
from tl_taskneurons.report.page import write_report
from tl_taskneurons.runtime.cleanup import Undo
from tl_taskneurons.runtime.errors import InputError, did_you_mean
from tl_taskneurons.runtime.run_folder import RunFolder
from tl_taskneurons.runtime.table_files import read_json, write_json, write_table
from tl_taskneurons.tasks.task import Tasks

# In the order of the paper's sections.
EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        Table1(),
        Table2(),
        RateMap(),
        Figure5(),
        Figure2(),
        Figure6(),
        Table8(),
        Tables9To11(),
        Figure3(),
        Table4(),
        table5.Table5(),
    )
}

_GATE_KEYS = ["table", "task", "item"]


@dataclass(frozen=True)
class Job:
    """What a process needs to know to take part in a reproduction.

    Attributes:
        subject: the models, and where tasks come from.
        plan: the sizes.
        names: the experiments.
        folder: the run's folder.
        options: for ``load_model``: kind, dtype, device.
        threads: of torch in each process; None leaves them as they are. Results are the same
            bytes only with the same number.
    """

    subject: Subject
    plan: Plan
    names: tuple[str, ...]
    folder: Path
    options: tuple[tuple[str, Any], ...] = ()
    threads: int | None = None

    @property
    def experiments(self) -> list[Experiment]:
        """The experiments, in the order of the paper."""
        return [experiment for name, experiment in EXPERIMENTS.items() if name in self.names]


def find_experiments(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return names of experiments; None means all.

    Raises:
        ValueError: for an unknown name, with the nearest.
    """
    for name in names or ():
        if name not in EXPERIMENTS:
            raise InputError(f"Unknown experiment {name!r}{did_you_mean(name, tuple(EXPERIMENTS))}")
    return tuple(EXPERIMENTS) if names is None else tuple(names)


def open_lab(job: Job) -> Lab:
    """Load models and tasks.

    Raises:
        ValueError: as ``load_model`` and ``load_tasks`` do, and for a subject without data.
    """
    subject, options = job.subject, dict(job.options)
    if not subject.data:
        raise InputError(
            f"There are no tasks to reproduce with on {subject.base!r}; give --data with a folder "
            "of tasks, 'mini' or 'hub'."
        )
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    plan = job.plan
    most = hub_limit(subject.data, max(plan.n_train, plan.n_test, plan.n_detect))
    loaded = load_tasks(subject.data, plan.tasks, limit=most)
    tasks = Tasks(map(plan.fitted, loaded))
    base = load_model(subject.base, **options)
    tuned_model = subject.tuned
    if tuned_model not in (tuned.BASE, *tuned.MADE_OF_BASE):
        tuned_model = load_model(tuned_model, **options)
    return Lab(base, tuned_model, tasks, job.plan, Store(job.folder / "store"), subject.data)


def rate_kinds(lab: Lab, experiments: Sequence[Experiment]) -> list[Kind]:
    """For which kinds of sets the experiments need learning rates."""
    kinds = [kind for experiment in experiments for kind in experiment.rates(lab)]
    if any(e.needs_tuned for e in experiments):
        kinds += tuned.rate_kinds(lab)
    return list(dict.fromkeys(kinds))


def preparations(lab: Lab, experiments: Sequence[Experiment]) -> Iterator[tuple[str, list[Unit]]]:
    """What experiments need first, phase by phase.

    A phase's units can be listed once those before are done.
    """
    samples = lab.plan.detections if any(e.needs_samples for e in experiments) else 1
    needed = any(e.needs_neurons for e in experiments)
    found = detection.detection_units(lab, states.base(lab), samples if needed else 0)
    yield "neurons", found
    searches = [rate_search(lab, kind) for kind in rate_kinds(lab, experiments)]
    if any(isinstance(e, table5.Table5) for e in experiments):
        yield "the model that knows the labels", row_budgets.preparation(lab)
        searches += row_budgets.rate_searches(lab)
    for units in search.phases(searches):
        yield "learning rates", units
    if any(e.needs_tuned for e in experiments):
        yield "the tuned model", tuned.units(lab)
        samples = lab.plan.silenced_samples
        yield (
            "neurons of the tuned model",
            detection.detection_units(lab, tuned.state(lab), samples, lab.silenced),
        )


def work(job: Job, *, shown: bool = False) -> Lab:
    """Do what is missing, together with other processes that work on the same job."""
    lab = open_lab(job)
    for title, units in preparations(lab, job.experiments):
        lab.store.work(units, title, shown=shown)
    units = [unit for experiment in job.experiments for unit in experiment.units(lab)]
    lab.store.work(units, "experiments", shown=shown)
    return lab


def reproduce(
    job: Job, *, workers: int = 1, also: Sequence[Path] = (), progress: bool = False
) -> list[claims.Verdict]:
    """Run experiments and test the claims; what is in the folder already is not done again.

    The folder gets the tables (parquet) and figures (PNG) of these experiments, ``claims.json``,
    ``claims.parquet``, ``comparisons.parquet``, ``report.html``, and the store.

    Args:
        job: what to run.
        workers: processes.
        also: folders of reproductions with other models, for claim C11.
        progress: show progress with an estimate of the time left.

    Returns:
        The verdicts on C1 to C11.

    Raises:
        ValueError: for a folder of another model, workers below 1, and as ``open_lab`` does.
        FileNotFoundError: for a folder in ``also`` without ``claims.json``.
    """
    if workers < 1:
        raise InputError(f"workers is {workers}; it must be at least 1.")
    others = [claims.from_json(read_json(folder / "claims.json")) for folder in also]
    _refuse_other_designs(job.folder)
    about = {
        "experiment": "reproduce",
        "design": DESIGN,
        "model": job.subject.base,
        "tuned": job.subject.tuned,
    }
    with RunFolder.open(job.folder, about, kind="reproduce") as folder:
        helpers = [_helper(job) for _ in range(workers - 1)]
        with Undo() as undo:
            for helper in helpers:
                undo.add(_end, helper)
                helper.start()
            lab = work(job, shown=progress)
            for helper in helpers:  # nothing is left to do, so they end by themselves
                helper.join(timeout=60)
        verdicts = _publish(lab, job, folder, others)
        folder.finish()
    write_report(job.folder, texts=False)
    return verdicts


def _refuse_other_designs(folder: Path) -> None:
    """Refuse a folder whose results answer other questions than this version asks.

    Raises:
        ValueError: with the way to keep them under another name.
    """
    file = folder / "run.json"
    stated = read_json(file).get("arguments", {}) if file.exists() else {}
    design = stated.get("design", 1)
    if stated.get("experiment") == "reproduce" and design != DESIGN:
        raise InputError(
            f"{folder} has results of design {design} of the experiments, and this version has "
            f"design {DESIGN}: other controls, learning rates and gates. Keep them under another "
            f"name (mv {folder} {folder}-design{design}), or give another --out."
        )


def _publish(
    lab: Lab, job: Job, folder: RunFolder, others: Sequence[Sequence[claims.Verdict]]
) -> list[claims.Verdict]:
    evidence: dict[str, pd.DataFrame] = {}
    published: dict[str, pd.DataFrame] = {}
    figures: dict[str, Figure] = {}
    gated: list[pd.DataFrame] = []
    for experiment in job.experiments:
        tables = experiment.tables(lab)
        published |= {name: t.assign(model=job.subject.base) for name, t in tables.items()}
        figures |= experiment.draw(tables)
        evidence |= experiment.evidence(lab)
        gated += experiment.gates(lab)
    if gated:
        evidence["gates"] = pd.concat(gated, ignore_index=True).drop_duplicates(_GATE_KEYS)
        published["gates"] = claims.summary_of_gates(evidence["gates"])
    chosen_rates = rate_table(lab, rate_kinds(lab, job.experiments))
    if len(chosen_rates):
        published["rates"] = chosen_rates.assign(model=job.subject.base)
    verdicts = claims.claims(evidence)
    verdicts.append(claims.c11(verdicts, *others))
    if job.plan.preset == "smoke":
        note = "the preset smoke shows that everything runs; its sizes can't test a claim"
        verdicts = [replace(found, verdict="not testable", note=note) for found in verdicts]
    published |= {
        "claims": claims.frame(verdicts), "comparisons": claims.comparisons_frame(verdicts)
    }  # fmt: skip
    files: dict[str, Callable[[Path], None]] = {
        "plan.json": lambda path: write_json(path, asdict(job.plan)),
        "claims.json": lambda path: write_json(path, claims.to_json(verdicts)),
    }
    for name, table in published.items():
        files[f"{name}.parquet"] = lambda path, table=table: write_table(path, table)
    for name, figure in figures.items():
        files[f"{name}.png"] = lambda path, figure=figure: save(figure, path)
    folder.publish(files)
    return verdicts


def _helper(job: Job) -> Any:
    """A further process at work on the job; an error in it comes up in the first process too."""
    return multiprocessing.get_context("spawn").Process(
        target=_work_along, args=(job, os.getpid()), daemon=True
    )


def _end(process: Any) -> None:
    if process.pid is not None:
        process.terminate()
        process.join()


def _work_along(job: Job, parent: int) -> None:
    def leave_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
    work(job)
