"""The command ``reproduce``: the whole paper on one model, and which of its claims hold."""

import argparse
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tl_taskneurons.cli.options import duration, names
from tl_taskneurons.experiments import claims
from tl_taskneurons.experiments.lab.presets import PRESETS, find_preset, overridden, subject_of
from tl_taskneurons.experiments.planning import Estimate, estimate
from tl_taskneurons.experiments.reproduce import EXPERIMENTS, Job, find_experiments, reproduce
from tl_taskneurons.runtime.table_files import read_table, write_csv

_EXAMPLE = """\
examples:
  tl-taskneurons reproduce --model mini-llama --preset smoke     seconds: does it run here?
  tl-taskneurons reproduce --model mini-llama                    the paper in miniature
  tl-taskneurons reproduce --model smollm2-135m --data my_data/ --only table1,table8
  tl-taskneurons reproduce --model meta-llama/Llama-2-7b-hf --plan

Call the same command again to go on where it was stopped, and with other sizes to compute only
what these change. The folder gets a table and the figures of each experiment, claims.json, and
report.html, which opens in any browser.
"""
_SIZES = {
    "seeds": (int, "seeds of training and of random neurons"),
    "shares": (float, "shares of neurons in Figures 2 and 6 and Table 8"),
    "rates": (float, "learning rates to choose from"),
}
_COUNTS = {
    "steps": "updates for each training task",
    "group_steps": "the same where tasks are trained together",
    "batch_size": "examples of an update",
    "n_detect": "training examples that neurons are found on",
    "n_train": "training examples to learn from",
    "n_test": "test examples",
    "shots": "demonstrations in a prompt",
    "max_new_tokens": "the longest generated answer",
    "max_chars": "leave out examples with a longer input",
}
_ROW_COUNTS = {
    "steps": "updates of a stage", "n_train": "training examples of a stage",
    "n_test": "test examples of a task",
}  # fmt: skip


def add_reproduce_command(commands: Any) -> None:
    """Add the command to the command line's parser."""
    about = "run the paper's tables and figures on a model, and test its claims"
    sub = commands.add_parser(
        "reproduce", help=about, description=about.capitalize() + ".", epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    sub.set_defaults(command=_reproduce)
    sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
    sub.add_argument(
        "--model", default="mini-llama",
        help="mini-llama, mini-bloom, smollm2-135m, a Hugging Face id or folder "
        "(default: %(default)s)",
    )  # fmt: skip
    sub.add_argument("--preset", choices=tuple(PRESETS), help="sizes (default: by the model)")
    sub.add_argument("--data", help="'mini', 'hub' or a folder of tasks (default: by the model)")
    sub.add_argument("--tasks", type=names, help="with commas between: trained, sibling, ...")
    sub.add_argument(
        "--only", type=names, metavar="NAMES",
        help=f"some of {', '.join(EXPERIMENTS)} (default: all)",
    )  # fmt: skip
    sub.add_argument("--out", type=Path, help="folder (default: runs/reproduce/MODEL)")
    sub.add_argument("--plan", action="store_true", help="say what would be run, and run nothing")
    sub.add_argument(
        "--workers", type=int,
        help="processes (default: one per core for mini models on the CPU, else 1)",
    )  # fmt: skip
    sub.add_argument(
        "--also", type=Path, nargs="+", default=[], metavar="RUN",
        help="folders of reproductions with other models, for claim C11",
    )  # fmt: skip
    sub.add_argument("--csv", type=Path, help="also write the tables as CSV into this folder")
    sub.add_argument(
        "--tuned", help="model for Table 1: a name, or base, all or lora (default: by the model)"
    )
    sub.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16")
    sub.add_argument("--device", help="cpu, cuda ... (default: the first GPU, else the CPU)")
    sizes = sub.add_argument_group("sizes, in place of the preset's")
    for name, (kind, text) in _SIZES.items():
        sizes.add_argument(f"--{name}", type=kind, nargs="+", help=text)
    for name, text in _COUNTS.items():
        sizes.add_argument(_flag(name), dest=name, type=int, help=text)
    sizes.add_argument("--orders", type=names, help="orders of tasks in a row (Table 5)")
    sizes.add_argument("--methods", type=names, help="methods of Table 5")
    sizes.add_argument("--row-rates", type=float, nargs="+", help="learning rates for Table 5")
    for name, text in _ROW_COUNTS.items():
        sizes.add_argument(f"--row{_flag(name)[1:]}", dest=f"row_{name}", type=int, help=text)


def _flag(name: str) -> str:
    return "--" + name.removeprefix("n_").replace("_", "-")


def _job(options: argparse.Namespace) -> Job:
    subject = subject_of(options.model)
    if options.data or options.tuned:
        subject = replace(
            subject, data=options.data or subject.data, tuned=options.tuned or subject.tuned
        )
    changes = {name: getattr(options, name) for name in _COUNTS}
    for name in _SIZES:
        value = getattr(options, name)
        changes[name] = None if value is None else tuple(value)
    in_rows = {name: getattr(options, f"row_{name}") for name in _ROW_COUNTS}
    in_rows |= {"orders": options.orders, "methods": options.methods}
    in_rows["rates"] = None if options.row_rates is None else tuple(options.row_rates)
    plan = find_preset(options.preset or subject.preset)
    plan = overridden(plan, {**changes, "tasks": options.tasks}, in_rows)
    folder = options.out or Path("runs", "reproduce", options.model.replace("/", "--"))
    loading = {"dtype": options.dtype, "device": options.device}
    threads = 1 if _workers(options) > 1 else None
    return Job(
        subject, plan, find_experiments(options.only), folder, tuple(loading.items()), threads
    )


def _workers(options: argparse.Namespace) -> int:
    if options.workers is not None:
        return options.workers
    on_cpu = options.device is None or options.device == "cpu"
    return max(1, os.cpu_count() or 1) if options.model.startswith("mini-") and on_cpu else 1


def _reproduce(options: argparse.Namespace) -> int:
    job, workers, console = _job(options), _workers(options), Console()
    if options.plan:
        _show_plan(estimate(job, workers), workers, console)
        return 0
    verdicts = reproduce(job, workers=workers, also=options.also, progress=True)
    if options.csv is not None:
        _write_csv(job, options.model, options.csv)
    console.print(claims_table(verdicts))
    console.print(f"All tables and figures: {job.folder / 'report.html'}", soft_wrap=True)
    return 0


def claims_table(verdicts: list[claims.Verdict]) -> Table:
    """The claims as a table for the terminal."""
    table = Table(title="The paper's claims", title_justify="left", title_style="bold")
    for heading in ("claim", "says", "verdict", "effect [95%]", "hold"):
        table.add_column(heading)
    for verdict in verdicts:
        table.add_row(
            verdict.claim, verdict.statement, verdict.verdict, _effect(verdict),
            f"{verdict.n_hold} of {verdict.n}" if verdict.n else "",
        )  # fmt: skip
    return table


def _effect(verdict: claims.Verdict) -> str:
    if verdict.verdict == "not tested" or math.isnan(verdict.effect):
        return escape(verdict.note)
    if math.isnan(verdict.low):
        return f"{verdict.effect:+.3f} {verdict.unit}"
    span = f"[{verdict.low:+.3f}, {verdict.high:+.3f}]"
    return escape(f"{verdict.effect:+.3f} {span} {verdict.unit}")


def _write_csv(job: Job, model: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ending = model.split("/")[-1]
    for file in sorted(job.folder.glob("*.parquet")):
        write_csv(folder / f"{file.stem}_{ending}.csv", read_table(file))


def _show_plan(found: Estimate, workers: int, console: Console) -> None:
    table = Table(title=found.title, title_justify="left", title_style="bold")
    for heading in ("work", "pieces", "there already", "time left"):
        table.add_column(heading, justify="left" if heading == "work" else "right")
    for line in found.lines:
        table.add_row(line.title, str(line.n_cells), str(line.n_done), duration(line.seconds))
    console.print(table)
    console.print(
        f"About {duration(found.seconds)} with {workers} "
        f"{'process' if workers == 1 else 'processes'} and {found.memory / 2**30:.1f} GiB of "
        "memory each for weights, optimiser and activations. Nothing was run.",
        soft_wrap=True, highlight=False,
    )  # fmt: skip
