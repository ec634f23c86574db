"""Integrated gradients along a path of inputs, all layers at once.

Hanna et al. 2024 (EAP-IG, arXiv 2403.17806) average gradients over inputs between the
counterfactual prompt's embeddings and the prompt's own, and multiply them by the difference of the
activations that the two ends bring. Here the activations are the neurons'. Where the ablation has
no counterfactual prompts, the path starts at embeddings of zero.
"""

from typing import Any

import torch
from torch import Tensor

from tl_taskneurons.models.forward import answer_logits, in_runs_asked_for
from tl_taskneurons.models.hooks import add_hook
from tl_taskneurons.neurons.ablation import aligned, counterfactual_batch
from tl_taskneurons.neurons.capture import BatchPass
from tl_taskneurons.runtime.cleanup import Undo


def from_inputs(run: BatchPass) -> None:
    """Hand over mean gradients along the inputs times what is removed, summed over positions.

    The points on the path are the midpoints of ``steps`` equal parts. What is removed is kept for
    all layers meanwhile, ``[layer, batch, pos, d_mlp]``.
    """
    removed: dict[int, Tensor] = {}
    run.watch(lambda layer, a: removed.update({layer: run.removed(layer, a)}))
    own = _embeddings(run, run.batch)
    start = torch.zeros_like(own)
    if isinstance(run.settings.ablation, str) and run.settings.ablation in (
        "counterfactual",
        "resample",
    ):
        other, shifts = counterfactual_batch(run.batch)
        start = aligned(_embeddings(run, other), own, shifts)
    sums = {layer: torch.zeros_like(removed[layer][:, 0]) for layer in run.layers}

    def reduce(layer: int, gradient: Tensor, _activation: Tensor) -> None:
        sums[layer] += (gradient.float() * removed[layer]).sum(1)

    steps = run.settings.steps
    for step in range(steps):
        point = torch.lerp(start, own, (step + 0.5) / steps)
        with Undo() as undo:
            _at_embeddings(run, undo, lambda _activation, hook, point=point: point)  # noqa: ARG005
            run.backward(reduce)
    for layer, total in sums.items():
        run.give(layer, total / steps)


def _embeddings(run: BatchPass, batch: Any) -> Tensor:
    found: list[Tensor] = []

    def keep(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001 (TransformerLens)
        found.append(activation.detach())
        return activation

    with torch.no_grad(), Undo() as undo:
        _at_embeddings(run, undo, keep)
        answer_logits(run.model_view, batch)
    return found[0]


def _at_embeddings(run: BatchPass, undo: Undo, hook: Any) -> None:
    point = run.model_view.model.hook_dict["hook_embed"]
    add_hook(undo, point, lambda: point.add_hook(in_runs_asked_for(hook), is_permanent=True))
