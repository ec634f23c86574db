"""The command line: ``tl-taskneurons detect``, ``deactivate``, ``finetune`` and the rest."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tl_taskneurons.cli.continual import add_continual_command
from tl_taskneurons.cli.options import add_sources, names, shared, shots_of
from tl_taskneurons.cli.plan import add_plan_command
from tl_taskneurons.cli.reproduce import add_reproduce_command
from tl_taskneurons.cli.study import Settings, Study, deactivate, detect, open_study
from tl_taskneurons.cli.training import add_training_commands
from tl_taskneurons.loading.models import load_model
from tl_taskneurons.loading.tasks import load_tasks
from tl_taskneurons.models.view import ModelView, view
from tl_taskneurons.neurons.methods import METHODS, SELECTIONS
from tl_taskneurons.report.page import write_report
from tl_taskneurons.report.terminal import deactivation_report, detection_report, draw
from tl_taskneurons.runtime.errors import InputError, TaskNeuronsError
from tl_taskneurons.runtime.roles import current_role
from tl_taskneurons.runtime.table_files import read_table

_DETECT_EXAMPLE = """\
example:
  tl-taskneurons detect --model smollm2-135m --tasks present_past,city_country \\
      --fraction 0.01 --selection plain,exclusive --limit 48 --out runs/first
  tl-taskneurons detect --model mini-llama --tasks mini_food,mini_news --limit 100 \\
      --out runs/mini

The folder gets neurons.parquet (one row per neuron), layers.parquet, scores/ and sets/
(safetensors, for NeuronScores.load and NeuronSet.load), layers-*.png and run.json. Call the same
command again to go on where it was stopped.
"""
_DEACTIVATE_EXAMPLE = """\
example:
  tl-taskneurons deactivate --model smollm2-135m --tasks present_past,city_country \\
      --fraction 0.01 --selection plain,exclusive --limit 48 --test-limit 32 --out runs/first

Neurons that detect found in the same folder are used again. The folder gets
deactivation_table.parquet (original, random, own neurons silenced, specificity),
deactivation_matrix.parquet (tasks x tasks), deactivation_items.parquet (every answer), PNG figures
and run.json. Call the same command again to go on where it was stopped.
"""
_INFO_EXAMPLE = """\
example:
  tl-taskneurons info --model smollm2-135m
  tl-taskneurons info --data my_tasks/
"""

_REPORT_EXAMPLE = """\
example:
  tl-taskneurons report runs/first

Writes runs/first/report.html: the run's facts, tables and figures, and a view to look through the
neurons with the texts that excite them and the tokens they write. One file, which opens offline.
"""


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 2 for a user's error, 130 after Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = None
    try:
        options = _parser().parse_args(given)
        with shared(options):
            return options.command(options)
    except KeyboardInterrupt:
        out = getattr(options, "out", None)
        where = f" What is finished is in {out}." if out else ""
        return _fail(f"stopped.{where} Call the same command again to go on where it stopped.", 130)
    except (TaskNeuronsError, OSError) as error:
        if "--debug" in given:
            raise
        return _fail(f"error: {error or type(error).__name__}", 2)


def _detect(options: argparse.Namespace) -> int:
    with _study(options, deactivating=False) as study:
        detect(study)
        current_role().wait()
        layers = read_table(study.run.file("layers.parquet"))
        files = draw(study.run, layers, {})
        study.run.finish()
    _show(detection_report(layers), study.run.path, files)
    return 0


def _deactivate(options: argparse.Namespace) -> int:
    with _study(options, deactivating=True) as study:
        tables = deactivate(study, detect(study))
        current_role().wait()
        layers = read_table(study.run.file("layers.parquet"))
        files = draw(study.run, layers, tables)
        study.run.finish()
    wide = Console().width >= 110
    shown = [*detection_report(layers), *deactivation_report(tables["table"], wide=wide)]
    _show(shown, study.run.path, files)
    return 0


def _report(options: argparse.Namespace) -> int:
    file = write_report(
        options.run, out=options.file, neurons=options.neurons, texts=options.texts,
        device=options.device, progress=True,
    )  # fmt: skip
    console = Console()
    console.print(f"The report is {file}", soft_wrap=True, highlight=False)
    return 0


def _info(options: argparse.Namespace) -> int:
    console = Console()
    tasks = load_tasks(options.data, options.tasks)
    if options.model is not None:
        model = load_model(
            options.model, kind=options.kind, dtype=options.dtype, device=options.device
        )
        console.print(_model_table(view(model)))
    table = Table(title=f"Tasks of {options.data}", title_justify="left", title_style="bold")
    for heading in ("task", "family", "metric", "train", "test", "labels"):
        table.add_column(heading, justify="right" if heading in ("train", "test") else "left")
    for task in tasks:
        labels = ", ".join(task.labels) if len(task.labels) <= 6 else f"{len(task.labels)} labels"
        table.add_row(
            task.name, task.family, task.metric, str(len(task.train)), str(len(task.test)), labels
        )
    console.print(table)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tl-taskneurons",
        description="Find the MLP neurons of a language model that carry a task, and silence them.",
    )
    parser.set_defaults(out=None, shares=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    parts = (
        ("detect", _detect, "find each task's neurons", _DETECT_EXAMPLE),
        ("deactivate", _deactivate, "silence them and see what breaks", _DEACTIVATE_EXAMPLE),
        ("info", _info, "show a model's neurons and the tasks there are", _INFO_EXAMPLE),
    )  # fmt: skip
    for name, command, about, example in parts:
        sub = commands.add_parser(
            name, help=about, description=about.capitalize() + ".", epilog=example,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        sub.set_defaults(command=command, shares=name != "info")
        add_sources(sub, required=name != "info")
        if name != "info":
            _add_detection(sub)
        if name == "deactivate":
            _add_deactivation(sub)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
    _add_report(commands)
    add_training_commands(commands)
    add_continual_command(commands)
    add_reproduce_command(commands)
    add_plan_command(commands)
    return parser


def _add_report(commands: Any) -> None:
    about = "write one HTML page of a run"
    sub = commands.add_parser(
        "report", help=about, description=about.capitalize() + ".", epilog=_REPORT_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    sub.set_defaults(command=_report)
    sub.add_argument("run", type=Path, metavar="RUN_DIR", help="a folder that --out named")
    sub.add_argument("--file", type=Path, help="the page (default: RUN_DIR/report.html)")
    sub.add_argument(
        "--neurons", type=int, default=50,
        help="neurons to list for each task and selection (default: %(default)s)",
    )  # fmt: skip
    sub.add_argument(
        "--no-model", action="store_false", dest="texts",
        help="don't load the model: leave out what excites the neurons and what they write",
    )  # fmt: skip
    sub.add_argument(
        "--device", help="cpu, cuda, cuda:1 ... (default: the first GPU, else the CPU)"
    )
    sub.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _add_detection(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--out", required=True, type=Path, help="folder for the results")
    sub.add_argument(
        "--fraction", type=float, default=0.01,
        help="share of all neurons to select; 0.10 in the paper (default: %(default)s)",
    )  # fmt: skip
    sub.add_argument(
        "--method", default="grad_act",
        help="; ".join(f"{k}: {v}" for k, v in METHODS.items() if k != "exact").replace("%", "%%")
        + " (default: %(default)s)",
    )  # fmt: skip
    sub.add_argument(
        "--selection", type=names, default=("plain",),
        help="one or several with commas between. "
        + "; ".join(f"{name}: {text}" for name, text in SELECTIONS.items()) + " (default: plain)",
    )  # fmt: skip
    sub.add_argument(
        "--shots", type=int,
        help="solved examples in front of each prompt (default: 4; 0 for the mini models, which "
        "know bare questions only)",
    )  # fmt: skip
    sub.add_argument(
        "--limit", type=int, help="train examples per task for detection (default: all)"
    )
    sub.add_argument("--seed", type=int, default=0, help="of prompts and intervals (default: 0)")


def _add_deactivation(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--ablation", default="zero", choices=("zero", "mean"),
        help="set silenced neurons to 0 or to their mean activation (default: %(default)s)",
    )  # fmt: skip
    sub.add_argument("--test-limit", type=int, help="test examples per task (default: all)")
    sub.add_argument(
        "--controls", type=int, default=5,
        help="random sets per task, with as many neurons in each layer (default: %(default)s)",
    )  # fmt: skip


@contextmanager
def _study(options: argparse.Namespace, *, deactivating: bool) -> Iterator[Study]:
    settings = Settings(
        model=options.model, tasks=options.tasks, data=options.data, kind=options.kind,
        method=options.method, fraction=options.fraction, selections=options.selection,
        shots=shots_of(options), limit=options.limit, dtype=options.dtype, device=options.device,
        seed=options.seed,
    )  # fmt: skip
    if deactivating:
        settings = replace(
            settings, test_limit=options.test_limit, controls=options.controls,
            ablation=options.ablation,
        )  # fmt: skip
    with open_study(settings, options.out, deactivating=deactivating, progress=True) as study:
        yield study


def _show(tables: Sequence[Table], out: Path, files: Sequence[Path]) -> None:
    console = Console()
    for table in tables:
        console.print(table)
    console.print(f"Tables and sets are in {out}", soft_wrap=True, highlight=False)
    for file in files:
        console.print(f"  {file}", soft_wrap=True, highlight=False)


def _model_table(model: ModelView) -> Table:
    table = Table(title=f"Model {model.name}", title_justify="left", title_style="bold")
    table.add_column("what")
    table.add_column("value", overflow="fold")
    parts = model.layers[0].parameters
    shapes = ", ".join(f"{name} {list(part.oriented.shape)}" for name, part in parts.items())
    rows = {
        "class": "TransformerBridge" if model.is_bridge else "HookedTransformer",
        "layers": str(model.n_layers),
        "neurons per layer (d_mlp)": f"{model.d_mlp:,}",
        "neurons": f"{model.n_layers * model.d_mlp:,}",
        "gated": "yes" if model.gated else "no",
        "parameters": f"{sum(p.numel() for p in model.model.parameters()):,}",
        "dtype, device": f"{str(model.dtype).removeprefix('torch.')}, {model.device}",
        "fingerprint": model.fingerprint,
        "neuron hooks": f"{model.layers[0].hook} ... {model.layers[-1].hook}",
        "each layer's weights": shapes,
    }
    for name, value in rows.items():
        table.add_row(name, escape(value))
    return table


def _fail(message: str, code: int) -> int:
    # Not through rich, which would wrap the line.
    sys.stderr.write(" ".join(message.split()) + "\n")
    return code
