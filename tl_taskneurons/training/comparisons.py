"""Other ways to train, with the signature of ``finetune``, to compare chosen neurons with.

Every function takes the neurons that ``finetune`` would train and uses what it needs of them: their
number, their number in each layer, or nothing.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Literal

import torch

from tl_taskneurons.models.view import ModelView, pinned_fingerprint, require_same_model, view
from tl_taskneurons.neurons.attribution import score_neurons
from tl_taskneurons.neurons.methods import METHODS
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.tasks.prompts import Prompt
from tl_taskneurons.tasks.task import Task
from tl_taskneurons.training.deltas import LoraDelta, NeuronDelta, WeightDelta
from tl_taskneurons.training.finetune import finetune, require_raw
from tl_taskneurons.training.loop import Trainee, fit, training_items
from tl_taskneurons.training.rivals import AllWeights, LoraWeights
from tl_taskneurons.training.settings import Training

PathLike = str | os.PathLike[str]


def finetune_random(
    model: Any,
    tasks: Task | Sequence[Task],
    neurons: NeuronSet,
    training: Training = Training(),
    *,
    prompt: Prompt = Prompt(),
    limit: int | None = None,
    checkpoint: PathLike | None = None,
    progress: bool = False,
    match: Literal["layer", "total"] = "layer",
    seed: int = 0,
) -> NeuronDelta:
    """Train as many random neurons (paper, section 2, train-random).

    Args:
        model: a HookedTransformer or TransformerBridge.
        tasks: what to train on.
        neurons: how many to train.
        training: learning rate, steps and so on.
        prompt: the form of the prompt.
        limit: at most so many training examples of each task.
        checkpoint: a file to save to and to resume from.
        progress: whether to show a bar.
        match: ``"layer"`` draws as many neurons in each layer as ``neurons`` has there;
            ``"total"`` (the paper) as many over all layers together.
        seed: of the draw.
    """
    drawn = neurons.random_like(seed, match=match)
    return finetune(
        model, tasks, drawn, training, prompt=prompt, limit=limit, checkpoint=checkpoint,
        progress=progress,
    )  # fmt: skip


def finetune_top(
    model: Any,
    tasks: Task | Sequence[Task],
    neurons: NeuronSet,
    training: Training = Training(),
    *,
    prompt: Prompt = Prompt(),
    limit: int | None = None,
    checkpoint: PathLike | None = None,
    progress: bool = False,
    method: str = "grad_act",
    score_limit: int | None = 200,
) -> NeuronDelta:
    """Train as many neurons, those with the highest scores of an attribution method.

    Args:
        model: a HookedTransformer or TransformerBridge.
        tasks: what to train on.
        neurons: how many to train.
        training: learning rate, steps and so on.
        prompt: the form of the prompt.
        limit: at most so many training examples of each task.
        checkpoint: a file to save to and to resume from.
        progress: whether to show a bar.
        method: one of ``METHODS`` that scores all neurons at once (not ``"exact"``).
        score_limit: at most so many training examples of each task are scored.

    Raises:
        ValueError: for an unknown method, or ``"exact"``.
    """
    chosen = [tasks] if isinstance(tasks, Task) else list(tasks)
    top = top_by(model, chosen, len(neurons), method, prompt=prompt, limit=score_limit)
    return finetune(
        model, chosen, top, training, prompt=prompt, limit=limit, checkpoint=checkpoint,
        progress=progress,
    )  # fmt: skip


def top_by(
    model: Any, tasks: Sequence[Task], n: int, method: str, *, prompt: Prompt, limit: int | None
) -> NeuronSet:
    """Select the ``n`` neurons with the highest score of a method, averaged over the tasks."""
    if method == "exact" or method not in METHODS:
        known = [name for name in METHODS if name != "exact"]
        raise InputError(f"method is {method!r}; use one of {known}.")
    scored = [
        score_neurons(model, task, method=method, prompt=prompt, limit=limit) for task in tasks
    ]
    mean = torch.stack([scores.values for scores in scored]).mean(0)
    name = f"{method} {'+'.join(task.name for task in tasks)}"
    return NeuronScores(mean, scored[0].fingerprint, name, method, scored[0].info).top(n=n)


@torch.inference_mode(False)
def finetune_all(
    model: Any,
    tasks: Task | Sequence[Task],
    neurons: NeuronSet | None = None,
    training: Training = Training(),
    *,
    prompt: Prompt = Prompt(),
    limit: int | None = None,
    checkpoint: PathLike | None = None,
    progress: bool = False,
) -> WeightDelta:
    """Train every weight of the model (full fine-tuning).

    Args:
        model: a HookedTransformer or TransformerBridge.
        tasks: what to train on.
        neurons: not needed; here for the common signature.
        training: learning rate, steps and so on.
        prompt: the form of the prompt.
        limit: at most so many training examples of each task.
        checkpoint: a file to save to and to resume from.
        progress: whether to show a bar.
    """
    model_view, chosen = _checked(model, tasks, neurons)
    trainee = AllWeights(model_view)
    with trainee.borrowed():
        history, info, name = _fit(
            model_view, trainee, chosen, training, prompt, limit, checkpoint, progress,
            "all weights",
        )  # fmt: skip
        trained = trainee.changed()
    return WeightDelta(model_view.fingerprint, trained, name, info, history)


@torch.inference_mode(False)
def finetune_lora(
    model: Any,
    tasks: Task | Sequence[Task],
    neurons: NeuronSet | None = None,
    training: Training = Training(),
    *,
    prompt: Prompt = Prompt(),
    limit: int | None = None,
    checkpoint: PathLike | None = None,
    progress: bool = False,
    rank: int = 16,
    alpha: float | None = None,
) -> LoraDelta:
    """Train LoRA adapters on all MLP matrices of a bridge's Hugging Face model, by ``peft``.

    Args:
        model: a TransformerBridge.
        tasks: what to train on.
        neurons: not needed; here for the common signature.
        training: learning rate, steps and so on.
        prompt: the form of the prompt.
        limit: at most so many training examples of each task.
        checkpoint: a file to save to and to resume from.
        progress: whether to show a bar.
        rank: of the adapters.
        alpha: the change is scaled by ``alpha / rank``; None takes twice the rank.

    Raises:
        ImportError: without ``peft`` (``pip install 'tl-taskneurons[compare]'``).
        TypeError: for a HookedTransformer.
    """
    model_view, chosen = _checked(model, tasks, neurons)
    trainee = LoraWeights(model_view, rank, alpha, training.seed)
    with trainee.attached():
        history, info, name = _fit(
            model_view, trainee, chosen, training, prompt, limit, checkpoint, progress,
            f"LoRA rank {rank} scaling {trainee.scaling:g}",
        )  # fmt: skip
        factors = trainee.factors()
    return LoraDelta(model_view.fingerprint, factors, trainee.scaling, name, info, history)


# Ways to train by the name that tables use; "top:METHOD" stands for every attribution method.
TRAINERS: dict[str, Callable[..., NeuronDelta | WeightDelta | LoraDelta]] = {
    "task": finetune,
    "random": finetune_random,
    "random_total": partial(finetune_random, match="total"),
    "all": finetune_all,
    "lora": finetune_lora,
    **{
        f"top:{method}": partial(finetune_top, method=method)
        for method in METHODS
        if method != "exact"
    },
}


def _checked(
    model: Any, tasks: Task | Sequence[Task], neurons: NeuronSet | None
) -> tuple[ModelView, list[Task]]:
    model_view = view(model)
    if neurons is not None:
        require_same_model(repr(neurons), neurons.fingerprint, model_view)
    require_raw(model_view)
    return model_view, [tasks] if isinstance(tasks, Task) else list(tasks)


def _fit(
    model_view: ModelView,
    trainee: Trainee,
    tasks: Sequence[Task],
    training: Training,
    prompt: Prompt,
    limit: int | None,
    checkpoint: PathLike | None,
    progress: bool,
    what: str,
) -> tuple[Any, dict[str, Any], str]:
    items = training_items(model_view, tasks, prompt, limit)
    name = "+".join(task.name for task in tasks)
    with pinned_fingerprint(model_view):
        history = fit(
            model_view, trainee, items, training, key=f"{what}/{model_view.fingerprint}",
            checkpoint=checkpoint, progress=progress, title=f"training {name}",
        )  # fmt: skip
    info = {
        "trained": what, "tasks": [task.name for task in tasks], "examples": len(items),
        "steps": len(history), "training": asdict(training), "prompt": asdict(prompt),
        "model": model_view.name,
    }  # fmt: skip
    return history, info, name
