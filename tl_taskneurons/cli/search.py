"""The commands ``find`` and ``curves``."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tl_taskneurons.cli.options import Flat, Out, Source, check_writable, usual_shots
from tl_taskneurons.cli.question import Asked, require_silencing
from tl_taskneurons.cli.results import results_folder
from tl_taskneurons.cli.settings import require_at_least
from tl_taskneurons.neurons.metrics import find_metric
from tl_taskneurons.runtime.console import console
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.run_folder import file_name
from tl_taskneurons.runtime.stored import stored
from tl_taskneurons.runtime.table_files import write_csv
from tl_taskneurons.tasks.prompts import Prompt

if TYPE_CHECKING:
    from tl_taskneurons.analysis.search import FoundNeurons
    from tl_taskneurons.neurons.scores import NeuronScores
    from tl_taskneurons.tasks.task import Tasks

_FIND_EXAMPLE = """\
example:
  tl-taskneurons find --model smollm2-135m \\
      --tasks present_past,country_demonym,singular_plural --out runs/found

The first task is taken, the others are spared. The folder gets TASK.safetensors (for \
NeuronSet.load and for generate --neurons), TASK_neurons.csv, TASK_search.csv (every set that was \
tried) and TASK_search.png. In the folder of a run of detect they are added to its report.
"""
_CURVES_EXAMPLE = """\
example:
  tl-taskneurons curves --model smollm2-135m \\
      --tasks present_past,country_demonym --metric log_prob --limit 16 \\
      --out runs/curves

The top neurons of the first task are silenced, and all but these; the others say what that harms. \
The folder gets TASK_curves.csv, TASK_areas.csv and TASK_curves.png. In the folder of a run of \
detect they are added to its report.
"""


@dataclass(frozen=True, kw_only=True)
class Searched(Asked, Source):
    """A model, tasks, and what is asked of its neurons.

    Attributes:
        shots: demonstrations (default: 4, for mini models 0).
        limit: training examples to score on, and as many to measure on.
    """

    shots: int | None = None
    limit: int = 24

    def __post_init__(self) -> None:
        """Refuse what could not work, before any model is loaded."""
        Source.__post_init__(self)
        Asked.__post_init__(self)
        require_at_least(self, shots=0, limit=1)

    @property
    def prompt(self) -> Prompt:
        """The form of the prompts."""
        return Prompt(shots=usual_shots(self.model, self.shots))

    def facts(self) -> dict[str, Any]:
        """Return what defines the results, plain JSON values."""
        return {**asdict(self), "shots": self.prompt.shots}

    def listed(self, least: int, why: str) -> "Tasks":
        """Load the tasks.

        Raises:
            InputError: where too few are named.
        """
        if len(self.tasks) < least:
            raise InputError(f"--tasks names {len(self.tasks)}; it needs at least {least}: {why}.")
        return self.read()


@dataclass(frozen=True, kw_only=True)
class Drawn(Searched):
    """What curves are drawn of."""

    metric: Annotated[str, Asked.__annotations__["metric"].__metadata__[0]] = "log_prob"


def find(
    searched: Annotated[Searched, Flat] = Searched(), *, out: Out, goal: float = 0.9,
    budget: int | None = None, harm: float = 0.02,
) -> None:  # fmt: skip
    """Find few neurons that take a task and spare others.

    Args:
        searched: model, tasks and question.
        out: folder for the results.
        goal: share of the first task's score above chance to take.
        budget: the most neurons (default: 0.2% of all).
        harm: what the other tasks may lose on average, of 1.
    """
    tasks = searched.listed(2, "one to take, then those to spare")
    check_writable(out)
    from tl_taskneurons.analysis.question import Question
    from tl_taskneurons.analysis.search import Limits, find_neurons
    from tl_taskneurons.models.view import require_same_model, view
    from tl_taskneurons.neurons.attribution import score_neurons
    from tl_taskneurons.neurons.scores import NeuronScores

    limits = Limits(goal=goal, budget=budget, harm=harm)
    question = Question(
        metric=searched.metric, ablation=searched.ablation, positions=searched.place,
        layers=searched.layers, prompt=searched.prompt, n_score=searched.limit,
        n_held=searched.limit, n_spared=searched.limit,
    )  # fmt: skip
    task, *others = tasks
    name = file_name(task.name)
    facts = searched.facts() | {"goal": goal, "budget": budget, "harm": harm}
    with results_folder(out, "find", facts, [task.name]) as file:
        assert file is not None
        model = searched.load()
        kept = file(f"scores/{name}.safetensors")  # there already in a folder of detect
        scores = stored(
            kept, lambda: score_neurons(model, task, prompt=searched.prompt, limit=searched.limit),
            load=NeuronScores.load, save=lambda path, scores: scores.save(path),
        )  # fmt: skip
        require_same_model(str(kept), scores.fingerprint, view(model))
        found = find_neurons(model, task, others, limits=limits, question=question)
        write_found(found, scores, file)
        console().print(f"{found} (on held-out training examples)", soft_wrap=True)


def write_found(found: "FoundNeurons", scores: "NeuronScores", file: Callable[[str], Path]) -> None:
    """Write a found set, its neurons with the task's scores, and the search with its picture.

    Args:
        found: the set.
        scores: of the task.
        file: gives the path of a file.
    """
    from tl_taskneurons import plots

    name = file_name(found.neurons.name)
    listed = found.neurons.to_frame().assign(
        task=found.neurons.name, selection="found", score=[scores[pair] for pair in found.neurons],
        fingerprint=found.neurons.fingerprint,
    )  # fmt: skip
    write_csv(file(f"{name}_neurons.csv"), listed)
    write_csv(file(f"{name}_search.csv"), found.curve)
    found.neurons.save(file(f"{name}.safetensors"))
    if (found.curve["kept"] & (found.curve["step"] == "grow")).any():
        plots.save(found.plot(), file(f"{name}_search.png"))


def curves(drawn: Annotated[Drawn, Flat] = Drawn(), *, out: Out) -> None:
    """Silence a growing share of a task's top neurons, and all but these.

    Args:
        drawn: model, tasks and question; the metric is measured, and neurons are ranked by it
            where it has a gradient, else by the loss.
        out: folder for the results.
    """
    require_silencing(drawn.ablation)
    tasks = drawn.listed(1, "the first task's neurons are silenced")
    check_writable(out)
    from tl_taskneurons import plots
    from tl_taskneurons.analysis.curves import ablation_curves
    from tl_taskneurons.neurons.attribution import activation_mean, score_neurons

    prompt, limit = drawn.prompt, drawn.limit
    metric = find_metric(drawn.metric)
    is_ranked = metric.gradient and not metric.reference
    task, *others = tasks
    name = file_name(task.name)
    with results_folder(out, "curves", drawn.facts(), [task.name]) as file:
        assert file is not None
        model, means = drawn.load(), None
        asked = {**drawn.scoring(), "metric": drawn.metric if is_ranked else "loss"}
        signed = score_neurons(model, task, signed=True, prompt=prompt, limit=limit, **asked)
        if drawn.ablation == "mean":
            means = activation_mean(model, task, prompt=prompt, limit=limit)
        found = ablation_curves(
            model, task, signed, others=others, metric=drawn.metric, ablation=drawn.ablation,
            means=means, positions=drawn.place, prompt=prompt, limit=limit,
        )  # fmt: skip
        write_csv(file(f"{name}_curves.csv"), found.table)
        write_csv(file(f"{name}_areas.csv"), found.areas)
        plots.save(found.plot(), file(f"{name}_curves.png"))
        console().print(str(found), soft_wrap=True)


COMMANDS = {find: _FIND_EXAMPLE, curves: _CURVES_EXAMPLE}
