"""What ``reproduce`` tells of a run: its verdicts, its plan, and its tables as CSV files."""

import math
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING

from tl_taskneurons.cli.options import duration
from tl_taskneurons.runtime.console import console, table

if TYPE_CHECKING:
    from tl_taskneurons.experiments import claims
    from tl_taskneurons.experiments.reproduce import Job


def tell_verdicts(verdicts: "list[claims.Verdict]") -> None:
    """Print the claims that were asked as a table, and those that were not in a line."""
    rows = [
        (
            verdict.claim, verdict.statement + (f" ({verdict.part})" if verdict.part else ""),
            verdict.verdict, _effect(verdict),
            f"{verdict.n_hold} of {verdict.n}" if verdict.n else "",
        )
        for verdict in verdicts
        if verdict.primary and verdict.asked
    ]  # fmt: skip
    columns = ("claim", "says", "verdict", "effect [95%]", "hold")
    console().print(table("The paper's claims", columns, rows, left=5))
    unasked = [f"{v.claim} {v.part}".strip() for v in verdicts if v.primary and not v.asked]
    if unasked:
        console().print(
            f"Not asked by --only or --questions: {', '.join(unasked)}.", soft_wrap=True
        )


def _effect(verdict: "claims.Verdict") -> str:
    if verdict.verdict == "not testable" or math.isnan(verdict.effect):
        return verdict.note
    if math.isnan(verdict.low):
        return f"{verdict.effect:+.3f} {verdict.unit}"
    return f"{verdict.effect:+.3f} [{verdict.low:+.3f}, {verdict.high:+.3f}] {verdict.unit}"


def _ending(model: str) -> str:
    """How files of a model are called."""
    return model.split("/")[-1].removesuffix(".gguf")


def write_csv_files(run: Path, model: str, folder: Path) -> None:
    """Write a run's tables and figures into a folder, named after the model."""
    from tl_taskneurons.runtime.table_files import read_table, write_csv

    folder.mkdir(parents=True, exist_ok=True)
    ending = _ending(model)
    for file in sorted(run.glob("*.parquet")):
        write_csv(folder / f"{file.stem}_{ending}.csv", read_table(file))
    for file in sorted(run.glob("*.png")):
        copyfile(file, folder / f"{file.stem}_{ending}.png")


def tell_plan(job: "Job", workers: int, model: str, csv: Path | None) -> None:
    """Print what a job takes, and write it where a folder for tables is given."""
    from tl_taskneurons.experiments import planning
    from tl_taskneurons.runtime.table_files import write_csv

    found = planning.estimate(job, workers)
    if csv is not None:
        csv.mkdir(parents=True, exist_ok=True)
        name = f"plan_{job.plan.preset}_{_ending(model)}.csv"
        write_csv(csv / name, planning.minutes(found).assign(model=model))
    rows = [
        (i.title, i.n_units, i.n_done, duration(i.spent), duration(i.seconds))
        for i in found.lines
    ]  # fmt: skip
    columns = ("work", "pieces", "there already", "time taken", "time left")
    console().print(table(found.title, columns, rows))
    console().print(
        f"About {duration(found.seconds)} with {workers} "
        f"{'process' if workers == 1 else 'processes'} and {found.memory / 2**30:.1f} GiB of "
        "memory each for weights, optimiser and activations. Nothing was run.",
        soft_wrap=True,
    )  # fmt: skip
