"""The commands ``finetune``, ``apply`` and ``merge``."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add, or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from tl_taskneurons.cli.options import (
    Flat,
    Many,
    Names,
    Source,
    check_writable,
    listed,
    offer,
    usual_shots,
)  # fmt: skip
from tl_taskneurons.cli.settings import SCORED, check_method, require_at_least
from tl_taskneurons.neurons.methods import SELECTIONS
from tl_taskneurons.runtime.console import console, table
from tl_taskneurons.runtime.errors import ExistsError, InputError, MissingFileError
from tl_taskneurons.runtime.options import require_seed
from tl_taskneurons.runtime.roles import current_role
from tl_taskneurons.tasks.prompts import Prompt
from tl_taskneurons.tasks.task import Tasks
from tl_taskneurons.training.settings import Training

if TYPE_CHECKING:
    import pandas as pd

    from tl_taskneurons.models.protocol import LanguageModel
    from tl_taskneurons.neurons.sets import NeuronSet
    from tl_taskneurons.training.deltas import NeuronDelta

_FINETUNE_EXAMPLE = """\
examples:
  tl-taskneurons finetune --model smollm2-135m --tasks present_past \\
      --fraction 0.10 --limit 48 --epochs 3 --test-limit 32 \\
      --out present_past.safetensors
  tl-taskneurons finetune --model mini-llama --tasks mini_food,mini_news \\
      --neurons runs/mini --selection plain --lr 3e-4 --validation 0.1 \\
      --patience 3 --out mini.safetensors

The neurons are found on the fly (--fraction), are those that detect found in a run's folder, or \
those that a file lists (--neurons); those of several tasks are trained together. The file holds \
the trained weights of these neurons alone, for `apply`, `merge` and NeuronDelta.load. A stopped \
call goes on from its checkpoint, OUT.checkpoint, when it is called again.
"""
_APPLY_EXAMPLE = """\
examples:
  tl-taskneurons apply --delta present_past.safetensors --model smollm2-135m \\
      --test-limit 32
  tl-taskneurons apply --delta one.safetensors two.safetensors --scale 0.5 \\
      --model smollm2-135m --tasks present_past,city_country

Shows the scores of the model alone and with the trained weights; several deltas are added up. \
Tasks and prompts are those of the training unless you say otherwise.
"""
_MERGE_EXAMPLE = """\
example:
  tl-taskneurons merge --delta present_past.safetensors --model smollm2-135m \\
      --out merged/

Writes the trained model as a Hugging Face folder, which transformers and load_model read.
"""


@dataclass(frozen=True, kw_only=True)
class Chosen(Source):
    """Which neurons to train.

    Attributes:
        tasks: names with commas between, e.g. present_past,city_country.
        neurons: take the sets that detect wrote into this folder, or those that a file lists (JSON
            or CSV, see export; or what NeuronSet.save wrote).
        fraction: without --neurons: share of all neurons to find.
        shots: solved examples in front of each prompt (default: 4; 0 for the mini models).
        limit: train examples per task, to find and to train (default: all).
        test_limit: test examples per task (default: all).
    """

    tasks: Names = field()
    neurons: Path | None = None
    fraction: float = 0.1
    method: Annotated[
        str,
        Parameter(completer=offer(SCORED), help="without --neurons: how to find them; one of "
                  f"{', '.join(SCORED)} (see detect --help)."),
    ] = "grad_act"  # fmt: skip
    selection: Annotated[
        str, Parameter(completer=offer(SELECTIONS), help=f"which sets. {listed(SELECTIONS)}.")
    ] = "plain"
    shots: int | None = None
    limit: int | None = None
    test_limit: int | None = None

    def __post_init__(self) -> None:
        """Refuse what could not work, before any model is loaded."""
        Source.__post_init__(self)
        if not self.tasks:
            raise InputError("--tasks is empty; name at least one task to train on.")
        check_method(self.method)
        SELECTIONS.find(self.selection)
        if not 0 < self.fraction <= 1:
            raise InputError(f"fraction is {self.fraction}; it must be in (0, 1].")
        require_at_least(self, shots=0, limit=1, test_limit=1)


@dataclass(frozen=True, kw_only=True)
class Deltas:
    """Trained neurons.

    Attributes:
        delta: what finetune wrote; several are added up.
        scale: times the change.
    """

    delta: Annotated[tuple[Path, ...], Many] = field()
    scale: float = 1.0

    def load(self) -> "list[NeuronDelta]":
        """Load the files."""
        from tl_taskneurons.training.deltas import NeuronDelta

        return [NeuronDelta.load(path) for path in self.delta]

    def total(self, deltas: "Sequence[NeuronDelta]") -> "NeuronDelta":
        """Add them up and scale the sum."""
        total = reduce(add, deltas)
        return total if self.scale == 1.0 else total.scaled(self.scale)


def finetune(
    chosen: Annotated[Chosen, Flat],
    training: Annotated[Training, Parameter(name="*", group="Training")] = Training(),
    *,
    file: Annotated[Path, Parameter(name="--out")],
    checkpoint: Path | None = None,
) -> None:
    """Train chosen neurons.

    Args:
        chosen: which neurons.
        training: how to train them.
        file: file for the trained weights (safetensors).
        checkpoint: file to go on from when stopped (default: OUT.checkpoint, removed at the end).
    """
    kept = checkpoint or file.with_name(f"{file.name}.checkpoint")
    # Stopped at its very end, a run has left both: it goes on, and writes the same file again.
    if file.exists() and (checkpoint is not None or not kept.exists()):
        raise ExistsError(
            f"{file} exists; give another file or remove it. (tl-taskneurons apply shows the "
            "scores of a file that is there.)"
        )
    require_seed(training.seed)
    check_writable(file.parent)
    if checkpoint is not None:
        check_writable(checkpoint.parent)
    prompt = Prompt(shots=usual_shots(chosen.model, chosen.shots), seed=training.seed)
    tasks = chosen.read()
    from tl_taskneurons.evaluation.evaluate import evaluate
    from tl_taskneurons.training.finetune import finetune as train
    from tl_taskneurons.training.loop import loss_texts

    model = chosen.load()
    neurons = _neurons(chosen, model, tasks, prompt)
    screen = console()
    screen.print(f"{len(neurons):,} neurons, {len(neurons) / neurons.mask.numel():.1%} of all")
    judged: Any = {"prompt": prompt, "limit": chosen.test_limit, "progress": True}
    before = evaluate(model, tasks, **judged)
    delta = train(
        model, list(tasks), neurons, training, prompt=prompt, limit=chosen.limit, checkpoint=kept,
        progress=True,
    )  # fmt: skip
    delta.save(file)
    if checkpoint is None and current_role().leads:
        kept.unlink(missing_ok=True)
    with delta.applied(model):
        after = evaluate(model, tasks, **judged)
    for text in loss_texts(delta.history):
        screen.print(text)
    screen.print(_scores(before, after))
    screen.print(f"The trained weights are in {file}", soft_wrap=True)


def apply(
    deltas: Annotated[Deltas, Flat],
    source: Annotated[Source, Flat] = Source(),
    *,
    shots: int | None = None,
    test_limit: int | None = None,
) -> None:
    """Score a model with trained neurons.

    Args:
        deltas: trained neurons.
        source: the model, and the tasks to test it on.
        shots: solved examples in each prompt (default: as in the training).
        test_limit: test examples per task (default: all).
    """
    from tl_taskneurons.evaluation.evaluate import evaluate

    loaded = deltas.load()
    trained = dict.fromkeys(name for delta in loaded for name in delta.info.get("tasks", ()))
    # A file is one task of its own, which has its own name; it is not the trained one.
    own = Path(source.data).is_file()
    if not (trained or source.tasks or own):
        raise InputError(f"{deltas.delta[0]} names no tasks; give --tasks.")
    tasks = source.read(source.tasks or (None if own else tuple(trained)))
    prompt = Prompt(**loaded[0].info.get("prompt", {}))
    if shots is not None:
        prompt = replace(prompt, shots=shots)
    model = source.load()
    before = evaluate(model, tasks, prompt=prompt, limit=test_limit, progress=True)
    with deltas.total(loaded).applied(model):
        after = evaluate(model, tasks, prompt=prompt, limit=test_limit, progress=True)
    console().print(_scores(before, after))


def merge(
    deltas: Annotated[Deltas, Flat],
    *,
    model: str,
    folder: Annotated[Path, Parameter(name="--out")],
) -> None:
    """Write a model with trained neurons.

    Args:
        deltas: trained neurons.
        model: the base model: a name, a Hugging Face id or folder, or a .gguf file.
        folder: a new folder.
    """
    check_writable(folder)
    merged = deltas.total(deltas.load()).merge(model, folder)
    console().print(f"The merged model is in {merged}", soft_wrap=True)


COMMANDS = {finetune: _FINETUNE_EXAMPLE, apply: _APPLY_EXAMPLE, merge: _MERGE_EXAMPLE}


def _neurons(chosen: Chosen, model: "LanguageModel", tasks: Tasks, prompt: Prompt) -> "NeuronSet":
    """The neurons of all tasks together."""
    from tl_taskneurons.neurons.attribution import score_neurons
    from tl_taskneurons.neurons.selection import select
    from tl_taskneurons.neurons.sets import NeuronSet
    from tl_taskneurons.runtime.run_folder import file_name

    if chosen.neurons is not None and chosen.neurons.is_file():
        return _listed(chosen.neurons, model, tasks)
    if chosen.neurons is not None:
        folder = chosen.neurons / "sets" / chosen.selection
        if not folder.is_dir():
            there = sorted(path.name for path in (chosen.neurons / "sets").glob("*"))
            raise MissingFileError(
                f"{chosen.neurons} has no sets by the selection {chosen.selection!r} (it has "
                f"{', '.join(there) or 'none'}); give a folder that tl-taskneurons detect wrote."
            )
        sets = [NeuronSet.load(folder / f"{file_name(name)}.safetensors") for name in tasks.names]
    else:
        scores = {
            task.name: score_neurons(
                model, task, chosen.method, prompt=prompt, limit=chosen.limit, seed=prompt.seed,
                progress=True,
            )
            for task in tasks
        }  # fmt: skip
        sets = list(select(scores, chosen.selection, chosen.fraction).values())
    return reduce(or_, sets).rename("+".join(tasks.names))


def _listed(file: Path, model: Any, tasks: Tasks) -> "NeuronSet":
    """The neurons that a file lists: its only set, or those that are named after the tasks."""
    from tl_taskneurons.neurons.lists import read_sets

    sets = read_sets(model, file)
    if len(sets) == 1:
        return next(iter(sets.values()))
    missing = [name for name in tasks.names if name not in sets]
    if missing:
        raise InputError(
            f"{file} has the sets {', '.join(sets)}, none for {', '.join(missing)}; give a file "
            "with one set, or with one named after each task."
        )
    return reduce(or_, [sets[name] for name in tasks.names]).rename("+".join(tasks.names))


def _scores(before: "pd.DataFrame", after: "pd.DataFrame") -> Table:
    """Scores on the test split before and after."""
    rows = [
        (
            one["task"], one["metric"], one["n"], _share(one["value"]), _share(other["value"]),
            f"{one['loss']:.3f}", f"{other['loss']:.3f}",
        )
        for one, other in zip(before.to_dict("records"), after.to_dict("records"), strict=True)
    ]  # fmt: skip
    headings = ("task", "metric", "n", "before", "after", "loss before", "loss after")
    return table("On the test split", headings, rows, left=2)


def _share(value: float) -> str:
    return "-" if value != value else f"{value:.1%}"
