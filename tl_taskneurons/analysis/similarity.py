"""How alike the weights of two tasks' neurons are (paper, section 3).

Nothing here makes a masked copy of a weight matrix: each reading needs, per layer and matrix, only
the neurons' lengths or one ``[sets, d_model]`` sum of their vectors.
"""

import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tl_taskneurons.analysis.overlap import pair_up
from tl_taskneurons.models.layers import MLPLayer
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import require_same_model, view
from tl_taskneurons.neurons.given import named_sets
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.errors import InputError, InputTypeError, did_you_mean
from tl_taskneurons.runtime.options import require_kind
from tl_taskneurons.runtime.registry import Choice, Registry

# A reading takes masks of the sets and one layer's matrices, and returns the dot products of every
# two sets ("masked", "mean") or of all their pairs of neurons ("pairwise").
READINGS: Registry[Choice[Callable[..., Tensor]]] = Registry("reading", Choice)
_WEIGHTS = ("W_in", "W_gate", "W_out")


def weight_similarity(
    model: LanguageModel,
    sets: Mapping[str, NeuronSet],
    other: Mapping[str, NeuronSet] | None = None,
    *,
    reading: str = "masked",
    parts: Sequence[str] | None = None,
    per_layer: bool = True,
) -> pd.DataFrame:
    """Compare the weights of sets of neurons pair by pair, in one model.

    In the default reading only shared neurons add to the dot product, so it is an overlap in which
    long neurons count more: with neurons of equal length it is shared / sqrt(n_x * n_y). The other
    two compare directions, also of disjoint sets. For what chance gives, compare random controls
    (``NeuronSet.random_like``).

    The vector of a neuron has d_model numbers in each part; ``"all"`` is the parts laid end to end.
    Biases are left out. A layer's weights are read one part at a time, and sums are at least
    float32 whatever the model's type, so no more than one layer's weights is ever needed beside
    the model. A neuron of zero weights has cosine 0 with every other.

    Args:
        model: a HookedTransformer or TransformerBridge.
        sets: the sets by name. Sets found in another state of the model (before fine-tuning) need
            ``.rebind(model)``.
        other: what to compare them with; by default each other, every pair once.
        reading: one of ``READINGS``, the three readings of the paper's similarity.
        parts: some of ``W_in``, ``W_gate``, ``W_out`` and ``all``; by default all the model has.
        per_layer: give each layer a row; otherwise all layers together have one. Neurons are
            compared within their layer in both: together, the layers' matrices (or mean vectors)
            are laid end to end, and pairs are pairs within a layer.

    Returns:
        One row per layer, part and pair: ``reading, layer`` (a number, or ``"all"``)``, part,
        task_x, task_y, n_x, n_y, shared`` (numbers of neurons there) and ``similarity`` in
        [-1, 1]; NaN where a set has no neurons in the layer, or only weights of zero.

    Raises:
        ValueError: for an unknown reading or part, an empty set, no pair to compare, or a set of
            another model.
    """
    read = READINGS.find(reading).function
    model_view = view(model)
    members, pairs = pair_up(sets, other)
    first_name, first = members[0]  # the others are of the same model
    require_same_model(f"The set {first_name!r}", first.fingerprint, model_view)
    parts = _checked_parts(parts, model_view.layers[0])
    per_layer_shared, per_layer_dots = [], []
    for layer in model_view.layers:
        masks = torch.stack([neurons.mask[layer.index] for _, neurons in members]).double()
        per_layer_shared.append(masks @ masks.T)
        per_layer_dots.append(_dots(layer, masks, read, parts))
    shared, dots = torch.stack(per_layer_shared), torch.stack(per_layer_dots)
    sizes = shared.diagonal(dim1=-2, dim2=-1)
    n_pairs = _outer(sizes)
    if not per_layer:
        shared, dots, n_pairs = (sums.sum(0, keepdim=True) for sums in (shared, dots, n_pairs))
    if reading == "pairwise":
        similarity = dots / n_pairs[:, None]
    else:
        similarity = dots / _outer(dots.diagonal(dim1=-2, dim2=-1)).sqrt()
    layers = list(range(model_view.n_layers)) if per_layer else ["all"]
    similarity = similarity.clamp(-1, 1).numpy()  # rounding may go beyond
    counts = shared.long().numpy()
    return pd.DataFrame(
        {"reading": reading, "layer": layer, "part": part, "task_x": members[i][0],
         "task_y": members[j][0], "n_x": counts[a, i, i], "n_y": counts[a, j, j],
         "shared": counts[a, i, j], "similarity": similarity[a, b, i, j]}
        for a, layer in enumerate(layers)
        for b, part in enumerate(parts)
        for i, j in pairs
    )  # fmt: skip


def similarity_over_models(
    models: Mapping[str, Any] | Iterable[tuple[str, Any]],
    sets: Mapping[str, NeuronSet],
    test_tasks: Sequence[str],
    *,
    reading: str = "masked",
    parts: Sequence[str] | None = None,
    per_layer: bool = True,
) -> pd.DataFrame:
    """Compare, in each fine-tuned model, the neurons of its task with those of the test tasks.

    Each model has the name of the task that it was trained on. The sets are the same neurons in
    every model, so they are rebound to it. To use other sets in each model, join the tables of
    ``weight_similarity(...).assign(model=name)`` instead.

    Args:
        models: models by training task, or an iterable of such pairs, e.g. a generator that loads
            one after the other: each is let go before the next is asked for.
        sets: the sets by task.
        test_tasks: names of the tasks to compare with.
        reading: as in ``weight_similarity``, like ``parts`` and ``per_layer``.
        parts: which weights.
        per_layer: whether each layer has a row.

    Returns:
        ``model`` and the columns of ``weight_similarity``, where ``task_x`` is the model's task
        and ``task_y`` a test task. ``similarity_by_layer`` and ``similarity_transfer`` take it.

    Raises:
        ValueError: for a task without a set, no models, or a model of another shape than the
            sets; and as ``weight_similarity`` does.
    """
    sets = named_sets(sets)
    if isinstance(test_tasks, str) or not isinstance(test_tasks, Sequence):
        raise InputTypeError(f"test_tasks is {test_tasks!r}; give a list of names of tasks.")
    if not test_tasks:
        raise InputError(
            "There is no pair of sets to compare: test_tasks is empty; give some names."
        )
    require_kind("models", models, Iterable, "give a dict of names of tasks to models")
    _require_sets(sets, test_tasks)
    named = models.items() if isinstance(models, Mapping) else models
    tables = []
    for name, model in cast(Iterable[tuple[str, Any]], named):
        _require_sets(sets, [name])
        table = weight_similarity(
            model, {name: sets[name].rebind(model)},
            {task: sets[task].rebind(model) for task in test_tasks},
            reading=reading, parts=parts, per_layer=per_layer,
        )  # fmt: skip
        table.insert(0, "model", name)
        tables.append(table)
        del model
        if not isinstance(models, Mapping):
            # Models have reference cycles; without this the next would be loaded beside this one.
            gc.collect()
    if not tables:
        raise InputError("There are no models to compare neurons in.")
    return pd.concat(tables, ignore_index=True)


def _require_sets(sets: Mapping[str, NeuronSet], tasks: Sequence[str]) -> None:
    for task in tasks:
        if task not in sets:
            raise InputError(f"There is no set for {task!r}{did_you_mean(task, list(sets))}")


def _checked_parts(parts: Sequence[str] | None, layer: MLPLayer) -> list[str]:
    known = [*(name for name in _WEIGHTS if name in layer.parameters), "all"]
    if parts is not None:
        require_kind("parts", parts, Sequence, f"give a list of some of {known}")
    if parts is None:
        return known
    if not parts:
        raise InputError(f"parts is empty; give some of {known}, or None for all of them.")
    for part in parts:
        if part not in known:
            raise InputError(f"The model has no part {part!r}{did_you_mean(part, known)}")
    return list(parts)


def _dots(
    layer: MLPLayer,
    masks: Float[Tensor, "set d_mlp"],
    read: Callable[..., Tensor],
    parts: Sequence[str],
) -> Float[Tensor, "part set set"]:
    """Dot products of every two sets: of what the reading compares, summed where it is "all"."""
    vectors = {
        name: part.parameter.detach().movedim(part.axis, 0)  # [d_mlp, d_model], no copy
        for name, part in layer.parameters.items()
        if name in _WEIGHTS
    }
    chosen = [list(vectors.values()) if part == "all" else [vectors[part]] for part in parts]
    return torch.stack([read(masks, matrices) for matrices in chosen])


@READINGS.register("masked", "cosine of the weight matrices, masked with each set and flattened")
def _masked(
    masks: Float[Tensor, "set d_mlp"], matrices: Sequence[Float[Tensor, "d_mlp d_model"]]
) -> Float[Tensor, "set set"]:
    return (masks * _all_squares(matrices)) @ masks.T


@READINGS.register("mean", "cosine of the mean neuron vectors of the sets")
def _mean(
    masks: Float[Tensor, "set d_mlp"], matrices: Sequence[Float[Tensor, "d_mlp d_model"]]
) -> Float[Tensor, "set set"]:
    factors = masks / masks.sum(1, keepdim=True).clamp_min(1)
    return torch.stack([_dots_of_sums(factors, each) for each in matrices]).sum(0)


@READINGS.register(
    "pairwise", "mean cosine of a neuron of one set with a neuron of the other, over all pairs"
)
def _pairwise(
    masks: Float[Tensor, "set d_mlp"], matrices: Sequence[Float[Tensor, "d_mlp d_model"]]
) -> Float[Tensor, "set set"]:
    squares = _all_squares(matrices)
    factors = masks * torch.where(squares > 0, squares.rsqrt(), 0.0)
    return torch.stack([_dots_of_sums(factors, each) for each in matrices]).sum(0)


def _all_squares(
    matrices: Sequence[Float[Tensor, "d_mlp d_model"]],
) -> Float[Tensor, " d_mlp"]:
    return torch.stack([_squared_lengths(each) for each in matrices]).sum(0)


def _squared_lengths(vectors: Float[Tensor, "d_mlp d_model"]) -> Float[Tensor, " d_mlp"]:
    lengths = torch.linalg.vector_norm(vectors, dim=1, dtype=_precise(vectors))
    return lengths.cpu().double().square()


def _dots_of_sums(
    factors: Float[Tensor, "set d_mlp"], vectors: Float[Tensor, "d_mlp d_model"]
) -> Float[Tensor, "set set"]:
    """Dot products of every two sets' sums of neuron vectors, each times its factor."""
    dtype = _precise(vectors)
    sums = (factors.to(vectors.device, dtype) @ vectors.to(dtype)).cpu().double()
    return sums @ sums.T


def _precise(vectors: Tensor) -> torch.dtype:
    return torch.promote_types(vectors.dtype, torch.float32)


def _outer(values: Float[Tensor, "*rest set"]) -> Float[Tensor, "*rest set set"]:
    return values[..., :, None] * values[..., None, :]
