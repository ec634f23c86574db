"""Training chosen neurons and nothing else (paper, section 2, train-task)."""

from collections.abc import Sequence
from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.given import Neurons, neuron_set
from tl_taskneurons.runtime.options import settled
from tl_taskneurons.tasks.task import Task
from tl_taskneurons.training.deltas import NeuronDelta
from tl_taskneurons.training.deltas.base import require_own_weights
from tl_taskneurons.training.neuron_trainee import NeuronTrainee, ScaledNeuronTrainee
from tl_taskneurons.training.options import Run, RunOptions
from tl_taskneurons.training.runner import train
from tl_taskneurons.training.settings import Training


@torch.inference_mode(False)
def finetune(
    model: LanguageModel,
    tasks: Task | Sequence[Task],
    neurons: Neurons,
    training: Training = Training(),
    *,
    keep: bool = False,
    update_scale: Float[Tensor, "layer d_mlp"] | None = None,
    **options: Unpack[RunOptions],
) -> NeuronDelta:
    """Train the weights of some neurons on the train split of one or more tasks.

    For every neuron of the set its input column, its gate column and its output row are trained,
    and the biases of the first two. Everything else stays bit-identical, whatever the weight decay:
    no other gradient is formed, so time and memory follow the number of neurons, and layers below
    the lowest chosen neuron take no backward pass. AdamW works on float32 copies of the chosen
    weights, also where the model is in bfloat16.

    Args:
        model: a HookedTransformer or TransformerBridge with raw (unfolded) weights.
        tasks: what to train on; several tasks are mixed.
        neurons: which neurons, a set or ``(layer, neuron)`` pairs.
        training: learning rate, steps and so on.
        keep: leave the trained weights in the model. By default the model is as it was, and
            ``delta.applied(model)`` brings them back for a while.
        update_scale: a factor of each neuron's updates, between 0 (the neuron stays as it is)
            and 1; None is 1 for all. Weight decay then pulls towards the start, not to 0.
        **options: ``prompt`` (its form), ``limit`` (at most so many training examples of each
            task), ``checkpoint`` (a file to save to and to resume from; a resumed run ends with
            the same bytes as an unbroken one) and ``progress`` (show a bar with the loss).

    Returns:
        The trained difference; ``history`` has the loss (nats) of each update.

    Raises:
        ValueError: for an empty set, neurons of another model, folded or quantised weights, no
            training examples, or a loss that is not finite (naming the batch; the model is put
            back and the last checkpoint stays).
        RuntimeError: for ``keep`` while something has changed the model's weights for a while.
        TypeError: for an unknown option, with the nearest ones.
    """
    run, model_view = settled("finetune", Run, options), view(model)
    if keep:
        require_own_weights(model_view)
    neurons = neuron_set(model_view, neurons)
    if update_scale is None:
        trainee = NeuronTrainee(model_view, neurons)
    else:
        trainee = ScaledNeuronTrainee(model_view, neurons, update_scale)
    delta = train(model_view, trainee, tasks, training, run)
    if keep:
        delta.apply(model)
    return delta
