"""The command ``continual``: tasks in a row, by one or several methods."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from tl_taskneurons.cli.options import add_sources, names, shots_of
from tl_taskneurons.continual import METHODS, ORDERS, SequenceResult, find_method, run_sequence
from tl_taskneurons.continual.orders import order as tasks_of_order
from tl_taskneurons.loading.models import load_model
from tl_taskneurons.loading.tasks import load_tasks
from tl_taskneurons.plots import forgetting_curves, save
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.table_files import stamp, write_table
from tl_taskneurons.tasks.prompts import Prompt
from tl_taskneurons.training.settings import Training

_EXAMPLE = """\
examples:
  tl-taskneurons continual --model mini-llama-base --order mini1 --method ncft,seq-ft \\
      --steps 40 --lr 1e-2 --limit 400 --test-limit 50 --out runs/row
  tl-taskneurons continual --model smollm2-135m --data my_tasks/ --tasks dbpedia,amazon,yahoo \\
      --method w-ncft --limit 200 --test-limit 50 --out runs/row2

Trains the tasks one after another and tests all of them after each. The folder gets
summary.parquet (CL, FG, transfer), stages.parquet, scores.parquet (every task after every stage),
forgetting.png, and what each stage learned under pieces/. Call the same command again to go on
where it was stopped; a method with another --lr can be added to the folder by another call.
"""


def add_continual_command(commands: Any) -> None:
    """Add the command to the command line's parser."""
    about = "train tasks in a row and see what is forgotten"
    sub = commands.add_parser(
        "continual", help=about, description=about.capitalize() + ".", epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    sub.set_defaults(command=_continual, shares=True)
    sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
    add_sources(sub, required=True, tasks_required=False)
    sub.add_argument(
        "--order", help=f"in place of --tasks: one of {', '.join(ORDERS)}", metavar="NAME"
    )
    sub.add_argument(
        "--method", type=names, default=("ncft",),
        help="one or several with commas between. "
        + "; ".join(f"{name}: {text}" for name, text in METHODS.items()) + " (default: ncft)",
    )  # fmt: skip
    sub.add_argument("--out", required=True, type=Path, help="folder for the results")
    usual = Training()
    sub.add_argument(
        "--fraction", type=float, default=0.1,
        help="share of all neurons that a task gets (default: %(default)s)",
    )  # fmt: skip
    sub.add_argument(
        "--score-limit", type=int, default=100,
        help="neurons are chosen by the scores of at most so many train examples "
        "(default: %(default)s)",
    )  # fmt: skip
    sub.add_argument(
        "--lr", type=float, default=usual.lr, help="highest learning rate (default: %(default)s)"
    )
    sub.add_argument("--steps", type=int, help="updates of each stage (default: from --epochs)")
    sub.add_argument(
        "--epochs", type=float, default=usual.epochs,
        help="passes over a task's examples (default: %(default)s)",
    )  # fmt: skip
    sub.add_argument(
        "--batch-size", type=int, default=usual.batch_size,
        help="examples of an update (default: %(default)s)",
    )  # fmt: skip
    sub.add_argument("--limit", type=int, help="train examples per task (default: all)")
    sub.add_argument("--test-limit", type=int, help="test examples per task (default: all)")
    sub.add_argument(
        "--shots", type=int,
        help="solved examples in front of each prompt (default: 4; 0 for the mini models)",
    )  # fmt: skip
    sub.add_argument(
        "--seed", type=int, default=0, help="of prompts, examples and adapters (default: 0)"
    )


def _continual(options: argparse.Namespace) -> int:
    if (options.order is None) == (options.tasks is None):
        raise InputError("Give either --order or --tasks, which says what comes after what.")
    for name in options.method:
        # Cheap and often wrong, so before the model.
        find_method(name, options.fraction, options.score_limit)
    row = tasks_of_order(options.order) if options.tasks is None else options.tasks
    training = Training(
        lr=options.lr, steps=options.steps, epochs=options.epochs, batch_size=options.batch_size
    )
    tasks = load_tasks(options.data, row)
    model = load_model(options.model, kind=options.kind, dtype=options.dtype, device=options.device)
    results = [
        run_sequence(
            model, tasks, name, training, fraction=options.fraction,
            score_limit=options.score_limit, seed=options.seed,
            prompt=Prompt(shots=shots_of(options), seed=options.seed), limit=options.limit,
            test_limit=options.test_limit, folder=options.out / "rows" / name,
            store=options.out / "pieces", progress=True,
        )
        for name in options.method
    ]  # fmt: skip
    _write(results, options.out)
    console = Console()
    for result in results:
        console.print(_matrix_table(result))
    console.print(_summary_table(pd.concat([result.summary for result in results])))
    console.print(f"Tables and pieces are in {options.out}", soft_wrap=True, highlight=False)
    return 0


def _write(results: Sequence[SequenceResult], out: Path) -> None:
    tables = {
        name: pd.concat(
            [stamp(getattr(result, name), method=result.method) for result in results],
            ignore_index=True,
        )
        for name in ("summary", "stages", "scores", "alone")
    }
    for name, table in tables.items():
        write_table(out / f"{name}.parquet", table)
    curves = tables["stages"].dropna(subset="fg").assign(low=float("nan"), high=float("nan"))
    if len(curves):
        save(forgetting_curves(curves), out / "forgetting.png")


def _matrix_table(result: SequenceResult) -> Table:
    title = f"{result.method}: score of each task (rows) after each stage (columns)"
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in ("task", "base", *result.order, "alone"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    rows = zip(result.order, result.matrix.to_numpy(), result.alone["value"], strict=True)
    for name, values, alone in rows:
        table.add_row(name, *(f"{value:.3f}" for value in (*values, alone)))
    return table


def _summary_table(summary: pd.DataFrame) -> Table:
    table = Table(title="After the last stage", title_justify="left", title_style="bold")
    headings = {
        "method": "method", "cl": "mean score (CL)", "fg": "kept (FG)", "bwt": "backward",
        "fwt": "forward", "alone": "alone", "seconds": "seconds",
    }  # fmt: skip
    for heading in headings.values():
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for line in summary[list(headings)].itertuples(index=False):
        table.add_row(str(line[0]), *(f"{value:.3f}" for value in line[1:-1]), f"{line[-1]:.1f}")
    return table
