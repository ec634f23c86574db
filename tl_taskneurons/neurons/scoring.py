"""Runs an attribution method over batches of examples."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_taskneurons.models.forward import as_loaded, frozen
from tl_taskneurons.models.positions import chosen, places_of
from tl_taskneurons.models.view import ModelView
from tl_taskneurons.neurons.ablation import Replacement, constants
from tl_taskneurons.neurons.capture import BatchPass
from tl_taskneurons.neurons.measures import reference_logits
from tl_taskneurons.neurons.methods import ABLATIONS, ACTIVATION_MEAN, METHODS, Method
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.neurons.settings import ScoreSettings
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.progress import Progress
from tl_taskneurons.runtime.roles import Role, current_role
from tl_taskneurons.tasks.batches import Batch, halves, in_memory

ONE = torch.ones(1, dtype=torch.float32, device="cpu")
PerLayer = Float[Tensor, "layer d_mlp"]
_HIDDEN = {ACTIVATION_MEAN.name: ACTIVATION_MEAN}


@as_loaded()
def score_batches(
    model_view: ModelView,
    batches: Sequence[Batch],
    method: str,
    *,
    neurons: NeuronSet | None = None,
    settings: ScoreSettings = ScoreSettings(),
    owners: Float[Tensor, "task item"] | None = None,
    progress: Progress | None = None,
    examples: Float[Tensor, "item layer d_mlp"] | None = None,
) -> Float[Tensor, "*task layer d_mlp"]:
    """Run a method that needs data over batches; see ``score_neurons``.

    Besides the methods, ``"activation_mean"`` gives each neuron's mean activation over tokens.

    Args:
        model_view: the model.
        batches: the examples; ``index`` says where in ``owners`` a row stands.
        method: the method.
        neurons: for ``"exact"``.
        settings: the options; the fields of ``Data`` play no part.
        owners: how often each task has each example, to score several tasks at once.
        progress: a progress bar.
        examples: filled with each example's scores, on the CPU; for ``per_example``.

    Raises:
        ValueError: for an unknown method, no examples, a layer that isn't there, or a method that
            returned scores of a wrong shape or that are not finite (naming it).
    """
    record = _HIDDEN.get(method) or METHODS.find(method)
    settings = settings.read_by(record)
    progress = progress or Progress("", shown=False)
    if not sum(len(batch.index) for batch in batches):
        raise InputError("There are no examples to score neurons on.")
    scored = layers_of(model_view, settings.layers)
    if record.neurons and neurons is not None:
        scored = sorted(neurons.layers())
    team = current_role()
    team.require_same(
        "score_batches",
        lambda: {
            "model": model_view.fingerprint, "method": method, "layers": scored,
            "steps": settings.steps, **settings.facts(),
            "examples": [(batch.tokens, batch.answer_mask) for batch in batches],
            "neurons": None if neurons is None else neurons.mask, "owners": owners,
        },
    )  # fmt: skip
    n_tasks = [] if owners is None else [len(owners)]
    totals = torch.zeros(*n_tasks, *model_view.shape, device=model_view.device, dtype=torch.float32)
    replaced = replacing(model_view, batches, scored, settings)

    def started(batch: Batch, add: Callable[[int, Tensor], None]) -> BatchPass:
        batch = batch.to(model_view.device)
        reference = None
        if record.asks:
            reference = reference_logits(settings.measure, model_view, batch)
        other = replaced(batch) if record.asks else None
        return BatchPass(model_view, batch, scored, settings, add, other, reference)

    def run(batch: Batch) -> None:
        # A sum of its own: when memory runs out in the middle, nothing is counted twice.
        part = torch.zeros_like(totals)
        weights = None if owners is None else owners[:, list(batch.index)]
        waiting = set(scored)
        sizes = _tokens(batch, settings).sum(1)[:, None] if record.over == "tokens" else ONE

        def add(layer: int, values: Tensor) -> None:
            _require_shape(record, values, (len(batch.index), model_view.d_mlp))
            waiting.discard(layer)
            if examples is not None:
                examples[list(batch.index), layer] = (values / sizes.to(values.device)).cpu()
            if weights is None:
                part[layer] += values.sum(0).to(part.device)
            else:
                part[:, layer] += (weights.to(values.device) @ values).to(part.device)

        record.function(started(batch, add))
        if waiting:
            raise InputError(f"Method {method!r} gave no scores for layer {min(waiting)}.")
        totals.add_(part)

    def each(see: Callable[[BatchPass], None]) -> None:
        def whole(batch: Batch) -> None:
            see(started(batch, lambda _layer, _values: None))

        with team.together():
            in_memory(_share(batches, team), whole)

    if record.whole:
        with frozen(model_view.model), progress:
            items = [item for batch in batches for item in batch.items]
            values = record.function(model_view, items, each, team)
        require_scores(record, values)
        result = torch.zeros_like(values)
        result[scored] = values[scored]
        return result
    with frozen(model_view.model), team.together():
        if record.neurons:
            totals = totals.cpu()

            def take(number: int, layer: int, j: int, effects: Tensor) -> None:
                totals[layer, j] += effects.sum().cpu()
                if examples is not None:
                    examples[list(batches[number].index), layer, j] = effects.cpu()

            runs = [started(batch, lambda _layer, _values: None) for batch in batches]
            record.function(runs, neurons, team, progress, take)
        else:
            with progress:
                in_memory(progress.track(_share(batches, team)), run)
    count = _count(batches, owners, settings, by_token=record.over == "tokens")
    result = team.total(totals).cpu() / count
    if examples is not None:
        examples.copy_(team.total(examples))
    require_scores(record, result)
    return result.abs() if record.size_last and not settings.signed else result


def by_mean(
    model_view: ModelView,
    batches: Sequence[Batch],
    layers: Sequence[int],
) -> Callable[[Batch], Replacement | None]:
    """Put each neuron's mean activation over the batches' tokens in place."""
    means = score_batches(
        model_view, batches, "activation_mean", settings=ScoreSettings(layers=layers)
    )
    replacement = constants(model_view, means)
    return lambda _batch: replacement


def replacing(
    model_view: ModelView, batches: Sequence[Batch], layers: Sequence[int], settings: ScoreSettings
) -> Callable[[Batch], Replacement | None]:
    """Return what gives each batch what takes the silenced activations' place; None is zero."""
    if isinstance(settings.ablation, Tensor):
        replacement = constants(model_view, settings.ablation)
        return lambda _batch: replacement
    return ABLATIONS.find(settings.ablation).function(model_view, batches, layers)


def require_scores(method: Method, values: Tensor) -> None:
    """Raise ValueError where a method's scores are not finite, naming method and neuron."""
    if not bool(values.isfinite().all()):
        *_, layer, j = (~values.isfinite()).nonzero()[0].tolist()
        raise InputError(
            f"Method {method.name!r} gives neuron ({layer}, {j}) a score that is not finite; look "
            "for an overflow or a division by zero."
        )


def _require_shape(method: Method, values: Tensor, shape: tuple[int, int]) -> None:
    if tuple(values.shape) != shape:
        raise InputError(
            f"Method {method.name!r} gives scores of shape {tuple(values.shape)}; it must be "
            f"{shape}: [batch, d_mlp]."
        )


def layers_of(model_view: ModelView, layers: Sequence[int] | None) -> list[int]:
    """Return the layers that are asked for, from the lowest, all by default."""
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
    batches: Sequence[Batch], owners: Tensor | None, settings: ScoreSettings, *, by_token: bool
) -> float | Float[Tensor, "task 1 1"]:
    """The examples or tokens that sums are divided by, of each task where there are several."""
    if owners is None:
        if not by_token:
            return float(sum(len(batch.index) for batch in batches))
        return float(sum(int(_tokens(batch, settings).sum()) for batch in batches))
    sizes = torch.zeros(owners.shape[1], dtype=torch.float32, device="cpu")
    for batch in batches:
        sizes[list(batch.index)] = _tokens(batch, settings).sum(1).float() if by_token else 1.0
    return (owners @ sizes)[:, None, None]


def _tokens(batch: Batch, settings: ScoreSettings) -> Bool[Tensor, "batch pos"]:
    """The tokens at the positions that are asked for."""
    mask = chosen(settings.positions, places_of(batch))
    return batch.attention_mask if mask is None else mask


def _share(batches: Sequence[Batch], team: Role) -> list[Batch]:
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
