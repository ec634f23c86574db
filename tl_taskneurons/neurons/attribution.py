"""Scores of how much each MLP neuron matters to a task.

The paper's relevance of neuron w is ``|L(w=0) - L(w)|``, to first order ``|dL/dw * w|`` (Leng &
Xiong 2025, section 2). A neuron is silenced at every position of an example, so the first-order
effect on one example is ``|sum over positions of g*w|``, and the task's score is the mean over its
examples. That is the default, ``"grad_act"``; the other methods are there to compare with.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Unpack

import torch
from torch import Tensor

from tl_taskneurons.models.inputs import (
    Data,
    DataOptions,
    Inputs,
    read_inputs,
    require_counterfactuals_fit,
    require_fitting,
)
from tl_taskneurons.models.positions import named
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import ModelView, view
from tl_taskneurons.neurons.given import Neurons, neuron_set
from tl_taskneurons.neurons.methods import ABLATIONS, METHODS, Method
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.scoring import PerLayer, require_scores, score_batches
from tl_taskneurons.neurons.settings import ItemOptions, ScoreOptions, ScoreSettings
from tl_taskneurons.runtime.errors import InputError, InputTypeError, did_you_mean
from tl_taskneurons.runtime.options import settled
from tl_taskneurons.runtime.progress import Progress
from tl_taskneurons.tasks.batches import Batch, make_batches, token_budget_for
from tl_taskneurons.tasks.prompts import Item
from tl_taskneurons.tasks.task import OneTask, Task, Tasks, one_task


@torch.inference_mode(False)  # gradients, also when the caller is in inference mode
def score_neurons(
    model: LanguageModel,
    task: OneTask,
    method: str = "grad_act",
    *,
    neurons: Neurons | None = None,
    progress: bool | None = None,
    **options: Unpack[ScoreOptions],
) -> NeuronScores:
    """Score every MLP neuron of a model by its relevance to a task.

    Parameters are frozen while gradients are taken at the hook points; each layer's gradient is
    reduced with its activation as the backward pass goes, so no layer's gradient is kept. Results
    do not depend on the batch size, the order of examples or padding.

    Args:
        model: a HookedTransformer or TransformerBridge with a tokenizer.
        task: the task; its loss is the mean cross-entropy of the answer tokens, in nats.
        method: one of ``METHODS``.
        neurons: which neurons to ablate, for ``"exact"`` only; the others score 0.
        progress: show a progress bar; by default after two seconds (see ``Progress``).
        **options: ``split="train"``, ``prompt``, ``limit`` and ``token_budget`` (see ``Data``),
            ``metric="loss"``, ``ablation="zero"``, ``positions="all"``, ``signed``,
            ``per_example``, ``layers``, ``steps=8`` and ``seed`` (see ``ScoreSettings``).

    Raises:
        ValueError: for an unknown method, a method that can't answer what is asked, an empty
            split, a metric that is not finite, not a scalar or without gradient, a missing wrong
            answer or counterfactual (naming the example), ``"exact"`` without ``neurons``, neurons
            of another model, or a layer that isn't there.
        TypeError: for an unknown option.
    """
    record, task = METHODS.find(method), one_task(task)
    settings = settled("score_neurons", ScoreSettings, options)
    if (neurons is not None) != record.neurons:
        raise InputError(
            f"Method {method!r} with neurons={neurons!r}: 'exact' needs the neurons to ablate, "
            "the other methods score all neurons."
        )
    model_view = view(model)
    chosen = None if neurons is None else neuron_set(model_view, neurons)
    if settings.layers is not None and (record.neurons or not record.data):
        raise InputError(
            f"layers={list(settings.layers)} with method {method!r}: only "
            f"{', '.join(item_methods())} can score some layers alone."
        )
    require_fit(record, settings)
    if not record.data:
        return _score_weights(model_view, task, record, settings)
    inputs = read_inputs(model_view, task, settings, contrast=_contrasted(settings))
    items = _prepared(model_view, inputs.items, settings)
    examples = (
        torch.zeros(len(items), *model_view.shape, dtype=torch.float32, device="cpu")
        if settings.per_example
        else None
    )
    values = score_batches(
        model_view, list(inputs.batches(items)), method, neurons=chosen, settings=settings,
        progress=Progress(f"{method} {task.name}", shown=progress), examples=examples,
    )  # fmt: skip
    info = _info(model_view, task, inputs, settings, record)
    return NeuronScores(values, model_view.fingerprint, task.name, method, info, examples)


def require_fit(method: Method, settings: ScoreSettings) -> None:
    """Raise ValueError where a method can't answer what is asked.

    Args:
        method: the method.
        settings: metric, ablation, positions and sign.
    """
    metric, name = settings.measure, method.name
    cause = ""
    if not method.asks and not settings.asks_default:
        cause = "it is no effect on a metric"
    elif settings.signed and not method.signed:
        cause = "it has no sign; use 'grad_act' for signed scores"
    elif method.gradients and not metric.gradient:
        cause = f"metric {metric.name!r} has no gradient; use 'exact'"
    elif method.first_order and metric.reference:
        cause = (
            f"the gradient of {metric.name!r} is zero where nothing is disturbed yet; use "
            "'integrated_gradients' or 'exact'"
        )
    elif settings.per_example and not method.data:
        cause = "it takes no examples"
    elif settings.per_example and method.whole:
        cause = "no example has a score of its own"
    if cause:
        facts = ", ".join(f"{key}={value!r}" for key, value in settings.facts().items() if value)
        raise InputError(f"Method {name!r} can't answer {facts}: {cause}.")


def prepared_batches(model_view: ModelView, task: Task, settings: ScoreSettings) -> list[Batch]:
    """Return a task's batches, whose examples carry what metric and ablation need."""
    inputs = read_inputs(model_view, task, settings, contrast=_contrasted(settings))
    return list(inputs.batches(_prepared(model_view, inputs.items, settings)))


def _contrasted(settings: ScoreSettings) -> bool:
    """Whether examples need their wrong answers or counterfactual prompts."""
    metric = settings.measure
    return metric.wrong or metric.by_item or settings.ablation == "counterfactual"


def _prepared(
    model_view: ModelView, items: Sequence[Item], settings: ScoreSettings
) -> Sequence[Item]:
    """Give the items what the ablation needs of each."""
    if isinstance(settings.ablation, Tensor):
        return items
    prepared = ABLATIONS.find(settings.ablation).prepared(items, settings.seed)
    require_counterfactuals_fit(model_view, prepared)
    return prepared


def item_methods() -> tuple[str, ...]:
    """Return the methods that score all neurons on examples, those of your own included."""
    return METHODS.names(data=True, neurons=False)


def _score_weights(
    model_view: ModelView, task: Task, method: Method, settings: ScoreSettings
) -> NeuronScores:
    values = method.function(model_view, settings)
    if tuple(values.shape) != model_view.shape:
        raise InputError(
            f"Method {method.name!r} gives scores of shape {tuple(values.shape)}; it must be "
            f"{model_view.shape}: [layer, d_mlp]."
        )
    require_scores(method, values)
    info: dict[str, Any] = {"model": model_view.name, "task": task.name}
    if method.name == "random":
        info["seed"] = settings.seed
    return NeuronScores(values, model_view.fingerprint, task.name, method.name, info)


def _info(
    model_view: ModelView, task: Task, inputs: Inputs, settings: ScoreSettings, method: Method
) -> dict[str, Any]:
    """What the scores were made of."""
    prompt = settings.prompt
    info = {
        "model": model_view.name, "task": task.name,
        "split": settings.split, "n_examples": len(inputs.items),
        "n_truncated": inputs.n_truncated, "n_tokens": sum(map(len, inputs.items)),
        "shots": prompt.shots, "chat": prompt.chat,
        "prompt_seed": prompt.seed, "dtype": str(model_view.dtype).removeprefix("torch."),
    }  # fmt: skip
    if method.asks:
        info |= {**settings.facts(), "unit": settings.measure.unit}
    else:
        info |= {"unit": method.unit, "positions": named(settings.read_by(method).positions)}
    if method.name == "integrated_gradients":
        info["steps"] = settings.steps
    if settings.layers is not None:
        info["layers"] = list(settings.layers)
    return info


@torch.inference_mode(False)
def score_items(
    model: LanguageModel,
    items: Sequence[Item],
    method: str = "grad_act",
    **options: Unpack[ItemOptions],
) -> PerLayer:
    """Score neurons on tokenised examples of your own, without a ``Task``.

    Args:
        model: a HookedTransformer or TransformerBridge.
        items: prompt and answer ids; only the answer counts in the loss.
        method: a method of ``METHODS`` that needs data and no neurons.
        **options: ``token_budget``, ``layers``, ``steps``, ``seed``, ``metric``, ``ablation``,
            ``positions`` and ``signed``; see ``ScoreSettings``. Wrong answers and counterfactual
            prompts are those of the items.

    Raises:
        ValueError: for another method, no items, an item without prompt or answer (naming it), or
            a loss that is not finite.
        TypeError: for an unknown option.
    """
    _require_item_method(method)
    settings = settled("score_items", ScoreSettings, options, known=ItemOptions.__annotations__)
    if not isinstance(items, Sequence) or isinstance(items, str):
        raise InputTypeError(
            f"Expected a list of Items, got {items!r}; give Item(...) of token ids."
        )
    for i, item in enumerate(items):
        if not isinstance(item, Item):
            raise InputTypeError(
                f"Item {i} is {str(item)[:60]!r} ({type(item).__name__}); give "
                "Item(index, prompt ids, answer ids, end ids), or score a task with score_neurons."
            )
        if not item.prompt or not item.answer:
            raise InputError(
                f"Item {i} has {len(item.prompt)} prompt and {len(item.answer)} answer tokens; it "
                "needs at least one of each (a BOS will do as prompt)."
            )
    require_fit(METHODS.find(method), settings)
    model_view = view(model)
    require_fitting(model_view, items)
    budget = token_budget_for(model_view.device, settings.token_budget)
    batches = list(make_batches(_prepared(model_view, items, settings), token_budget=budget))
    return score_batches(model_view, batches, method, settings=settings)


def _require_item_method(method: str) -> None:
    if method not in item_methods():
        raise InputError(f"Unknown method {method!r}{did_you_mean(method, item_methods())}")


@torch.inference_mode(False)
def score_tasks(
    model: LanguageModel,
    tasks: Task | Iterable[Task],
    method: str = "grad_act",
    *,
    progress: bool | None = None,
    **options: Unpack[ScoreOptions],
) -> dict[str, NeuronScores]:
    """Score the neurons for several tasks in one pass; the scores are those of ``score_neurons``.

    Batches hold examples of all tasks together, so that few small tasks fill them, and an example
    (prompt and answer) that several tasks have runs once.

    Args:
        model: a HookedTransformer or TransformerBridge with a tokenizer.
        tasks: the tasks.
        method: a method of ``METHODS`` that needs data and no neurons.
        progress: show a progress bar; by default after two seconds (see ``Progress``).
        **options: as ``score_neurons``; ``limit`` counts for each task.

    Returns:
        Task name to scores.

    Raises:
        ValueError: as ``score_neurons``, for another method, or without tasks.
        TypeError: for an unknown option.
    """
    _require_item_method(method)
    settings = settled("score_tasks", ScoreSettings, options)
    listed, model_view = Tasks(tasks), view(model)
    if not listed:
        raise InputError("There are no tasks to score neurons for; give at least one.")
    record = METHODS.find(method)
    require_fit(record, settings)
    # Of each task's own examples.
    if settings.ablation == "mean" or settings.per_example or record.whole:
        return {
            task.name: score_neurons(model, task, method, progress=progress, **options)
            for task in listed
        }
    found = [
        read_inputs(model_view, task, settings, contrast=_contrasted(settings)) for task in listed
    ]
    prepared = [_prepared(model_view, inputs.items, settings) for inputs in found]
    # A function of the user's may ask for an example's number, which tasks give differently.
    numbered = settings.measure.by_item or callable(settings.positions)
    examples = [[item if numbered else _content(item) for item in items] for items in prepared]
    merged: dict[Item, Item] = {}
    for content, item in zip(chain(*examples), chain(*prepared), strict=True):
        merged.setdefault(content, item)
    batches = list(found[0].batches(tuple(merged.values())))
    places = {content: place for place, content in enumerate(merged)}
    # How often each task has each example.
    owners = torch.zeros(len(listed), len(places), dtype=torch.float32, device="cpu")
    for row, contents in enumerate(examples):
        for content in contents:
            owners[row, places[content]] += 1
    values = score_batches(
        model_view, batches, method, settings=settings, owners=owners,
        progress=Progress(f"{method} of {len(listed)} tasks", shown=progress),
    )  # fmt: skip
    return {
        task.name: NeuronScores(
            values[row], model_view.fingerprint, task.name, method,
            _info(model_view, task, found[row], settings, record),
        )
        for row, task in enumerate(listed)
    }  # fmt: skip


def _content(item: Item) -> Item:
    """Return what makes two items the same example."""
    return replace(item, index=0, end=())


@torch.inference_mode(False)
def activation_mean(
    model: LanguageModel, task: OneTask, **options: Unpack[DataOptions]
) -> PerLayer:
    """Return each neuron's mean activation over all tokens of a task's examples.

    For mean ablation: pass it to ``tl_taskneurons.mean_ablate``.

    Args:
        model: a HookedTransformer or TransformerBridge with a tokenizer.
        task: the task.
        **options: ``split="train"``, ``prompt``, ``limit`` and ``token_budget``; see ``Data``.
    """
    model_view, task = view(model), one_task(task)
    inputs = read_inputs(model_view, task, settled("activation_mean", Data, options))
    return score_batches(model_view, list(inputs.batches()), "activation_mean")
