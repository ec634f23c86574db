"""The paper's deactivation in two minutes: twelve tasks, a Llama and a Bloom, both tiny.

``make demo-mini`` runs it. Each model runs in a process and on a thread of its own. Stop it at any
moment and call it again: it goes on where it stopped.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch

from tl_taskneurons import plots
from tl_taskneurons.cli.settings import Settings
from tl_taskneurons.cli.study import deactivate, detect, open_study
from tl_taskneurons.evaluation.tables import diagonal_wins
from tl_taskneurons.loading.tasks import load_tasks
from tl_taskneurons.report.terminal import deactivation_report
from tl_taskneurons.runtime.console import console
from tl_taskneurons.runtime.run_folder import RunFolder

MODELS = ("mini-llama", "mini-bloom")
SELECTIONS = ("plain",)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tl_taskneurons.cli.demo_mini", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="default: %(default)s")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo-mini"), help="default: %(default)s"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, for a test of the set-up")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    screen = console()
    settings = [demo_settings(model, quick=options.quick) for model in options.models]
    screen.print(
        f"{', '.join(options.models)}: {len(settings[0].tasks)} tasks, zero-shot; the top "
        f"{settings[0].fraction:.0%} of each task's neurons are silenced. The bar is the first "
        "model's; the others run beside it."
    )
    folders = [options.out / model for model in options.models]
    first = [True] + [False] * (len(folders) - 1)
    # New processes, not forks: a fork of a process that has used torch's threads can hang.
    with ProcessPoolExecutor(len(folders), mp_context=get_context("spawn")) as pool:
        try:
            results = list(pool.map(study_model, settings, folders, first))
        except KeyboardInterrupt:
            sys.stderr.write(f"stopped. Call it again to go on where it stopped ({options.out}).\n")
            return 130
    for model, tables in zip(options.models, results, strict=True):
        screen.rule(model)
        for table in deactivation_report(tables["table"], wide=screen.width >= 110):
            screen.print(table)
        for line in findings(tables["table"], tables["matrix"]):
            screen.print(line)
    for folder in folders:
        screen.print(f"Pictures and tables: {folder}", soft_wrap=True)
    screen.print(f"It took {time.perf_counter() - start:.0f} s.")
    return 0


def demo_settings(model: str, *, quick: bool = False) -> Settings:
    """Return the settings of the demo for one model, or of a tiny one."""
    limit, test_limit, controls = (4, 4, 2) if quick else (100, 32, 5)
    return Settings(
        model=model, tasks=load_tasks("mini", limit=1).names, data="mini", fraction=0.10,
        selections=SELECTIONS, shots=0, limit=limit, test_limit=test_limit, controls=controls,
        max_new_tokens=24,
    )  # fmt: skip


def study_model(settings: Settings, out: Path, progress: bool) -> dict[str, pd.DataFrame]:
    """Find and silence the neurons of every task in one model, on one thread.

    Returns:
        ``"table"`` and ``"matrix"``, as in ``deactivate``; the folder gets figures, too.
    """
    torch.set_num_threads(1)
    with open_study(settings, out, deactivating=True, progress=progress) as study:
        tables = deactivate(study, detect(study))
        draw(study.run, tables)
        study.run.finish()
    return {name: tables[name] for name in ("table", "matrix")}


def draw(run: RunFolder, tables: dict[str, pd.DataFrame]) -> None:
    """Write bars and matrices of every selection as PNG files."""
    for name in tables["table"]["selection"].unique():
        table, matrix = (
            frame[frame["selection"] == name] for frame in (tables["table"], tables["matrix"])
        )
        figures = {
            "bars": plots.deactivation_bars(table),
            "matrix": plots.deactivation_heatmap(matrix, "change"),
            "matrix-loss": plots.deactivation_heatmap(matrix, "loss_change"),
        }
        for kind, figure in figures.items():
            plots.save(figure, run.file(f"{kind}-{name}.png"))


def findings(table: pd.DataFrame, matrix: pd.DataFrame) -> list[str]:
    """Say in one line per selection what came out, in numbers."""
    lines = []
    for selection, part in table.groupby("selection", sort=False):
        own = matrix[matrix["selection"] == selection]
        loss, score = (diagonal_wins(own, column) for column in ("loss_change", "change"))
        worse = (part["silenced"] < part["random"]).sum()
        means = 100 * part[["original", "random", "silenced"]].mean()
        lines.append(
            f"{selection}: original {means['original']:.0f}, random neurons silenced "
            f"{means['random']:.0f}, own {means['silenced']:.0f} (own below random in {worse} of "
            f"{len(part)} tasks). A task's own neurons hurt it most in {loss['rows']} rows and "
            f"{loss['columns']} columns of {loss['tasks']} by loss, in {score['rows']} and "
            f"{score['columns']} by score."
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
