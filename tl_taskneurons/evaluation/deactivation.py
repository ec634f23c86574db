"""Silence sets of neurons, and random controls, and evaluate tasks under each."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from tl_taskneurons.evaluation.evaluate import evaluate_items
from tl_taskneurons.neurons.interventions import deactivate, mean_ablate
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.progress import Progress
from tl_taskneurons.runtime.sharing import current_team
from tl_taskneurons.tasks.task import Task, Tasks

Ablation = Literal["zero", "mean"]


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
    sets: Mapping[str, NeuronSet], *, controls: int = 5, match: Literal["layer", "total"] = "layer"
) -> list[Condition]:
    """List the plain model, each task's neurons silenced, and random controls for each.

    Raises:
        ValueError: for a set without neurons.
    """
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
    model: Any,
    tasks: Iterable[Task],
    condition: Condition,
    *,
    ablation: Ablation = "zero",
    means: Float[Tensor, "layer d_mlp"] | None = None,
    limit: int | None = None,
    limit_others: int | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Evaluate tasks, item by item, in one condition.

    Random controls are evaluated on the task they are matched to (when it is among the tasks),
    everything else on all tasks.

    Args:
        model: a HookedTransformer or TransformerBridge.
        tasks: the tasks.
        condition: the state of the model.
        ablation: set silenced neurons to ``"zero"`` or to their ``"mean"``.
        means: the means, for ``"mean"``; see ``activation_mean``.
        limit: at most the first ``limit`` examples of a task.
        limit_others: the same for tasks other than the silenced one, which only specificity
            needs; by default ``limit``.
        **options: for ``evaluate_items``.

    Returns:
        The rows of ``evaluate_items`` with ``silenced, kind, seed, n_neurons, ablation``.

    Raises:
        ValueError: for an unknown ablation, or ``"mean"`` without means.
    """
    if ablation not in ("zero", "mean") or (ablation == "mean" and means is None):
        raise InputError(
            f"ablation is {ablation!r} with means={'given' if means is not None else None}; use "
            "'zero', or 'mean' with means=activation_mean(model, task)."
        )
    listed = Tasks(tasks)
    if condition.kind == "random" and condition.silenced in listed.names:
        listed = Tasks([listed[condition.silenced]])
    neurons = condition.neurons
    others = limit if limit_others is None else limit_others
    current_team().require_same(
        "evaluate_condition",
        lambda: {"neurons": neurons and neurons.mask, "ablation": ablation, "means": means},
    )
    with _silenced(model, neurons, ablation, means):
        frame = pd.concat(
            [
                evaluate_items(
                    model,
                    task,
                    limit=limit if condition.silenced in ("", task.name) else others,
                    **options,
                )
                for task in listed
            ]
        )
    return frame.assign(
        silenced=condition.silenced, kind=condition.kind, seed=condition.seed, ablation=ablation,
        n_neurons=0 if neurons is None else len(neurons),
    ).reset_index(drop=True)  # fmt: skip


def deactivation_items(
    model: Any,
    tasks: Iterable[Task],
    sets: Mapping[str, NeuronSet],
    *,
    controls: int = 5,
    match: Literal["layer", "total"] = "layer",
    ablation: Ablation = "zero",
    means: Float[Tensor, "layer d_mlp"] | None = None,
    progress: bool = False,
    **options: Any,
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
        ablation: set silenced neurons to ``"zero"`` or to their ``"mean"``.
        means: the means, for ``"mean"``.
        progress: show a progress bar.
        **options: for ``evaluate_items``.
    """
    listed = Tasks(tasks)
    frames = [
        evaluate_condition(model, listed, condition, ablation=ablation, means=means, **options)
        for condition in Progress("deactivate", shown=progress).over(
            conditions(sets, controls=controls, match=match)
        )
    ]
    return pd.concat(frames, ignore_index=True)


def _silenced(
    model: Any, neurons: NeuronSet | None, ablation: Ablation, means: Tensor | None
) -> AbstractContextManager[None]:
    if neurons is None:
        return nullcontext()
    if ablation == "mean" and means is not None:
        return mean_ablate(model, neurons, means)
    return deactivate(model, neurons)
