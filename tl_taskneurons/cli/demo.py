"""A first look: find the neurons of four tasks in SmolLM2-135M, silence them, see what breaks.

``make demo`` runs it. Stop it at any moment and call it again: it goes on where it stopped.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tl_taskneurons.cli.settings import Settings
from tl_taskneurons.cli.study import deactivate, detect, open_study
from tl_taskneurons.evaluation.tables import diagonal_wins
from tl_taskneurons.report.terminal import deactivation_report, draw
from tl_taskneurons.runtime.console import console
from tl_taskneurons.runtime.table_files import read_table

# Tasks that SmolLM2-135M can do with four solved examples: what it fails has no neurons to find.
TASKS = ("present_past", "singular_plural", "city_country", "country_demonym")
SELECTIONS = ("plain", "exclusive")

_MEANING = """\
How to read it
  original      correct answers of the untouched model (%)
  random        the same with as many random neurons silenced, layer by layer
  own silenced  the same with the task's own neurons silenced; far below random
                means that they matter
  others' drop  what silencing this task's neurons costs the other tasks, in points
  specificity   own drop less others' drop: near 0, the neurons serve every task
                alike; high, they serve this one"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tl_taskneurons.cli.demo", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, for a test of the set-up")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    settings = demo_settings(options.model, quick=options.quick)
    screen = console()
    try:
        with open_study(settings, options.out, deactivating=True, progress=True) as study:
            screen.print(
                f"{study.view.name}: {study.view.n_layers} layers of {study.view.d_mlp:,} MLP "
                f"neurons; tasks {', '.join(settings.tasks)}; the top {settings.fraction:.0%}"
            )
            tables = deactivate(study, detect(study))
            files = draw(study.run, read_table(study.run.file("layers.parquet")), tables)
            study.run.finish()
    except KeyboardInterrupt:
        sys.stderr.write(f"stopped. Call it again to go on where it stopped ({options.out}).\n")
        return 130
    for table in deactivation_report(tables["table"], wide=screen.width >= 110):
        screen.print(table)
    screen.print(f"{_MEANING}\n", soft_wrap=True)
    for line in findings(tables["table"], tables["matrix"]):
        screen.print(line)
    screen.print(f"\nPicture: {files[0]}", soft_wrap=True)
    screen.print(f"Tables:  {options.out / 'deactivation_table.parquet'} and others beside it",
                  soft_wrap=True)  # fmt: skip
    screen.print(f"It took {time.perf_counter() - start:.0f} s.")
    return 0


def demo_settings(model: str = "smollm2-135m", *, quick: bool = False) -> Settings:
    """Return the settings of the demo, or of a tiny one."""
    limit, test_limit, controls = (4, 4, 2) if quick else (48, 32, 5)
    return Settings(
        model=model, tasks=TASKS, selections=SELECTIONS, limit=limit, test_limit=test_limit,
        controls=controls,
    )  # fmt: skip


def findings(table: pd.DataFrame, matrix: pd.DataFrame) -> list[str]:
    """Say in one line per selection what came out, in numbers."""
    lines = []
    for selection, part in table.groupby("selection", sort=False):
        wins = diagonal_wins(matrix[matrix["selection"] == selection])
        random_drop = (part["original"] - part["random"]).mean()
        lines.append(
            f"{selection}: silencing a task's {part['n_neurons'].mean():.0f} neurons (mean) costs "
            f"it {100 * part['drop'].mean():.0f} points, the other tasks "
            f"{100 * part['others_drop'].mean():.0f}; as many random ones cost "
            f"{100 * random_drop:.0f}. Its own loss rises most in {wins['rows']} of "
            f"{wins['tasks']} rows."
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
