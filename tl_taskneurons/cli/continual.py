"""The command ``continual``: tasks in a row, by one or several methods."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.table import Table

from tl_taskneurons.cli.options import (
    Flat,
    Out,
    Source,
    check_sources,
    check_writable,
    offer,
    several,
    usual_shots,
)  # fmt: skip
from tl_taskneurons.cli.settings import require_at_least
from tl_taskneurons.continual.methods import METHODS
from tl_taskneurons.continual.orders import ORDERS
from tl_taskneurons.continual.orders import order as tasks_of_order
from tl_taskneurons.runtime.console import console, table
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.options import require_seed
from tl_taskneurons.tasks.prompts import Prompt
from tl_taskneurons.training.settings import Training

if TYPE_CHECKING:
    from tl_taskneurons.continual import SequenceResult
    from tl_taskneurons.runtime.run_folder import RunFolder

_EXAMPLE = """\
examples:
  tl-taskneurons continual --model mini-llama-base --order mini1 \\
      --method ncft,seq-ft --steps 40 --lr 1e-2 --limit 400 --test-limit 50 \\
      --out runs/row
  tl-taskneurons continual --model smollm2-135m --data my_tasks/ \\
      --tasks dbpedia,amazon,yahoo --method w-ncft --limit 200 --test-limit 50 \\
      --out runs/row2

Trains the tasks one after another and tests all of them after each. The folder gets \
summary.parquet (CL, FG, transfer), stages.parquet, scores.parquet (every task after every stage), \
forgetting.png, and what each stage learned under pieces/. Call the same command again to go on \
where it was stopped; other methods, also with another --lr, can be added to the folder by another \
call, and the tables then have them all.
"""
_USUAL = Training()
_TABLES = ("summary", "stages", "scores", "alone")


@dataclass(frozen=True, kw_only=True)
class InARow(Source):
    """Which tasks in a row, and how they are learned.

    Attributes:
        fraction: share of all neurons that a task gets.
        score_limit: neurons are chosen by the scores of at most so many train examples.
        lr: highest learning rate.
        steps: updates of each stage (default: from --epochs).
        epochs: passes over a task's examples.
        batch_size: examples of an update.
        limit: train examples per task (default: all).
        test_limit: test examples per task (default: all).
        shots: solved examples in front of each prompt (default: 4; 0 for the mini models).
        seed: of prompts, examples and adapters.
        out: folder for the results.
    """

    order: Annotated[
        str | None,
        Parameter(completer=offer(ORDERS), help=f"in place of --tasks: one of {', '.join(ORDERS)}, "
                  "or names with commas between."),
    ] = None  # fmt: skip
    methods: Annotated[tuple[str, ...], several(METHODS, "--method")] = ("ncft",)
    fraction: float = 0.1
    score_limit: int = 100
    lr: float = _USUAL.lr
    steps: int | None = None
    epochs: float = _USUAL.epochs
    batch_size: int = _USUAL.batch_size
    limit: int | None = None
    test_limit: int | None = None
    shots: int | None = None
    seed: int = 0
    out: Out = field()

    def __post_init__(self) -> None:
        """Refuse what could not work, before any model is loaded."""
        Source.__post_init__(self)
        if (self.order is None) == (not self.tasks):
            raise InputError("Give either --order or --tasks, which says what comes after what.")
        if not self.methods:
            raise InputError("method is empty; name at least one.")
        for name in self.methods:
            METHODS.find(name)
        require_seed(self.seed)
        require_at_least(self, shots=0, limit=1, test_limit=1, score_limit=1)
        if not 0 < self.fraction <= 1:
            raise InputError(f"fraction is {self.fraction}; it must be in (0, 1].")

    @property
    def row(self) -> tuple[str, ...]:
        """The names of the tasks, in their order."""
        return self.tasks if self.order is None else tasks_of_order(self.order)

    @property
    def training(self) -> Training:
        """How a stage is trained."""
        return Training(
            lr=self.lr, steps=self.steps, epochs=self.epochs, batch_size=self.batch_size
        )


def continual(settings: Annotated[InARow, Flat]) -> None:
    """Train tasks in a row and see what is forgotten."""
    training = settings.training
    check_sources(settings.data, settings.row, columns=settings.mapping)
    out = settings.out
    check_writable(out)
    from tl_taskneurons.continual import find_method, run_sequence
    from tl_taskneurons.models.view import view
    from tl_taskneurons.runtime.run_folder import RunFolder
    from tl_taskneurons.tasks.task import tasks_digest

    for name in settings.methods:
        find_method(name, settings.fraction, settings.score_limit)
    tasks = settings.read(settings.row)
    prompt = Prompt(shots=usual_shots(settings.model, settings.shots), seed=settings.seed)
    arguments = {
        "model": settings.model, "data": settings.data, "order": list(settings.row),
        "dtype": settings.dtype, "shots": prompt.shots, "limit": settings.limit,
        "test_limit": settings.test_limit, "seed": settings.seed,
    }  # fmt: skip
    with RunFolder.open(out, arguments, kind="continual") as run:
        model = settings.load()
        run.confirm(fingerprint=view(model).fingerprint, tasks_digest=tasks_digest(tasks))
        results = [
            run_sequence(
                model, tasks, name, training, fraction=settings.fraction,
                score_limit=settings.score_limit, seed=settings.seed, prompt=prompt,
                limit=settings.limit, test_limit=settings.test_limit,
                folder=run.file("rows", name), store=run.file("pieces"), progress=True,
            )
            for name in settings.methods
        ]  # fmt: skip
        _publish(results, run)
        run.finish()
    screen = console()
    for result in results:
        title = f"{result.method}: score of each task (rows) after each stage (columns)"
        values = zip(result.order, result.matrix.to_numpy(), result.alone["value"], strict=True)
        rows = [(name, *(f"{v:.3f}" for v in (*scores, alone))) for name, scores, alone in values]
        screen.print(table(title, ("task", "base", *result.order, "alone"), rows))
    screen.print(_summary_table(results))
    screen.print(f"Tables and pieces are in {out}", soft_wrap=True)


COMMANDS = {continual: _EXAMPLE}


def _publish(results: "Sequence[SequenceResult]", run: "RunFolder") -> None:
    """Keep each method's tables with its row, and publish those of all methods together."""
    import pandas as pd

    from tl_taskneurons.plots import forgetting_curves, save
    from tl_taskneurons.runtime.roles import current_role
    from tl_taskneurons.runtime.table_files import read_table, stamp, write_table

    for result in results:
        for name in _TABLES:
            frame = stamp(getattr(result, name), method=result.method)
            write_table(run.file("rows", result.method, f"{name}.parquet"), frame)
    if not current_role().leads:
        return
    rows = {path.name: path for path in run.file("rows").iterdir()}
    done = [rows[method] for method in METHODS if method in rows]
    tables = {
        name: pd.concat(
            [read_table(path) for row in done if (path := row / f"{name}.parquet").exists()],
            ignore_index=True,
        )
        for name in _TABLES
    }
    files: dict[str, Callable[[Path], None]] = {
        f"{name}.parquet": lambda path, frame=frame: write_table(path, frame)
        for name, frame in tables.items()
    }
    curves = tables["stages"].dropna(subset="fg").assign(low=float("nan"), high=float("nan"))
    if len(curves):
        files["forgetting.png"] = lambda path: save(forgetting_curves(curves), path)
    run.publish(files)


def _summary_table(results: "Sequence[SequenceResult]") -> Table:
    headings = {
        "method": "method", "cl": "mean score (CL)", "fg": "kept (FG)", "bwt": "backward",
        "fwt": "forward", "alone": "alone", "seconds": "seconds",
    }  # fmt: skip
    lines = [line for r in results for line in r.summary[list(headings)].itertuples(index=False)]
    rows = [(line[0], *(f"{v:.3f}" for v in line[1:-1]), f"{line[-1]:.1f}") for line in lines]
    return table("After the last stage", tuple(headings.values()), rows)
