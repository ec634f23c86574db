"""How good a ranking of neurons is: what is lost without its top, and what its top alone keeps."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import pandas as pd

from tl_taskneurons.analysis.areas import areas_of
from tl_taskneurons.evaluation.deactivation import Silencing, silencing_of
from tl_taskneurons.evaluation.evaluate import EvaluateOptions, evaluate_items
from tl_taskneurons.models.positions import Positions
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.neurons.given import named_scores
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.errors import InputError, InputTypeError
from tl_taskneurons.runtime.options import require_kind
from tl_taskneurons.runtime.progress import Progress
from tl_taskneurons.tasks.task import Task, Tasks, one_task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

FRACTIONS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
Ranking = NeuronScores | NeuronSet | Sequence[NeuronSet]


class NothingToLoseWarning(UserWarning):
    """A task's value is the same with all neurons silenced, so no share of it can be lost."""


class CurveOptions(EvaluateOptions, total=False):
    """Options of ``ablation_curves``: those of ``evaluate_items``, and how to silence."""

    ablation: str
    means: "Tensor | None"
    positions: Positions


@dataclass(frozen=True, eq=False)
class AblationCurves:
    """What silencing growing sets of neurons does, and what is left with these sets alone.

    Attributes:
        table: one row per point: ``ranking``; ``curve`` (``"necessity"``: the top k silenced;
            ``"sufficiency"``: all but the top k; ``"harm"``: the top k silenced, measured on
            another task); ``task, metric, fraction`` (k over all neurons, of 1), ``n_neurons``
            (k), ``value`` (of the metric), ``change`` (value less that of the undisturbed model)
            and ``faithfulness``: (value - none) / (all - none), where ``none`` is the value with
            all neurons silenced and ``all`` that of the undisturbed model; NaN where both are
            equal. The undisturbed model is the point k = 0 of necessity and harm, and k = all of
            sufficiency.
        areas: one row per ranking; see ``areas_of``.
    """

    table: pd.DataFrame
    areas: pd.DataFrame

    def __str__(self) -> str:
        return self.areas.round(4).to_string(index=False)

    def plot(self, *, ax: "Axes | None" = None) -> "Figure":
        """Draw the curves; see ``plots.ablation_curves``."""
        from tl_taskneurons.plots.ablation_curves import ablation_curves as draw

        return draw(self.table, ax=ax)


def ablation_curves(
    model: LanguageModel,
    task: Task,
    rankings: Ranking | Mapping[str, Ranking] | Iterable[NeuronScores],
    *,
    others: Iterable[Task] = (),
    fractions: Sequence[float] = FRACTIONS,
    progress: bool | None = None,
    **options: Unpack[CurveOptions],
) -> AblationCurves:
    """Silence the top k neurons, and all but the top k, over k, and measure tasks.

    A ranking that is good at necessity loses the task with few neurons silenced; one good at
    sufficiency keeps it with few neurons left; one that is specific does so without harm to other
    tasks. The areas follow MIB (Mueller et al. 2025), whose units are others: see ``areas_of``.

    Args:
        model: a HookedTransformer or TransformerBridge with a tokenizer.
        task: the task.
        rankings: scores, whose top is taken (of signed scores, the neurons that help come first,
            where the scores know what better is, else the largest effects); or a set, or sets of
            growing size; or several of these by name, or scores in a list, known by their names.
        others: tasks whose harm is measured.
        fractions: shares of all neurons, in (0, 1], for scores; two shares that give one k are one.
        progress: show a progress bar; by default after two seconds (see ``Progress``).
        **options: those of ``evaluate_items`` (``split="test"``, ``metric``, ``limit``,
            ``prompt``, ``share_prefix``, ...), and ``ablation="zero"``, ``means`` and
            ``positions="all"`` as in ``evaluate_condition``.

    Raises:
        ValueError: for no fraction or one outside (0, 1], no ranking, the task among the others,
            a task whose value doesn't change with all neurons silenced, or what
            ``evaluate_items`` and ``deactivate`` refuse.
        TypeError: for an unknown option or something that is no ranking.
    """
    silencing, rest = silencing_of(options)
    meter = Meter(model, silencing, rest)
    task, rivals = one_task(task), Tasks(others)
    if isinstance(rankings, str):
        raise InputTypeError(f"{rankings!r} is no ranking; give NeuronScores or NeuronSets.")
    require_kind("fractions", fractions, Sequence, "give a list of shares, as [0.01, 0.1]")
    if task.name in rivals.names:
        raise InputError(f"Task {task.name!r} is among the others, whose harm is measured.")
    named = _named(rankings)
    growing = {name: _growing(ranking, fractions) for name, ranking in named.items()}
    if not growing:
        raise InputError("rankings is empty; give scores or sets of neurons.")
    full = _everything(model)
    listed = [task, *rivals]
    alls = {each.name: meter(each, None) for each in listed}
    nones = {each.name: meter(each, full) for each in listed}
    _require_a_gap(task, listed, alls, nones)
    rows: list[dict[str, Any]] = []

    def add(ranking: str, curve: str, tested: Task, kept: NeuronSet, value: float) -> None:
        most, none = alls[tested.name], nones[tested.name]
        rows.append(
            {"ranking": ranking, "curve": curve, "task": tested.name, "metric": meter.unit(tested),
             "fraction": len(kept) / kept.mask.numel(), "n_neurons": len(kept), "value": value,
             "change": value - most,
             "faithfulness": (value - none) / (most - none) if most != none else float("nan")}
        )  # fmt: skip

    empty = full - full
    bar = Progress("curves", shown=progress)
    steps = [(name, chosen) for name, sets in growing.items() for chosen in sets]
    for name in growing:
        add(name, "necessity", task, empty, alls[task.name])
        add(name, "sufficiency", task, empty, nones[task.name])
        for other in rivals:
            add(name, "harm", other, empty, alls[other.name])
    for name, chosen in bar.over(steps):
        add(name, "necessity", task, chosen, meter(task, chosen))
        add(name, "sufficiency", task, chosen, meter(task, full - chosen))
        for other in rivals:
            add(name, "harm", other, chosen, meter(other, chosen))
    table = pd.DataFrame(rows).sort_values("n_neurons", kind="stable")
    order = {name: k for k, name in enumerate(growing)}
    curves = {"necessity": 0, "sufficiency": 1, "harm": 2}
    table = table.sort_values(
        ["ranking", "curve"], key=lambda column: column.map(order | curves), kind="stable"
    ).reset_index(drop=True)
    return AblationCurves(table, areas_of(table))


class Meter:
    """Measures tasks under silencing, each set once."""

    def __init__(
        self, model: LanguageModel, silencing: Silencing, options: Mapping[str, Any]
    ) -> None:
        self.model, self.silencing, self.options = model, silencing, dict(options)
        self.known: dict[tuple[str, bytes], float] = {}

    def __call__(self, task: Task, neurons: NeuronSet | None) -> float:
        """Return the mean of the metric over the task's examples.

        Where the task has no score of its own, that is the loss.
        """
        if neurons is not None and not len(neurons):
            neurons = None
        key = (task.name, b"" if neurons is None else neurons.mask.numpy().tobytes())
        if key not in self.known:
            with self.silencing.applied(self.model, neurons):
                frame = evaluate_items(self.model, task, **self.options)
            metric = self.options.get("metric")
            column = "loss" if metric is None and task.metric == "loss" else "score"
            self.known[key] = float(frame[column].mean())
        return self.known[key]

    def unit(self, task: Task) -> str:
        """Name what is measured of a task."""
        metric: str | Callable[..., Any] | None = self.options.get("metric")
        if metric is None:
            return task.metric
        return metric if isinstance(metric, str) else getattr(metric, "__name__", "own")


def ranked(scores: NeuronScores) -> NeuronScores:
    """Return scores as sizes to take the top of: of signed ones, those of neurons that help."""
    if not scores.info.get("signed"):
        return scores
    return scores.side("help" if scores.info.get("better") in ("higher", "lower") else "both")


def _named(rankings: Any) -> Mapping[str, Ranking]:
    if isinstance(rankings, Mapping):
        return rankings
    if isinstance(rankings, Iterable) and not isinstance(rankings, NeuronScores | NeuronSet):
        rankings = list(rankings)
        if any(isinstance(one, NeuronScores) for one in rankings):
            return named_scores(rankings)
    return {"scores": rankings}


def _growing(ranking: Ranking, fractions: Sequence[float]) -> list[NeuronSet]:
    if isinstance(ranking, NeuronScores):
        if not fractions or not all(0 < share <= 1 for share in fractions):
            raise InputError(f"fractions is {list(fractions)}; give shares in (0, 1].")
        sizes = ranked(ranking)
        n_all = sizes.values.numel()
        counts = sorted({max(1, round(share * n_all)) for share in fractions})
        return [sizes.top(n=count) for count in counts]
    if isinstance(ranking, NeuronSet):
        ranking = [ranking]
    sets = list(ranking) if isinstance(ranking, Iterable) else [ranking]
    for chosen in sets:
        if not isinstance(chosen, NeuronSet):
            raise InputTypeError(f"{chosen!r} is no ranking; give NeuronScores or NeuronSets.")
    if not sets or not all(map(len, sets)):
        raise InputError("A ranking by sets needs at least one set, and none that is empty.")
    by_size: dict[int, NeuronSet] = {}
    for chosen in sorted(sets, key=len):
        if by_size.setdefault(len(chosen), chosen) != chosen:
            raise InputError(
                f"Two sets of a ranking have {len(chosen)} neurons; give these as rankings of "
                "their own, by name."
            )
    return list(by_size.values())


def _everything(model: LanguageModel) -> NeuronSet:
    return (~NeuronSet.from_pairs(model, [])).rename("all neurons")


def _require_a_gap(
    task: Task, listed: Sequence[Task], alls: Mapping[str, float], nones: Mapping[str, float]
) -> None:
    for each in listed:
        value = alls[each.name]
        if value != nones[each.name]:
            continue
        told = (
            f"Task {each.name!r} has the value {value:g} both with all neurons and with none, so "
            "there is nothing to lose"
        )
        if each is task:
            raise InputError(
                f"{told}; choose a task that the model can do, another prompt, or a finer "
                "metric such as 'log_prob'."
            )
        warnings.warn(f"{told}: its faithfulness is NaN.", NothingToLoseWarning, stacklevel=3)
