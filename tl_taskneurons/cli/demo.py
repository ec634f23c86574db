"""A first look: find the neurons of four tasks in SmolLM2-135M, silence them, see what breaks.

Each table is shown as soon as it is known: first one task alone, then all four by each selection.
For the first task it then searches the few neurons that take it and spare the others.

``make demo`` runs it. Stop it at any moment and call it again: it goes on where it stopped.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from tl_taskneurons.analysis.question import Question
from tl_taskneurons.analysis.search import Limits, find_neurons
from tl_taskneurons.cli.search import write_found
from tl_taskneurons.cli.settings import Settings
from tl_taskneurons.cli.study import Study, deactivate, detect, open_study, score_task
from tl_taskneurons.evaluation.deactivation import conditions, evaluate_condition
from tl_taskneurons.evaluation.tables import (
    deactivation_matrix,
    deactivation_table,
    diagonal_wins,
)
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.plots import found_figure, save
from tl_taskneurons.report.terminal import deactivation_report, draw
from tl_taskneurons.runtime.console import console, table
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.run_folder import RunFolder, file_name
from tl_taskneurons.runtime.table_files import read_csv, read_table, write_table

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
                alike; high, they serve this one
  split-half    share of the neurons that return when half the examples choose them"""

# Fewer examples and checks than the default, and one draw of demonstrations, for a demo of two
# minutes.
_LIMITS = Limits(outside=(0.01,), first=8, checks=8)


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
            screen.print(first_table(study))
            sets = detect(study)
            done: dict[str, dict[str, NeuronSet]] = {}
            tables: dict[str, pd.DataFrame] = {}
            for selection, chosen in sets.items():
                done[selection] = chosen
                tables = deactivate(study, done)  # what was done before is read from its files
                show(tables["table"], selection, screen)
            files = draw(study.run, read_table(study.run.file("layers.parquet")), tables)
            tables = add_found(study, tables, 4 if options.quick else 16)
            show(tables["table"], "found", screen)
            files = [*draw_found(study.run, tables), *files]
            study.run.finish()
    except KeyboardInterrupt:
        sys.stderr.write(f"stopped. Call it again to go on where it stopped ({options.out}).\n")
        return 130
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


def first_table(study: Study) -> Table:
    """Return what silencing does to the first task alone; only this task's scores are needed."""
    settings, task = study.settings, study.tasks[0]
    plain = score_task(study, task).top(fraction=settings.fraction)
    items = pd.concat([
        study.run.unit(
            f"first/{condition.kind}",
            lambda condition=condition: evaluate_condition(
                study.model, task, condition, prompt=settings.prompt,
                limit=settings.test_limit, share_prefix=True,
            ),
        )
        for condition in conditions({task.name: plain}, controls=1)
    ])  # fmt: skip
    states = {
        "as it is": "none",
        f"its {len(plain):,} neurons silenced": "task",
        "as many random ones silenced": "random",
    }
    found = {state: items[items["kind"] == kind] for state, kind in states.items()}
    return table(
        f"First: {task.name}, its top {settings.fraction:.0%}, on {settings.test_limit} examples",
        ("", "correct", "loss, nats per token"),
        [
            (state, f"{part['score'].mean():.0%}", f"{part['loss'].mean():.2f}")
            for state, part in found.items()
        ],
    )


def show(measured: pd.DataFrame, selection: str, screen: Console) -> None:
    """Print the table of one selection, where it has one."""
    part = measured[measured["selection"] == selection]
    for shown in deactivation_report(part, wide=screen.width >= 110):
        screen.print(shown)


def add_found(
    study: Study, tables: dict[str, pd.DataFrame], n_examples: int
) -> dict[str, pd.DataFrame]:
    """Search for few neurons of the first task, and add what silencing them does to the tables.

    Args:
        study: the model, the tasks, and the scores that detection wrote.
        tables: those of ``deactivate``.
        n_examples: training examples of each task to search on, and as many to measure on.
    """
    settings, run = study.settings, study.run
    task, *others = study.tasks
    name = file_name(task.name)
    known = {one.name: NeuronScores.load(run.file("scores", f"{file_name(one.name)}.safetensors"))
             for one in study.tasks}  # fmt: skip
    kept = run.file(f"{name}.safetensors")  # written last
    if not kept.exists():
        question = Question(
            prompt=settings.prompt,
            n_score=n_examples,
            n_held=n_examples,
            n_spared=n_examples,
            draws=1,
        )
        try:
            found = find_neurons(
                study.model, task, others, limits=_LIMITS, question=question, progress=True,
                known={other.name: known[other.name] for other in others},
            )  # fmt: skip
        except InputError as error:  # a model that can't do the task
            console().print(f"No search for few neurons: {error}", soft_wrap=True)
            return tables
        write_found(found, known[task.name], run.file)
    frames = [
        run.unit(
            "original" if condition.kind == "none" else f"found/{condition.kind}{condition.seed}",
            lambda condition=condition: evaluate_condition(
                study.model, study.tasks, condition, prompt=settings.prompt,
                limit=settings.test_limit, share_prefix=True,
            ),
        )
        for condition in conditions({task.name: NeuronSet.load(kept)}, controls=settings.controls)
    ]  # fmt: skip
    items = pd.concat(frames, ignore_index=True)
    columns = {"selection": "found", "fraction": settings.fraction}
    found_tables = {
        "table": deactivation_table(items).assign(**columns),
        "matrix": deactivation_matrix(items).assign(**columns),
    }
    for key, found_table in found_tables.items():
        write_table(run.file(f"found_{key}.parquet"), found_table)
    return tables | {
        key: pd.concat([tables[key], found], ignore_index=True)
        for key, found in found_tables.items()
    }


def draw_found(run: RunFolder, tables: dict[str, pd.DataFrame]) -> list[Path]:
    """Draw the search beside the selections; return the file, where there was a search."""
    searches = sorted(run.path.glob("*_search.csv"))
    if "found" not in set(tables["table"]["selection"]) or not searches:
        return []
    file = run.file("found.png")
    save(found_figure(tables["matrix"], read_csv(searches[0])), file)
    return [file]


def findings(measured: pd.DataFrame, matrix: pd.DataFrame) -> list[str]:
    """Say in one line per selection what came out, in numbers."""
    lines = []
    for selection, part in measured.groupby("selection", sort=False):
        if selection == "found":
            row = part.iloc[0]
            lines.append(
                f"found: silencing the {row['n_neurons']} neurons that the search found costs "
                f"{row['task']} {100 * row['drop']:.0f} points, the other tasks "
                f"{100 * row['others_drop']:.0f}."
            )
            continue
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
