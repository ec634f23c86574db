"""Other ways to train, with the signature of ``finetune``, to compare chosen neurons with.

Every function takes the neurons that ``finetune`` would train and uses what it needs of them: their
number, their number in each layer, or nothing.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, Unpack

import torch

from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import ModelView, view
from tl_taskneurons.neurons.attribution import score_neurons
from tl_taskneurons.neurons.given import Neurons, neuron_set
from tl_taskneurons.neurons.methods import METHODS
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.options import require_kind, settled
from tl_taskneurons.tasks.prompts import Prompt
from tl_taskneurons.tasks.task import Task
from tl_taskneurons.training.deltas import Delta, LoraDelta, NeuronDelta, WeightDelta
from tl_taskneurons.training.finetune import finetune
from tl_taskneurons.training.full_trainee import AllWeights
from tl_taskneurons.training.lora_trainee import LoraWeights
from tl_taskneurons.training.options import Run, RunOptions
from tl_taskneurons.training.runner import train
from tl_taskneurons.training.settings import Training


def finetune_random(
    model: LanguageModel,
    tasks: Task | Sequence[Task],
    neurons: Neurons,
    training: Training = Training(),
    *,
    match: Literal["layer", "total"] = "layer",
    seed: int = 0,
    **options: Unpack[RunOptions],
) -> NeuronDelta:
    """Train as many random neurons (paper, section 2, train-random).

    Args:
        model: a HookedTransformer or TransformerBridge.
        tasks: what to train on.
        neurons: how many to train.
        training: learning rate, steps and so on.
        match: ``"layer"`` draws as many neurons in each layer as ``neurons`` has there;
            ``"total"`` (the paper) as many over all layers together.
        seed: of the draw.
        **options: as for ``finetune``.
    """
    control = neuron_set(view(model), neurons).random_like(seed, match=match)
    return finetune(model, tasks, control, training, **options)


def finetune_top(
    model: LanguageModel,
    tasks: Task | Sequence[Task],
    neurons: Neurons,
    training: Training = Training(),
    *,
    method: str = "grad_act",
    score_limit: int | None = 200,
    **options: Unpack[RunOptions],
) -> NeuronDelta:
    """Train as many neurons, those with the highest scores of an attribution method.

    Args:
        model: a HookedTransformer or TransformerBridge.
        tasks: what to train on.
        neurons: how many to train.
        training: learning rate, steps and so on.
        method: one of ``METHODS`` that scores all neurons at once (not ``"exact"``).
        score_limit: at most so many training examples of each task are scored.
        **options: as for ``finetune``.

    Raises:
        ValueError: for an unknown method, or ``"exact"``.
    """
    chosen = [tasks] if isinstance(tasks, Task) else list(tasks)
    prompt = settled("finetune_top", Run, options).prompt
    top = top_by(
        model,
        chosen,
        len(neuron_set(view(model), neurons)),
        method,
        prompt=prompt,
        limit=score_limit,
    )
    return finetune(model, chosen, top, training, **options)


def top_by(
    model: LanguageModel,
    tasks: Sequence[Task],
    n: int,
    method: str,
    *,
    prompt: Prompt,
    limit: int | None,
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
    model: LanguageModel,
    tasks: Task | Sequence[Task],
    neurons: Neurons | None = None,
    training: Training = Training(),
    **options: Unpack[RunOptions],
) -> WeightDelta:
    """Train every weight of the model (full fine-tuning).

    Args:
        model: a HookedTransformer or TransformerBridge.
        tasks: what to train on.
        neurons: not needed; here for the common signature.
        training: learning rate, steps and so on.
        **options: as for ``finetune``.
    """
    run, model_view = settled("finetune_all", Run, options), _checked(model, neurons)
    return train(model_view, AllWeights(model_view), tasks, training, run)


def finetune_lora(
    model: LanguageModel,
    tasks: Task | Sequence[Task],
    neurons: Neurons | None = None,
    training: Training = Training(),
    *,
    rank: int = 16,
    alpha: float | None = None,
    attention: bool = False,
    **options: Unpack[RunOptions],
) -> LoraDelta:
    """Train LoRA adapters on the matrices of a bridge's Hugging Face model, by ``peft``.

    Args:
        model: a TransformerBridge.
        tasks: what to train on.
        neurons: not needed; here for the common signature.
        training: learning rate, steps and so on.
        rank: of the adapters.
        alpha: the change is scaled by ``alpha / rank``; None takes twice the rank.
        attention: adapt attention's matrices too, not the MLPs' alone.
        **options: as for ``finetune``.

    Raises:
        ImportError: without ``peft`` (``pip install 'tl-taskneurons[compare]'``).
        TypeError: for a HookedTransformer.
    """
    run, model_view = settled("finetune_lora", Run, options), _checked(model, neurons)
    require_kind("training", training, Training, "give Training(lr=...)")
    trainee = LoraWeights(model_view, rank, alpha, training.seed, attention=attention)
    return train(model_view, trainee, tasks, training, run)


# Ways to train by the name that tables use; "top:METHOD" stands for every attribution method.
TRAINERS: dict[str, Callable[..., Delta]] = {
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


def _checked(model: LanguageModel, neurons: Neurons | None) -> ModelView:
    model_view = view(model)
    if neurons is not None:
        neuron_set(model_view, neurons)
    return model_view
