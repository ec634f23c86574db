"""The commands ``find`` and ``curves``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tl_taskneurons.cli.options import Flat, Out, Source, check_writable, usual_shots
from tl_taskneurons.loading.tasks import load_tasks
from tl_taskneurons.runtime.console import console
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.table_files import write_csv

if TYPE_CHECKING:
    from tl_taskneurons.tasks.task import Tasks

_FIND_EXAMPLE = """\
example:
  tl-taskneurons find --model smollm2-135m \\
      --tasks present_past,country_demonym,singular_plural --out runs/found

The first task is taken, the others are spared. The folder gets TASK.safetensors (for \
NeuronSet.load) and TASK_search.csv (every set that was tried).
"""
_CURVES_EXAMPLE = """\
example:
  tl-taskneurons curves --model smollm2-135m \\
      --tasks present_past,country_demonym --metric log_prob --limit 16 \\
      --out runs/curves

The top neurons of the first task are silenced, and all but these; the others say what that harms. \
The folder gets TASK_curves.csv, TASK_areas.csv and TASK_curves.png.
"""
Ablated = Literal["zero", "mean"]


def find(
    source: Annotated[Source, Flat] = Source(), *, out: Out, goal: float = 0.9,
    budget: int | None = None, harm: float = 0.02, shots: int | None = None, limit: int = 24,
) -> None:  # fmt: skip
    """Find few neurons that take a task and spare others.

    Args:
        source: model and tasks.
        out: folder for the results.
        goal: share of the first task's score above chance to take.
        budget: the most neurons (default: 0.2% of all).
        harm: what the other tasks may lose on average, of 1.
        shots: demonstrations (default: 4, for mini models 0).
        limit: training examples to score on, and as many to measure on.
    """
    tasks = _tasks(source, 2, "one to take, then those to spare")
    check_writable(out)
    from tl_taskneurons.analysis.probe import Question
    from tl_taskneurons.analysis.search import Limits, find_neurons
    from tl_taskneurons.tasks.prompts import Prompt

    limits = Limits(goal=goal, budget=budget, harm=harm)
    prompt = Prompt(shots=usual_shots(source.model, shots))
    question = Question(prompt=prompt, n_score=limit, n_held=limit, n_spared=limit)
    task, *others = tasks
    found = find_neurons(
        source.load(), task, others, limits=limits, question=question, progress=True
    )
    out.mkdir(parents=True, exist_ok=True)
    found.neurons.save(out / f"{task.name}.safetensors")
    write_csv(out / f"{task.name}_search.csv", found.curve)
    _say(f"{found} (on held-out training examples)", out)


def curves(
    source: Annotated[Source, Flat] = Source(), *, out: Out, metric: str = "log_prob",
    ablation: Ablated = "zero", shots: int | None = None, limit: int = 24,
) -> None:  # fmt: skip
    """Silence a growing share of a task's top neurons, and all but these.

    Args:
        source: model and tasks.
        out: folder for the results.
        metric: what is measured, one of the metrics that ``score_neurons`` knows.
        ablation: what a silenced neuron becomes: zero, or its mean over the first task.
        shots: demonstrations (default: 4, for mini models 0).
        limit: training examples to score on, and test examples of each task.
    """
    tasks = _tasks(source, 1, "the first task's neurons are silenced")
    check_writable(out)
    from tl_taskneurons import plots
    from tl_taskneurons.analysis.curves import ablation_curves
    from tl_taskneurons.neurons.attribution import activation_mean, score_neurons
    from tl_taskneurons.neurons.metrics import METRICS
    from tl_taskneurons.tasks.prompts import Prompt

    METRICS.find(metric)
    prompt = Prompt(shots=usual_shots(source.model, shots))
    model, (task, *others) = source.load(), tasks
    signed = score_neurons(model, task, signed=True, prompt=prompt, limit=limit)
    means = None
    if ablation == "mean":
        means = activation_mean(model, task, prompt=prompt, limit=limit)
    found = ablation_curves(
        model, task, signed, others=others, metric=metric, ablation=ablation, means=means,
        prompt=prompt, limit=limit, progress=True,
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / f"{task.name}_curves.csv", found.table)
    write_csv(out / f"{task.name}_areas.csv", found.areas)
    plots.save(found.plot(), out / f"{task.name}_curves.png")
    _say(str(found), out)


def _tasks(source: Source, least: int, why: str) -> "Tasks":
    if len(source.tasks) < least:
        raise InputError(f"--tasks names {len(source.tasks)}; it needs at least {least}: {why}.")
    return load_tasks(source.data, source.tasks)


def _say(text: str, out: Path) -> None:
    screen = console()
    screen.print(text, soft_wrap=True)
    screen.print(f"Results are in {out}", soft_wrap=True)


COMMANDS = {find: _FIND_EXAMPLE, curves: _CURVES_EXAMPLE}
