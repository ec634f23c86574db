"""The commands ``finetune``, ``apply`` and ``merge``."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import reduce
from operator import add, or_
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tl_taskneurons.cli.options import add_sources, shots_of
from tl_taskneurons.evaluation.evaluate import evaluate
from tl_taskneurons.loading.models import load_model
from tl_taskneurons.loading.tasks import load_tasks
from tl_taskneurons.neurons.attribution import score_neurons
from tl_taskneurons.neurons.methods import METHODS, SELECTIONS
from tl_taskneurons.neurons.selection import select
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.errors import InputError, MissingFileError
from tl_taskneurons.runtime.roles import current_role
from tl_taskneurons.runtime.run_folder import file_name
from tl_taskneurons.tasks.prompts import Prompt
from tl_taskneurons.tasks.task import Tasks
from tl_taskneurons.training.deltas import NeuronDelta
from tl_taskneurons.training.finetune import finetune
from tl_taskneurons.training.loop import loss_texts
from tl_taskneurons.training.settings import Training

_FINETUNE_EXAMPLE = """\
examples:
  tl-taskneurons finetune --model smollm2-135m --tasks present_past --fraction 0.10 \\
      --limit 48 --epochs 3 --test-limit 32 --out present_past.safetensors
  tl-taskneurons finetune --model mini-llama --tasks mini_food,mini_news \\
      --neurons runs/mini --selection plain --lr 3e-4 --validation 0.1 --patience 3 \\
      --out mini.safetensors

The neurons are found on the fly (--fraction), or are those that detect found in a run's folder
(--neurons); those of several tasks are trained together. The file holds the trained weights of
these neurons alone, for `apply`, `merge` and NeuronDelta.load. A stopped call goes on from its
checkpoint, OUT.checkpoint, when it is called again.
"""
_APPLY_EXAMPLE = """\
examples:
  tl-taskneurons apply --delta present_past.safetensors --model smollm2-135m --test-limit 32
  tl-taskneurons apply --delta one.safetensors two.safetensors --scale 0.5 \\
      --model smollm2-135m --tasks present_past,city_country

Shows the scores of the model alone and with the trained weights; several deltas are added up.
Tasks and prompts are those of the training unless you say otherwise.
"""
_MERGE_EXAMPLE = """\
example:
  tl-taskneurons merge --delta present_past.safetensors --model smollm2-135m --out merged/

Writes the trained model as a Hugging Face folder, which transformers and load_model read.
"""


def add_training_commands(commands: Any) -> None:
    """Add the three commands to the command line's parser."""
    sub = _command(commands, "finetune", _finetune, "train chosen neurons", _FINETUNE_EXAMPLE)
    sub.set_defaults(shares=True)
    add_sources(sub, required=True)
    _add_neurons(sub)
    _add_settings(sub)
    sub.add_argument(
        "--out", required=True, type=Path, dest="file", metavar="FILE.safetensors",
        help="file for the trained weights",
    )  # fmt: skip
    sub.add_argument(
        "--checkpoint", type=Path,
        help="file to go on from when stopped (default: OUT.checkpoint, removed at the end)",
    )  # fmt: skip
    _add_test_limit(sub)

    sub = _command(commands, "apply", _apply, "score a model with trained neurons", _APPLY_EXAMPLE)
    sub.set_defaults(shares=True)
    add_sources(sub, required=True, tasks_required=False)
    _add_deltas(sub)
    sub.add_argument(
        "--shots", type=int, help="solved examples in each prompt (default: as in the training)"
    )
    _add_test_limit(sub)

    sub = _command(commands, "merge", _merge, "write a model with trained neurons", _MERGE_EXAMPLE)
    sub.add_argument(
        "--model", required=True,
        help="the base model: a name, a Hugging Face id or folder, or a .gguf file",
    )  # fmt: skip
    _add_deltas(sub)
    sub.add_argument(
        "--out", required=True, type=Path, dest="folder", metavar="FOLDER", help="a new folder"
    )


def _command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    about: str,
    example: str,
) -> argparse.ArgumentParser:
    sub = commands.add_parser(
        name, help=about, description=about.capitalize() + ".", epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    sub.set_defaults(command=run)
    sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return sub


def _add_neurons(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--neurons", type=Path, metavar="RUN_DIR", help="take the sets that detect wrote there"
    )
    sub.add_argument(
        "--fraction", type=float, default=0.1,
        help="without --neurons: share of all neurons to find (default: %(default)s)",
    )  # fmt: skip
    sub.add_argument(
        "--method", default="grad_act", choices=[name for name in METHODS if name != "exact"],
        help="without --neurons: how to find them (default: %(default)s)",
    )  # fmt: skip
    sub.add_argument(
        "--selection", default="plain", choices=list(SELECTIONS),
        help="which sets: see detect --help (default: %(default)s)",
    )  # fmt: skip
    sub.add_argument(
        "--shots", type=int,
        help="solved examples in front of each prompt (default: 4; 0 for the mini models)",
    )  # fmt: skip
    sub.add_argument(
        "--limit", type=int, help="train examples per task, to find and to train (default: all)"
    )


def _add_settings(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("training")
    usual = Training()
    shown: tuple[tuple[str, Callable[[str], Any], str], ...] = (
        ("lr", float, "highest learning rate"),
        ("steps", int, "updates (default: as --epochs says)"),
        ("epochs", float, "passes over the examples"),
        ("batch_size", int, "examples of one forward pass"),
        ("accumulate", int, "forward passes of one update"),
        ("warmup", float, "share of the steps in which the rate rises"),
        ("weight_decay", float, "AdamW's, on the chosen neurons alone"),
        ("clip", float, "largest norm of the gradient"),
        ("seed", int, "of the order of examples, and of which are held out"),
        ("validation", float, "share of the train examples held out to watch the loss"),
        ("evaluate_every", int, "steps between two looks at it (default: once an epoch)"),
        ("patience", int, "stop after so many looks without a new lowest loss, and keep that"),
        ("checkpoint_every", int, "steps between two checkpoints"),
    )
    for name, kind, text in shown:
        default = getattr(usual, name)
        group.add_argument(
            f"--{name.replace('_', '-')}", type=kind, default=default,
            help=text + ("" if default is None else " (default: %(default)s)"),
        )  # fmt: skip
    group.add_argument(
        "--schedule", default=usual.schedule, choices=("cosine", "linear", "constant"),
        help="how the rate falls (default: %(default)s)",
    )  # fmt: skip


def _add_deltas(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--delta", required=True, nargs="+", type=Path, metavar="FILE",
        help="what finetune wrote; several are added up",
    )  # fmt: skip
    sub.add_argument(
        "--scale", type=float, default=1.0, help="times the change (default: %(default)s)"
    )


def _add_test_limit(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--test-limit", type=int, help="test examples per task (default: all)")


def _finetune(options: argparse.Namespace) -> int:
    if options.file.exists():
        raise FileExistsError(
            f"{options.file} exists; give another file or remove it. (tl-taskneurons apply shows "
            "the scores of a file that is there.)"
        )
    names = [field.name for field in fields(Training)]
    given = {name: getattr(options, name) for name in names if hasattr(options, name)}
    training = Training(**given)
    tasks = load_tasks(options.data, options.tasks)  # cheap and often wrong: before the model
    prompt = Prompt(shots=shots_of(options), seed=options.seed)
    model = _load(options)
    neurons = _neurons(options, model, tasks, prompt)
    console = Console()
    share = len(neurons) / neurons.mask.numel()
    console.print(f"{len(neurons):,} neurons, {share:.1%} of all", highlight=False)
    checkpoint = options.checkpoint or options.file.with_name(f"{options.file.name}.checkpoint")
    before = evaluate(model, tasks, prompt=prompt, limit=options.test_limit, progress=True)
    delta = finetune(
        model, list(tasks), neurons, training, prompt=prompt, limit=options.limit,
        checkpoint=checkpoint, progress=True,
    )  # fmt: skip
    delta.save(options.file)
    if options.checkpoint is None and current_role().leads:
        checkpoint.unlink(missing_ok=True)
    with delta.applied(model):
        after = evaluate(model, tasks, prompt=prompt, limit=options.test_limit, progress=True)
    for text in loss_texts(delta.history):
        console.print(text, highlight=False)
    console.print(_scores(before, after))
    console.print(f"The trained weights are in {options.file}", soft_wrap=True, highlight=False)
    return 0


def _apply(options: argparse.Namespace) -> int:
    deltas = [NeuronDelta.load(path) for path in options.delta]
    trained = dict.fromkeys(name for delta in deltas for name in delta.info.get("tasks", ()))
    if not (trained or options.tasks):
        raise InputError(f"{options.delta[0]} names no tasks; give --tasks.")
    tasks = load_tasks(options.data, options.tasks or tuple(trained))
    prompt = Prompt(**deltas[0].info.get("prompt", {}))
    if options.shots is not None:
        prompt = replace(prompt, shots=options.shots)
    model = _load(options)
    before = evaluate(model, tasks, prompt=prompt, limit=options.test_limit, progress=True)
    with _sum(deltas, options.scale).applied(model):
        after = evaluate(model, tasks, prompt=prompt, limit=options.test_limit, progress=True)
    Console().print(_scores(before, after))
    return 0


def _merge(options: argparse.Namespace) -> int:
    deltas = [NeuronDelta.load(path) for path in options.delta]
    folder = _sum(deltas, options.scale).merge(options.model, options.folder)
    Console().print(f"The merged model is in {folder}", soft_wrap=True, highlight=False)
    return 0


def _load(options: argparse.Namespace) -> Any:
    return load_model(options.model, kind=options.kind, dtype=options.dtype, device=options.device)


def _sum(deltas: Sequence[NeuronDelta], scale: float) -> NeuronDelta:
    total = reduce(add, deltas)
    return total if scale == 1.0 else total.scaled(scale)


def _neurons(options: argparse.Namespace, model: Any, tasks: Tasks, prompt: Prompt) -> NeuronSet:
    """The neurons of all tasks together."""
    if options.neurons is not None:
        folder = options.neurons / "sets" / options.selection
        if not folder.is_dir():
            there = sorted(path.name for path in (options.neurons / "sets").glob("*"))
            raise MissingFileError(
                f"{options.neurons} has no sets by the selection {options.selection!r} (it has "
                f"{', '.join(there) or 'none'}); give a folder that tl-taskneurons detect wrote."
            )
        sets = [NeuronSet.load(folder / f"{file_name(name)}.safetensors") for name in tasks.names]
    else:
        scores = {
            task.name: score_neurons(
                model, task, options.method, prompt=prompt, limit=options.limit,
                seed=options.seed, progress=True,
            )
            for task in tasks
        }  # fmt: skip
        sets = list(select(scores, options.selection, options.fraction).values())
    return reduce(or_, sets).rename("+".join(tasks.names))


def _scores(before: pd.DataFrame, after: pd.DataFrame) -> Table:
    """Scores on the test split before and after."""
    table = Table(title="On the test split", title_justify="left", title_style="bold")
    table.add_column("task")
    table.add_column("metric")
    for heading in ("n", "before", "after", "loss before", "loss after"):
        table.add_column(heading, justify="right")
    for one, other in zip(before.to_dict("records"), after.to_dict("records"), strict=True):
        table.add_row(
            escape(str(one["task"])), str(one["metric"]), str(one["n"]), _share(one["value"]),
            _share(other["value"]), f"{one['loss']:.3f}", f"{other['loss']:.3f}",
        )  # fmt: skip
    return table


def _share(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.1%}"
