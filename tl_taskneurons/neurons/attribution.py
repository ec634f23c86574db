"""Scores of how much each MLP neuron matters to a task.

The paper's relevance of neuron w is ``|L(w=0) - L(w)|``, to first order ``|dL/dw * w|`` (Leng &
Xiong 2025, section 2). A neuron is silenced at every position of an example, so the first-order
effect on one example is ``|sum over positions of g*w|``, and the task's score is the mean over its
examples. That is the default, ``"grad_act"``; the other methods are there to compare with.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from tl_taskneurons.models.view import ModelView, view
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.scoring import PerLayer, score_batches
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.errors import InputError, did_you_mean
from tl_taskneurons.runtime.progress import Progress
from tl_taskneurons.tasks.batches import make_batches, pad_id_of, token_budget_for
from tl_taskneurons.tasks.prompts import Encoded, Item, Prompt, encode
from tl_taskneurons.tasks.task import Task, Tasks

METHODS = {
    "grad_act": "mean over examples of |sum over positions of gradient * activation|, in nats",
    "grad_act_abs": "mean over examples of the sum over positions of |gradient * activation|",
    "grad_act_mean": "|mean over examples of the summed gradient * activation| (signs cancel)",
    "integrated_gradients": "gradients along the path from a silent layer, one layer at a time",
    "exact": "mean over examples of |loss when silenced - loss|, one neuron at a time",
    "activation": "mean over tokens of |activation|",
    "frequency": "share of tokens with an activation above 0",
    "weight_norm": "norm of the input weights times norm of the output weights; no data",
    "random": "uniform random numbers; no data",
}
ITEM_METHODS = tuple(m for m in METHODS if m not in ("exact", "weight_norm", "random"))


@torch.inference_mode(False)  # gradients, also when the caller is in inference mode
def score_neurons(
    model: Any,
    task: Task,
    method: str = "grad_act",
    *,
    split: str = "train",
    prompt: Prompt = Prompt(),
    limit: int | None = None,
    neurons: NeuronSet | None = None,
    layers: Sequence[int] | None = None,
    steps: int = 8,
    token_budget: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> NeuronScores:
    """Score every MLP neuron of a model by its relevance to a task.

    Parameters are frozen while gradients are taken at the hook points; each layer's gradient is
    reduced with its activation as the backward pass goes, so no layer's gradient is kept. Results
    do not depend on the batch size, the order of examples or padding.

    Args:
        model: a HookedTransformer or TransformerBridge with a tokenizer.
        task: the task; its loss is the mean cross-entropy of the answer tokens, in nats.
        method: one of ``METHODS``.
        split: which examples to use.
        prompt: how examples become text.
        limit: at most the first ``limit`` examples.
        neurons: which neurons to ablate, for ``"exact"`` only; the others score 0.
        layers: score these layers only, for the methods that take gradients or activations; the
            others score 0, and layers below the lowest take no part in the backward pass.
        steps: points on the path, for ``"integrated_gradients"``.
        token_budget: the most tokens in a batch; None suits the device. Where memory runs out,
            batches are cut in halves, with a warning.
        seed: for ``"random"``.
        progress: show a progress bar.

    Raises:
        ValueError: for an unknown method, an empty split, a loss that is not finite (naming the
            example), ``"exact"`` without ``neurons``, neurons of another model, or a layer that
            isn't there.
    """
    if method not in METHODS:
        raise InputError(f"Unknown method {method!r}{did_you_mean(method, tuple(METHODS))}")
    if (neurons is not None) != (method == "exact"):
        raise InputError(
            f"Method {method!r} with neurons={neurons!r}: 'exact' needs the neurons to ablate, "
            "the other methods score all neurons."
        )
    if steps < 1:
        raise InputError(f"steps is {steps}; integrated gradients needs at least 1.")
    model_view = view(model)
    if layers is not None and method not in ITEM_METHODS:
        raise InputError(
            f"layers={list(layers)} with method {method!r}: only {', '.join(ITEM_METHODS)} can "
            "score some layers alone."
        )
    info: dict[str, Any] = {"model": model_view.name, "task": task.name}
    if method == "random":
        generator = torch.Generator().manual_seed(seed)
        values = torch.rand(model_view.shape, generator=generator)
        return NeuronScores(
            values, model_view.fingerprint, task.name, method, {**info, "seed": seed}
        )
    if method == "weight_norm":
        return NeuronScores(
            _weight_norms(model_view), model_view.fingerprint, task.name, method, info
        )
    encoded = _encode(model_view, task, split, prompt, limit)
    budget = token_budget_for(model_view.device, token_budget)
    pad_id = pad_id_of(model_view.model.tokenizer)
    values = score_batches(
        model_view, list(make_batches(encoded.items, token_budget=budget, pad_id=pad_id)), method,
        neurons=neurons, steps=steps, layers=layers,
        progress=Progress(f"{method} {task.name}", shown=progress),
    )  # fmt: skip
    info = _info(model_view, task, encoded, split, prompt, method, steps, layers)
    return NeuronScores(values, model_view.fingerprint, task.name, method, info)


def _encode(
    model_view: ModelView, task: Task, split: str, prompt: Prompt, limit: int | None
) -> Encoded:
    tokenizer = getattr(model_view.model, "tokenizer", None)
    return encode(
        task, tokenizer, split=split, prompt=prompt, limit=limit, max_length=model_view.n_ctx
    )


def _info(
    model_view: ModelView, task: Task, encoded: Encoded, split: str, prompt: Prompt, method: str,
    steps: int, layers: Sequence[int] | None,
) -> dict[str, Any]:  # fmt: skip
    """What the scores were made of."""
    info = {
        "model": model_view.name, "task": task.name,
        "split": split, "n_examples": len(encoded.items), "n_truncated": encoded.n_truncated,
        "n_tokens": sum(map(len, encoded.items)), "shots": prompt.shots, "chat": prompt.chat,
        "prompt_seed": prompt.seed, "dtype": str(model_view.dtype).removeprefix("torch."),
    }  # fmt: skip
    if method == "integrated_gradients":
        info["steps"] = steps
    if layers is not None:
        info["layers"] = list(layers)
    return info


@torch.inference_mode(False)
def score_items(
    model: Any,
    items: Sequence[Item],
    method: str = "grad_act",
    *,
    token_budget: int | None = None,
) -> PerLayer:
    """Score neurons on tokenised examples of your own, without a ``Task``.

    Args:
        model: a HookedTransformer or TransformerBridge.
        items: prompt and answer ids; only the answer counts in the loss.
        method: a method of ``METHODS`` that needs data and no neurons.
        token_budget: the most tokens in a batch; see ``score_neurons``.

    Raises:
        ValueError: for another method, no items, an item without prompt or answer (naming it), or
            a loss that is not finite.
    """
    if method not in ITEM_METHODS:
        raise InputError(f"Unknown method {method!r}{did_you_mean(method, ITEM_METHODS)}")
    for i, item in enumerate(items):
        if not item.prompt or not item.answer:
            raise InputError(
                f"Item {i} has {len(item.prompt)} prompt and {len(item.answer)} answer tokens; it "
                "needs at least one of each (a BOS will do as prompt)."
            )
    model_view = view(model)
    budget = token_budget_for(model_view.device, token_budget)
    return score_batches(model_view, list(make_batches(items, token_budget=budget)), method)


@torch.inference_mode(False)
def score_tasks(
    model: Any,
    tasks: Iterable[Task],
    method: str = "grad_act",
    *,
    split: str = "train",
    prompt: Prompt = Prompt(),
    limit: int | None = None,
    layers: Sequence[int] | None = None,
    steps: int = 8,
    token_budget: int | None = None,
    progress: bool = False,
) -> dict[str, NeuronScores]:
    """Score the neurons for several tasks in one pass; the scores are those of ``score_neurons``.

    Batches hold examples of all tasks together, so that few small tasks fill them, and an example
    (prompt and answer) that several tasks have runs once.

    Args:
        model: a HookedTransformer or TransformerBridge with a tokenizer.
        tasks: the tasks.
        method: a method of ``METHODS`` that needs data and no neurons.
        split: which examples to use.
        prompt: how examples become text.
        limit: at most the first ``limit`` examples of each task.
        layers: score these layers only; see ``score_neurons``.
        steps: points on the path, for ``"integrated_gradients"``.
        token_budget: the most tokens in a batch; see ``score_neurons``.
        progress: show a progress bar.

    Returns:
        Task name to scores.

    Raises:
        ValueError: as ``score_neurons``, for another method, or without tasks.
    """
    if method not in ITEM_METHODS:
        raise InputError(f"Unknown method {method!r}{did_you_mean(method, ITEM_METHODS)}")
    listed, model_view = Tasks(tasks), view(model)
    if not listed:
        raise InputError("There are no tasks to score neurons for; give at least one.")
    found = [_encode(model_view, task, split, prompt, limit) for task in listed]
    places: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
    for encoded in found:
        for item in encoded.items:
            places.setdefault((item.prompt, item.answer), len(places))
    # How often each task has each example.
    owners = torch.zeros(len(listed), len(places))
    for row, encoded in enumerate(found):
        for item in encoded.items:
            owners[row, places[item.prompt, item.answer]] += 1
    items = [Item(place, *ids, ()) for ids, place in places.items()]
    pad_id = pad_id_of(model_view.model.tokenizer)
    budget = token_budget_for(model_view.device, token_budget)
    values = score_batches(
        model_view, list(make_batches(items, token_budget=budget, pad_id=pad_id)), method,
        steps=steps, layers=layers, owners=owners,
        progress=Progress(f"{method} of {len(listed)} tasks", shown=progress),
    )  # fmt: skip
    return {
        task.name: NeuronScores(
            values[row], model_view.fingerprint, task.name, method,
            _info(model_view, task, found[row], split, prompt, method, steps, layers),
        )
        for row, task in enumerate(listed)
    }  # fmt: skip


@torch.inference_mode(False)
def activation_mean(
    model: Any,
    task: Task,
    *,
    split: str = "train",
    prompt: Prompt = Prompt(),
    limit: int | None = None,
    token_budget: int | None = None,
) -> PerLayer:
    """Return each neuron's mean activation over all tokens of a task's examples.

    For mean ablation: pass it to ``tl_taskneurons.mean_ablate``.
    """
    model_view = view(model)
    encoded = _encode(model_view, task, split, prompt, limit)
    budget = token_budget_for(model_view.device, token_budget)
    batches = list(make_batches(encoded.items, token_budget=budget))
    return score_batches(model_view, batches, "activation_mean")


def _weight_norms(model_view: ModelView) -> PerLayer:
    rows = []
    for layer in model_view.layers:
        parts = layer.parameters
        incoming = sum(
            parts[name].oriented.float().square().sum(0)
            for name in ("W_in", "W_gate")
            if name in parts
        )
        outgoing = parts["W_out"].oriented.float().square().sum(1)
        rows.append((incoming * outgoing).sqrt().cpu())
    return torch.stack(rows)
