"""How well a model does a task: accuracy, exact match, ROUGE-L and loss, item by item."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tl_taskneurons.answers import Answering, answer, prefill, shared_prefix
from tl_taskneurons.forward import frozen
from tl_taskneurons.interventions import deactivate, mean_ablate
from tl_taskneurons.memory import token_budget_for
from tl_taskneurons.model import view
from tl_taskneurons.neurons import NeuronSet
from tl_taskneurons.progress import Progress
from tl_taskneurons.prompts import Prompt, encode
from tl_taskneurons.sharing import current_team
from tl_taskneurons.summaries import summarise
from tl_taskneurons.tasks import Task, Tasks

Ablation = Literal["zero", "mean"]


def evaluate(
    model: Any,
    tasks: Task | Iterable[Task],
    *,
    split: str = "test",
    prompt: Prompt = Prompt(),  # noqa: B008 (frozen)
    limit: int | None = None,
    generation: bool = False,
    max_new_tokens: int = 64,
    token_budget: int | None = None,
    share_prefix: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Score a model on tasks; run it inside an intervention to see what that changes.

    Returns:
        One row per task: ``task, metric, value, low, high, loss, n, n_truncated``. ``value`` is
        the mean of the task's metric in [0, 1], ``low`` and ``high`` its 95% bootstrap interval
        over items, ``loss`` the mean cross-entropy of the answer in nats per token.

    Other arguments and errors are those of ``evaluate_items``.
    """
    listed = Tasks([tasks] if isinstance(tasks, Task) else tasks)
    frames = []
    for task in Progress("evaluate", shown=progress).over(listed):
        frames.append(
            evaluate_items(
                model, task, split=split, prompt=prompt, limit=limit, generation=generation,
                max_new_tokens=max_new_tokens, token_budget=token_budget,
                share_prefix=share_prefix,
            )
        )  # fmt: skip
    return summarise(pd.concat(frames, ignore_index=True), seed=seed)


@torch.no_grad()
def evaluate_items(
    model: Any,
    task: Task,
    *,
    split: str = "test",
    prompt: Prompt = Prompt(),  # noqa: B008 (frozen)
    limit: int | None = None,
    generation: bool = False,
    max_new_tokens: int = 64,
    token_budget: int | None = None,
    share_prefix: bool = False,
) -> pd.DataFrame:
    """Score a model on each example of a task.

    The metric is the task's: ``accuracy`` picks the label of highest log-probability (the sum over
    its tokens); ``exact_match`` asks whether greedy decoding gives one of the references and then
    ends the answer, which one forward pass per reference decides; ``rougeL`` generates, and is the
    best ROUGE-L F-measure over the references; ``loss`` has no score.

    Args:
        model: a HookedTransformer or TransformerBridge with a tokenizer.
        task: the task.
        split: which examples.
        prompt: how examples become text.
        limit: at most the first ``limit`` examples.
        generation: also decide accuracy and exact match by generated text (stripped of white
            space and compared as it is, upper and lower case included).
        max_new_tokens: the longest generated answer, in tokens.
        token_budget: the most tokens in a batch; None suits the device. Where memory runs out,
            batches are cut in halves, with a warning.
        share_prefix: run the tokens with which all prompts begin (instruction, demonstrations)
            once and reuse their keys and values: several times faster for few-shot prompts.
            The results are the same up to rounding, with this library's interventions or none;
            leave it off when hooks of your own treat positions differently.

    Returns:
        One row per example: ``task, metric, item, score`` (0 to 1), ``loss`` (nats per token),
        ``prediction``, ``n_truncated`` (of the whole split).

    Raises:
        ValueError: for an empty split, labels with equal token ids, an answer longer than the
            context, or a loss that is not finite (naming the example).
    """
    model_view = view(model)
    # Generated answers need room in the context as well.
    room = max_new_tokens if generation or task.metric == "rougeL" else 0
    n_ctx = model_view.n_ctx
    encoded = encode(
        task, model.tokenizer, split=split, prompt=prompt, limit=limit,
        max_length=None if n_ctx is None else n_ctx - room,
    )  # fmt: skip
    team = current_team()
    team.require_same(
        "evaluate_items",
        lambda: {
            "model": model_view.fingerprint, "task": task.name, "metric": task.metric,
            "labels": task.labels, "generation": generation, "max_new_tokens": max_new_tokens,
            "share_prefix": share_prefix, "examples": [asdict(item) for item in encoded.items],
            "references": [example.accepted for example in task.split(split)[:limit]],
        },
    )  # fmt: skip
    own = team.own([len(item) for item in encoded.items])
    with frozen(model_view.model), team.together():
        prefix = shared_prefix(encoded.items) if share_prefix else ()
        cache = prefill(model_view, prefix) if prefix else None
        share = replace(encoded, items=tuple(encoded.items[i] for i in own))
        run = Answering(
            model_view, task, share, prompt, token_budget_for(model_view.device, token_budget),
            max_new_tokens, len(prefix), cache,
        )  # fmt: skip
        losses, scores, predictions = answer(run, split, generation)
    rows = team.merge(own, list(zip(losses, scores, predictions, strict=True)))
    losses, scores, predictions = zip(*rows, strict=True)
    return pd.DataFrame(
        {"task": task.name, "metric": task.metric, "item": range(len(rows)),
         "score": scores, "loss": losses, "prediction": predictions,
         "n_truncated": encoded.n_truncated}
    )  # fmt: skip


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
            raise ValueError(
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
        raise ValueError(
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
    random, task, specificity), which add bootstrap intervals.

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
