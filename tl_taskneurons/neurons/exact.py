"""The exact effect of silencing single neurons: what the attribution methods approximate."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_taskneurons.models.forward import answer_losses
from tl_taskneurons.models.hooks import hooked
from tl_taskneurons.models.view import ModelView, require_same_model
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.progress import Progress
from tl_taskneurons.runtime.sharing import Team
from tl_taskneurons.tasks.batches import Batch


def exact(
    model_view: ModelView,
    batches: Sequence[Batch],
    neurons: NeuronSet,
    team: Team,
    progress: Progress,
) -> Float[Tensor, "layer d_mlp"]:
    """Silence one neuron at a time: sum over examples of |L(w=0) - L| (paper, section 2).

    Processes share the neurons, not the examples: in other batches losses round differently, and
    their differences show it.
    """
    require_same_model(repr(neurons), neurons.fingerprint, model_view)
    values = torch.zeros(model_view.shape, dtype=torch.float32)
    batches = [batch.to(model_view.device) for batch in batches]
    with torch.no_grad(), progress:
        plain = [answer_losses(model_view, batch) for batch in batches]
        pairs = neurons.mask.nonzero().tolist()
        own = [pairs[i] for i in team.own([1] * len(pairs))]
        for layer, j in progress.track(own):
            with _silenced(model_view, layer, j):
                for batch, before in zip(batches, plain, strict=True):
                    change = (answer_losses(model_view, batch) - before).abs().sum()
                    values[layer, j] += change.cpu()
    return values


@contextmanager
def _silenced(model_view: ModelView, layer: int, j: int) -> Iterator[None]:
    def silence(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001 (TransformerLens)
        activation = activation.clone()
        activation[..., j] = 0.0
        return activation

    with hooked(model_view, {layer: silence}):
        yield
