"""Training chosen neurons and nothing else (paper, section 2, train-task)."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_taskneurons.models.view import ModelView, pinned_fingerprint, require_same_model, view
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.tasks.prompts import Prompt
from tl_taskneurons.tasks.task import Task
from tl_taskneurons.training.deltas import NeuronDelta
from tl_taskneurons.training.loop import fit, training_items
from tl_taskneurons.training.settings import Training
from tl_taskneurons.training.slices import (
    NeuronTrainee,
    ScaledNeuronTrainee,
    read_slices,
    write_slices,
)


@torch.inference_mode(False)
def finetune(
    model: Any,
    tasks: Task | Sequence[Task],
    neurons: NeuronSet,
    training: Training = Training(),
    *,
    prompt: Prompt = Prompt(),
    limit: int | None = None,
    keep: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = False,
    update_scale: Float[Tensor, "layer d_mlp"] | None = None,
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
        neurons: which neurons.
        training: learning rate, steps and so on.
        prompt: the form of the prompt.
        limit: at most so many training examples of each task.
        keep: leave the trained weights in the model. By default the model is as it was, and
            ``delta.applied(model)`` brings them back for a while.
        checkpoint: a file to save to now and then and to resume from; a resumed run ends with
            the same bytes as an unbroken one.
        progress: whether to show a bar with the loss.
        update_scale: a factor of each neuron's updates, between 0 (the neuron stays as it is)
            and 1; None is 1 for all. Weight decay then pulls towards the start, not to 0.

    Returns:
        The trained difference; ``history`` has the loss (nats) of each update.

    Raises:
        ValueError: for an empty set, neurons of another model, folded or quantised weights, no
            training examples, or a loss that is not finite (naming the batch; the model is put
            back and the last checkpoint stays).
    """
    model_view = view(model)
    chosen = [tasks] if isinstance(tasks, Task) else list(tasks)
    require_same_model(repr(neurons), neurons.fingerprint, model_view)
    if not len(neurons):
        raise InputError(f"{neurons!r} has no neuron to train; choose at least one.")
    require_raw(model_view)
    items = training_items(model_view, chosen, prompt, limit)
    base = read_slices(model_view, neurons)
    packed = neurons.mask.to(torch.uint8).numpy().tobytes()
    if update_scale is None:
        trainee = NeuronTrainee(model_view, neurons)
    else:
        trainee = ScaledNeuronTrainee(model_view, neurons, update_scale)
        packed += update_scale.float().cpu().numpy().tobytes()
    key = f"neurons/{neurons.fingerprint}/{hashlib.sha256(packed).hexdigest()}"
    names = "+".join(task.name for task in chosen)
    done = False
    try:
        with pinned_fingerprint(model_view):
            history = fit(
                model_view, trainee, items, training, key=key, checkpoint=checkpoint,
                progress=progress, title=f"training {names}",
            )  # fmt: skip
        done = True
    finally:
        if not (done and keep):
            write_slices(model_view, neurons, base)
    info = {
        "trained": "neurons", "tasks": [task.name for task in chosen], "examples": len(items),
        "steps": len(history), "training": asdict(training), "prompt": asdict(prompt),
        "neurons": neurons.name, "model": model_view.name,
    }  # fmt: skip
    return NeuronDelta(
        neurons=neurons,
        base={name: value.cpu() for name, value in base.items()},
        trained={name: value.detach().cpu() for name, value in trainee.masters.items()},
        name=names,
        info=info,
        history=history,
    )


def require_raw(model_view: ModelView) -> None:
    """Raise ValueError when a model's weights were processed (layer norm folded in and the like).

    Raises:
        ValueError: naming the reason.
    """
    model = model_view.model
    norm = str(getattr(model.cfg, "normalization_type", "") or "")
    if model_view.is_bridge:
        # Compatibility mode alone (no_processing=True) leaves the weights as they are.
        folded = getattr(model, "_weights_processed", getattr(model, "compatibility_mode", False))
        how = "by enable_compatibility_mode"
    else:
        folded, how = norm.endswith("Pre"), f"normalization_type {norm!r}"
    if folded:
        raise InputError(
            f"{model_view.name} has processed weights ({how}): layer norms are folded into the "
            "MLP's matrices, so what is trained there would not fit the model that was loaded. "
            "Load it raw, with tl_taskneurons.load_model, from_pretrained_no_processing or "
            "without enable_compatibility_mode."
        )
