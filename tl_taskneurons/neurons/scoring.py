"""Runs an attribution method over batches of examples."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_taskneurons.models.forward import answer_losses, frozen
from tl_taskneurons.models.hooks import hooked
from tl_taskneurons.models.view import ModelView, require_same_model
from tl_taskneurons.neurons.capture import Add, activations, first_order, integrated
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.progress import Progress
from tl_taskneurons.runtime.sharing import Team, current_team
from tl_taskneurons.tasks.batches import Batch, halves, in_memory

PerLayer = Float[Tensor, "layer d_mlp"]
# Means over tokens; the others are means over examples.
_BY_TOKEN = ("activation", "frequency", "activation_mean")


def score_batches(
    model_view: ModelView,
    batches: Sequence[Batch],
    method: str,
    *,
    neurons: NeuronSet | None = None,
    steps: int = 8,
    layers: Sequence[int] | None = None,
    owners: Float[Tensor, "task item"] | None = None,
    progress: Progress | None = None,
) -> Float[Tensor, "*task layer d_mlp"]:
    """Run a method that needs data over batches; see ``score_neurons``.

    Besides the methods, ``"signed"`` gives the mean over examples of the signed sum of
    gradient * activation. It adds up over neurons: minus its sum over a set is the first-order
    change of the loss when the whole set is silenced. ``"activation_mean"`` gives each neuron's
    mean activation over tokens.

    Args:
        model_view: the model.
        batches: the examples; ``index`` says where in ``owners`` a row stands.
        method: the method.
        neurons: for ``"exact"``.
        steps: for ``"integrated_gradients"``.
        layers: the layers to score; None scores all.
        owners: how often each task has each example, to score several tasks at once.
        progress: a progress bar.
    """
    progress = progress or Progress("", shown=False)
    if not sum(len(batch.index) for batch in batches):
        raise InputError("There are no examples to score neurons on.")
    scored = _layers(model_view, layers)
    team = current_team()
    team.require_same(
        "score_batches",
        lambda: {
            "model": model_view.fingerprint, "method": method, "steps": steps, "layers": scored,
            "examples": [(batch.tokens, batch.answer_mask) for batch in batches],
            "neurons": None if neurons is None else neurons.mask, "owners": owners,
        },
    )  # fmt: skip
    n_tasks = [] if owners is None else [len(owners)]
    totals = torch.zeros(*n_tasks, *model_view.shape, device=model_view.device)

    def run(batch: Batch) -> None:
        # A sum of its own: when memory runs out in the middle, nothing is counted twice.
        part = torch.zeros_like(totals)
        weights = None if owners is None else owners[:, list(batch.index)]

        def add(layer: int, values: Float[Tensor, "batch d_mlp"]) -> None:
            if weights is None:
                part[layer] += values.sum(0).to(part.device)
            else:
                part[:, layer] += (weights.to(values.device) @ values).to(part.device)

        _measure(model_view, batch.to(model_view.device), method, steps, scored, add)
        totals.add_(part)

    with frozen(model_view.model), team.together():
        if method == "exact":
            assert neurons is not None
            totals = _exact(model_view, batches, neurons, team, progress)
        else:
            with progress:
                in_memory(progress.track(_share(batches, team)), run)
    result = team.total(totals).cpu() / _count(batches, owners, by_token=method in _BY_TOKEN)
    return result.abs() if method == "grad_act_mean" else result


def _measure(
    model_view: ModelView, batch: Batch, method: str, steps: int, layers: Sequence[int], add: Add
) -> None:
    if method in _BY_TOKEN:
        activations(model_view, batch, method, layers, add)
    elif method == "integrated_gradients":
        integrated(model_view, batch, steps, layers, add)
    else:
        first_order(model_view, batch, method, layers, add)


def _layers(model_view: ModelView, layers: Sequence[int] | None) -> list[int]:
    if layers is None:
        return list(range(model_view.n_layers))
    chosen = sorted(set(layers))
    if not chosen or chosen[0] < 0 or chosen[-1] >= model_view.n_layers:
        raise InputError(
            f"layers is {list(layers)}, but {model_view.name} has the layers 0 to "
            f"{model_view.n_layers - 1}; give at least one of them."
        )
    return chosen


def _count(
    batches: Sequence[Batch], owners: Tensor | None, *, by_token: bool
) -> float | Float[Tensor, "task 1 1"]:
    """The examples or tokens that sums are divided by, of each task where there are several."""
    if owners is None:
        rows = [batch.attention_mask if by_token else batch.attention_mask[:, :1]
                for batch in batches]  # fmt: skip
        return float(sum(int(row.sum()) for row in rows))
    sizes = torch.zeros(owners.shape[1])
    for batch in batches:
        sizes[list(batch.index)] = batch.attention_mask.sum(1).float() if by_token else 1.0
    return (owners @ sizes)[:, None, None]


def _share(batches: Sequence[Batch], team: Team) -> list[Batch]:
    """This process's share of batches, which are cut where whole ones can't be shared evenly."""
    waiting, pieces = list(reversed(batches)), []
    most = sum(batch.tokens.numel() for batch in batches) / team.size / 2
    while waiting:
        batch = waiting.pop()
        if team.size > 1 and batch.tokens.numel() > most and len(batch.index) > 1:
            waiting += reversed(halves(batch))
        else:
            pieces.append(batch)
    return [pieces[i] for i in team.own([batch.tokens.numel() for batch in pieces])]


def _exact(
    model_view: ModelView,
    batches: Sequence[Batch],
    neurons: NeuronSet,
    team: Team,
    progress: Progress,
) -> PerLayer:
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
