"""Scores of how much each MLP neuron matters to a task.

The paper's relevance of neuron w is ``|L(w=0) - L(w)|``, to first order ``|dL/dw * w|`` (Leng &
Xiong 2025, section 2). A neuron is silenced at every position of an example, so the first-order
effect on one example is ``|sum over positions of g*w|``, and the task's score is the mean over its
examples. That is the default, ``"grad_act"``; the other methods are there to compare with.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_taskneurons.forward import answer_losses, frozen
from tl_taskneurons.model import ModelView, require_same_model, view
from tl_taskneurons.neurons import NeuronScores, NeuronSet
from tl_taskneurons.progress import Progress
from tl_taskneurons.prompts import Batch, Item, Prompt, encode, make_batches, pad_id_of
from tl_taskneurons.tasks import Task, did_you_mean

Hook = Callable[[Tensor, Any], Tensor]
PerLayer = Float[Tensor, "layer d_mlp"]

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
    prompt: Prompt = Prompt(),  # noqa: B008 (frozen)
    limit: int | None = None,
    neurons: NeuronSet | None = None,
    steps: int = 8,
    token_budget: int = 2048,
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
        steps: points on the path, for ``"integrated_gradients"``.
        token_budget: the most tokens in a batch.
        seed: for ``"random"``.
        progress: show a progress bar.

    Raises:
        ValueError: for an unknown method, an empty split, a loss that is not finite (naming the
            example), ``"exact"`` without ``neurons``, or neurons of another model.
    """
    if method not in METHODS:
        raise ValueError(f"Unknown method {method!r}{did_you_mean(method, tuple(METHODS))}")
    if (neurons is not None) != (method == "exact"):
        raise ValueError(
            f"Method {method!r} with neurons={neurons!r}: 'exact' needs the neurons to ablate, "
            "the other methods score all neurons."
        )
    if steps < 1:
        raise ValueError(f"steps is {steps}; integrated gradients needs at least 1.")
    model_view = view(model)
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
    tokenizer = getattr(model_view.model, "tokenizer", None)
    encoded = encode(
        task, tokenizer, split=split, prompt=prompt, limit=limit, max_length=model_view.n_ctx
    )
    info |= {
        "split": split, "n_examples": len(encoded.items), "n_truncated": encoded.n_truncated,
        "n_tokens": sum(map(len, encoded.items)), "shots": prompt.shots, "chat": prompt.chat,
        "prompt_seed": prompt.seed, "dtype": str(model_view.dtype).removeprefix("torch."),
    }  # fmt: skip
    if method == "integrated_gradients":
        info["steps"] = steps
    batches = list(
        make_batches(encoded.items, token_budget=token_budget, pad_id=pad_id_of(tokenizer))
    )
    values = score_batches(
        model_view, batches, method, neurons=neurons, steps=steps,
        progress=Progress(f"{method} {task.name}", shown=progress),
    )  # fmt: skip
    return NeuronScores(values, model_view.fingerprint, task.name, method, info)


@torch.inference_mode(False)
def score_items(
    model: Any, items: Sequence[Item], method: str = "grad_act", *, token_budget: int = 2048
) -> PerLayer:
    """Score neurons on tokenised examples of your own, without a ``Task``.

    Args:
        model: a HookedTransformer or TransformerBridge.
        items: prompt and answer ids; only the answer counts in the loss.
        method: a method of ``METHODS`` that needs data and no neurons.
        token_budget: the most tokens in a batch.

    Raises:
        ValueError: for another method, no items, an item without prompt or answer (naming it), or
            a loss that is not finite.
    """
    if method not in ITEM_METHODS:
        raise ValueError(f"Unknown method {method!r}{did_you_mean(method, ITEM_METHODS)}")
    for i, item in enumerate(items):
        if not item.prompt or not item.answer:
            raise ValueError(
                f"Item {i} has {len(item.prompt)} prompt and {len(item.answer)} answer tokens; it "
                "needs at least one of each (a BOS will do as prompt)."
            )
    return score_batches(view(model), list(make_batches(items, token_budget=token_budget)), method)


def score_batches(
    model_view: ModelView,
    batches: Sequence[Batch],
    method: str,
    *,
    neurons: NeuronSet | None = None,
    steps: int = 8,
    progress: Progress | None = None,
) -> PerLayer:
    """Run a method that needs data over batches; see ``score_neurons``.

    Besides the methods, ``"signed"`` gives the mean over examples of the signed sum of
    gradient * activation. It adds up over neurons: minus its sum over a set is the first-order
    change of the loss when the whole set is silenced.
    """
    progress = progress or Progress("", shown=False)
    n_examples = sum(len(batch.index) for batch in batches)
    if not n_examples:
        raise ValueError("There are no examples to score neurons on.")
    with frozen(model_view.model):
        if method == "exact":
            assert neurons is not None
            return _exact(model_view, batches, neurons, progress)
        totals = torch.zeros(model_view.shape, dtype=torch.float32, device=model_view.device)
        n_tokens = 0
        with progress:
            for batch in progress.track(batches):
                batch = batch.to(model_view.device)
                n_tokens += int(batch.attention_mask.sum())
                if method in ("activation", "frequency"):
                    _add_activations(model_view, batch, method, totals)
                elif method == "integrated_gradients":
                    _add_integrated(model_view, batch, steps, totals)
                else:
                    _add_first_order(model_view, batch, method, totals)
    divisor = n_tokens if method in ("activation", "frequency") else n_examples
    result = totals / divisor
    return (result.abs() if method == "grad_act_mean" else result).cpu()


@torch.inference_mode(False)
def activation_mean(
    model: Any,
    task: Task,
    *,
    split: str = "train",
    prompt: Prompt = Prompt(),  # noqa: B008 (frozen)
    limit: int | None = None,
    token_budget: int = 2048,
) -> PerLayer:
    """Return each neuron's mean activation over all tokens of a task's examples.

    For mean ablation: pass it to ``tl_taskneurons.mean_ablate``.
    """
    model_view = view(model)
    tokenizer = getattr(model_view.model, "tokenizer", None)
    encoded = encode(
        task, tokenizer, split=split, prompt=prompt, limit=limit, max_length=model_view.n_ctx
    )
    totals = torch.zeros(model_view.shape, dtype=torch.float32, device=model_view.device)
    n_tokens = 0
    with frozen(model_view.model):
        for batch in make_batches(encoded.items, token_budget=token_budget):
            batch = batch.to(model_view.device)
            _add_activations(model_view, batch, "sum", totals)
            n_tokens += int(batch.attention_mask.sum())
    return (totals / n_tokens).cpu()


def _add_first_order(model_view: ModelView, batch: Batch, method: str, totals: PerLayer) -> None:
    """Add gradient * activation of a batch; each layer is reduced when its gradient arrives."""

    def reduce(layer: int, gradient: Tensor, activation: Tensor) -> None:
        product = gradient.float() * activation.float()
        summed = (product.abs() if method == "grad_act_abs" else product).sum(1)
        if method == "grad_act":
            summed = summed.abs()
        totals[layer] += summed.sum(0).to(totals.device)

    backward(model_view, batch, reduce)


def backward(
    model_view: ModelView,
    batch: Batch,
    reduce: Callable[[int, Tensor, Tensor], None],
    scale: tuple[int, float] | None = None,
    lowest: int = 0,
) -> None:
    """Run forward and backward; hand each layer's gradient and activation to ``reduce``.

    Args:
        model_view: the model, frozen.
        batch: tokens on the model's device.
        reduce: called with layer, gradient and (unscaled) activation ``[batch, pos, d_mlp]``.
        scale: a layer whose activations are multiplied by a factor first.
        lowest: layers below it take no part in the backward pass.
    """
    fired: set[int] = set()

    def hook(layer: int) -> Hook:
        def capture(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001 (TransformerLens)
            fired.add(layer)
            value = activation.detach()
            if scale is not None and scale[0] == layer:
                activation = activation.detach() * scale[1]
            if not activation.requires_grad:
                activation = activation.detach().requires_grad_()

            def on_gradient(gradient: Tensor) -> None:
                reduce(layer, gradient, value)

            activation.register_hook(on_gradient)
            return activation

        return capture

    hooks = [(layer.hook, hook(layer.index)) for layer in model_view.layers[lowest:]]
    with torch.enable_grad(), model_view.model.hooks(fwd_hooks=hooks):
        losses = answer_losses(model_view, batch)
        require_fired(model_view, fired, lowest)
        losses.sum().backward()


def _add_integrated(model_view: ModelView, batch: Batch, steps: int, totals: PerLayer) -> None:
    """Integrate gradients along ``alpha * w``, alpha from 0 to 1, scaling one layer as a whole.

    The midpoint rule; ``activation * mean gradient`` summed over positions.
    """
    for layer in range(model_view.n_layers):
        sums = torch.zeros(len(batch.index), model_view.d_mlp, device=totals.device)

        def reduce(
            at: int, gradient: Tensor, activation: Tensor, layer: int = layer, sums: Tensor = sums
        ) -> None:
            if at == layer:
                sums += (gradient.float() * activation.float()).sum(1).to(sums.device)

        for step in range(steps):
            backward(model_view, batch, reduce, (layer, (step + 0.5) / steps), lowest=layer)
        totals[layer] += (sums / steps).abs().sum(0)


def _add_activations(model_view: ModelView, batch: Batch, method: str, totals: PerLayer) -> None:
    fired: set[int] = set()
    real = batch.attention_mask.unsqueeze(-1)

    def hook(layer: int) -> Hook:
        def capture(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001 (TransformerLens)
            fired.add(layer)
            value = activation.float()
            if method == "activation":
                value = value.abs()
            elif method == "frequency":
                value = (value > 0).float()
            totals[layer] += (value * real.to(value.device)).sum((0, 1)).to(totals.device)
            return activation

        return capture

    hooks = [(layer.hook, hook(layer.index)) for layer in model_view.layers]
    with torch.no_grad(), model_view.model.hooks(fwd_hooks=hooks):
        answer_losses(model_view, batch)
    require_fired(model_view, fired)


def _exact(
    model_view: ModelView, batches: Sequence[Batch], neurons: NeuronSet, progress: Progress
) -> PerLayer:
    """Silence one neuron at a time: mean over examples of |L(w=0) - L| (paper, section 2)."""
    require_same_model(repr(neurons), neurons.fingerprint, model_view)
    values = torch.zeros(model_view.shape, dtype=torch.float32)
    n_examples = sum(len(batch.index) for batch in batches)
    batches = [batch.to(model_view.device) for batch in batches]
    with torch.no_grad(), progress:
        plain = [answer_losses(model_view, batch) for batch in batches]
        for layer, j in progress.track(neurons.mask.nonzero().tolist()):
            with _silenced(model_view, layer, j):
                for batch, before in zip(batches, plain, strict=True):
                    change = (answer_losses(model_view, batch) - before).abs().sum()
                    values[layer, j] += change.cpu()
    return values / n_examples


@contextmanager
def _silenced(model_view: ModelView, layer: int, j: int) -> Iterator[None]:
    def silence(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001 (TransformerLens)
        activation = activation.clone()
        activation[..., j] = 0.0
        return activation

    with model_view.model.hooks(fwd_hooks=[(model_view.layers[layer].hook, silence)]):
        yield


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


def require_fired(model_view: ModelView, fired: set[int], lowest: int = 0) -> None:
    """Raise RuntimeError when a layer's hook did not fire in a forward pass."""
    silent = set(range(lowest, model_view.n_layers)) - fired
    if silent:
        raise RuntimeError(
            f"The hook {model_view.layers[min(silent)].hook} of {model_view.name} never fired, so "
            "its neurons were not seen; this version of TransformerLens names it otherwise."
        )
