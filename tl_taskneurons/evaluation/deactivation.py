"""Silence sets of neurons, and random controls, and evaluate tasks under each."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Unpack

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from tl_taskneurons.evaluation.evaluate import EvaluateOptions, evaluate_items
from tl_taskneurons.models.positions import Positions, check_positions, named
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.neurons.ablation import check_ablation
from tl_taskneurons.neurons.given import Sets, named_sets
from tl_taskneurons.neurons.interventions import deactivate
from tl_taskneurons.neurons.sets import NeuronSet, require_same_origin
from tl_taskneurons.runtime.errors import InputError, InputTypeError, did_you_mean
from tl_taskneurons.runtime.options import require_kind, require_number
from tl_taskneurons.runtime.progress import Progress
from tl_taskneurons.runtime.roles import current_role
from tl_taskneurons.tasks.task import Task, Tasks


class DeactivationOptions(EvaluateOptions, total=False):
    """Options of ``evaluate_condition``; those of ``evaluate_items`` besides its own."""

    ablation: str
    means: Float[Tensor, "layer d_mlp"] | None
    positions: Positions
    limit_others: int | None


@dataclass(frozen=True)
class Silencing:
    """How neurons are silenced in a table of conditions.

    Attributes:
        ablation: a name of ``ABLATIONS``; see ``deactivate``.
        means: the means, for ``"mean"``; see ``activation_mean``.
        positions: where; see ``deactivate``.

    Raises:
        ValueError: for an unknown ablation, ``"mean"`` without means, or means without it.
    """

    ablation: str = "zero"
    means: Float[Tensor, "layer d_mlp"] | None = None
    positions: Positions = "all"

    def __post_init__(self) -> None:
        check_ablation(self.ablation)
        check_positions(self.positions)
        if self.ablation != "mean" and self.means is not None:
            raise InputError(
                f"means are given, but ablation is {self.ablation!r}, which doesn't use them; say "
                "ablation='mean', or leave them out."
            )
        if self.ablation == "mean" and self.means is None:
            raise InputError(
                f"ablation is {self.ablation!r} with means=None; use 'zero', or 'mean' with "
                "means=activation_mean(model, task)."
            )

    def applied(
        self, model: LanguageModel, neurons: NeuronSet | None
    ) -> AbstractContextManager[None]:
        """Silence the neurons while the context is open."""
        if neurons is None:
            return nullcontext()
        ablation = self.ablation if self.ablation != "mean" or self.means is None else self.means
        return deactivate(model, neurons, ablation=ablation, positions=self.positions)


@dataclass(frozen=True)
class Condition:
    """One state of the model in which tasks are evaluated.

    Attributes:
        silenced: whose neurons are silenced; empty for the plain model.
        kind: ``"none"``, ``"task"`` or ``"random"``.
        seed: the control's seed; -1 where there is none.
        neurons: the silenced neurons; None for the plain model.
    """

    silenced: str
    kind: str
    seed: int
    neurons: NeuronSet | None


def conditions(
    sets: Sets, *, controls: int = 5, match: Literal["layer", "total"] = "layer"
) -> list[Condition]:
    """List the plain model, each task's neurons silenced, and random controls for each.

    Raises:
        ValueError: for a set without neurons.
    """
    sets = named_sets(sets)
    require_number("controls", controls, whole=True, least=0)
    for member in sets.values():
        require_same_origin(next(iter(sets.values())), member)
    result = [Condition("", "none", -1, None)]
    for name, neurons in sets.items():
        if not len(neurons):
            raise InputError(
                f"The neuron set of {name!r} is empty, so silencing it shows nothing; choose a "
                "larger fraction or another selection."
            )
        result.append(Condition(name, "task", -1, neurons))
    for name, neurons in sets.items():
        for seed in range(controls):
            control = neurons.random_like(seed, match=match)
            result.append(Condition(name, "random", seed, control))
    return result


def evaluate_condition(
    model: LanguageModel,
    tasks: Task | Iterable[Task],
    condition: Condition,
    **options: Unpack[DeactivationOptions],
) -> pd.DataFrame:
    """Evaluate tasks, item by item, in one condition.

    Random controls are evaluated on the task they are matched to (when it is among the tasks),
    everything else on all tasks.

    Args:
        model: a HookedTransformer or TransformerBridge.
        tasks: the tasks.
        condition: the state of the model.
        **options: those of ``evaluate_items``, and ``ablation="zero"`` (a name of ``ABLATIONS``;
            ``"mean"`` needs ``means``, see ``activation_mean``), ``positions="all"`` (see
            ``deactivate``) and ``limit_others``: at most so many examples of tasks other than the
            silenced one, which only specificity needs; by default ``limit``.

    Returns:
        The rows of ``evaluate_items`` with ``silenced, kind, seed, n_neurons, ablation``, and
        ``split_half`` where the set knows its reliability (see ``NeuronScores.top``).

    Raises:
        ValueError: for an unknown ablation, or ``"mean"`` without means.
    """
    require_kind("condition", condition, Condition, "give one of conditions(sets)")
    silencing, rest = silencing_of(options)
    limit, others = rest.pop("limit", None), rest.pop("limit_others", None)
    # Examples that the plain model isn't measured on have nothing to be compared with.
    others = min((n for n in (limit, others) if n is not None), default=None)
    listed = Tasks(tasks)
    if condition.kind == "random" and condition.silenced in listed.names:
        listed = Tasks([listed[condition.silenced]])
    neurons = condition.neurons
    current_role().require_same(
        "evaluate_condition",
        lambda: {
            "neurons": neurons and neurons.mask,
            "ablation": silencing.ablation,
            "means": silencing.means,
            "positions": named(silencing.positions),
        },
    )
    with silencing.applied(model, neurons):
        frame = pd.concat(
            [
                evaluate_items(
                    model,
                    task,
                    limit=limit if condition.silenced in ("", task.name) else others,
                    **rest,
                )
                for task in listed
            ]
        )
    facts = {} if neurons is None else neurons.info
    told = {"split_half": facts["split_half"]} if "split_half" in facts else {}
    return frame.assign(
        silenced=condition.silenced, kind=condition.kind, seed=condition.seed,
        ablation=silencing.ablation,
        n_neurons=0 if neurons is None else len(neurons), **told,
    ).reset_index(drop=True)  # fmt: skip


def deactivation_items(
    model: LanguageModel,
    tasks: Task | Iterable[Task],
    sets: Sets,
    *,
    controls: int = 5,
    match: Literal["layer", "total"] = "layer",
    progress: bool | None = None,
    **options: Unpack[DeactivationOptions],
) -> pd.DataFrame:
    """Silence each task's neurons, and random controls, and evaluate all tasks item by item.

    Feed the result to ``deactivation_matrix`` (tasks x tasks) or ``deactivation_table`` (original,
    random, task, specificity), which add intervals.

    Args:
        model: a HookedTransformer or TransformerBridge.
        tasks: the tasks to evaluate.
        sets: task name to its neurons.
        controls: random controls per set, on that set's task.
        match: how controls match their set; see ``NeuronSet.random_like``.
        progress: show a progress bar; by default after two seconds (see ``Progress``).
        **options: those of ``evaluate_condition``.

    Raises:
        ValueError: for no tasks, no sets, or a set whose name no task has.
    """
    silencing_of(options)
    listed, sets = Tasks(tasks), named_sets(sets)
    if not listed or not sets:
        what = "sets to silence" if listed else "tasks to evaluate"
        raise InputError(f"There are no {what}; give at least one.")
    states = conditions(sets, controls=controls, match=match)
    for name in sets:
        if name not in listed.names:
            raise InputError(
                f"No task has the name {name!r} of a set{did_you_mean(name, listed.names)} Sets go "
                "by their task's name; for others use conditions(sets) and evaluate_condition."
            )
    with Progress("deactivate", shown=progress) as bar:
        frames = [
            evaluate_condition(model, listed, state, **options) for state in bar.track(states)
        ]
    return pd.concat(frames, ignore_index=True)


def silencing_of(options: Mapping[str, Any]) -> tuple[Silencing, dict[str, Any]]:
    """Part options into what says how to silence, and the rest.

    Raises:
        TypeError: for an ablation that is no name.
    """
    own = {key: value for key, value in options.items() if key in Silencing.__annotations__}
    if not isinstance(own.get("ablation", "zero"), str):
        raise InputTypeError(
            f"ablation is a {type(own['ablation']).__name__}; tables need a name, for constants "
            "of your own ablation='mean' with means=constants."
        )
    return Silencing(**own), {key: value for key, value in options.items() if key not in own}
