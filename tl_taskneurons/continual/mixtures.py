"""Mixing what tasks changed in their neurons: one mixture for all inputs, or one for each.

With one mixture, the mixed weights are written into the model for a while. With one for each
example they can't be, so the forward pass mixes: to each matrix's result it adds what the tasks'
changes give for the row's example, weighted. That is the same by linearity, and the examples stay
in their batches.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tl_taskneurons.models.hooks import add_hook
from tl_taskneurons.models.layers import MLPLayer
from tl_taskneurons.models.mlp_modules import mlp_modules
from tl_taskneurons.models.positions import current_examples
from tl_taskneurons.models.view import ModelView, pinned_fingerprint, require_same_model
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.cleanup import Undo
from tl_taskneurons.runtime.errors import InputError, StateError
from tl_taskneurons.training.deltas import NeuronDelta
from tl_taskneurons.training.deltas.base import require_own_weights
from tl_taskneurons.training.slices import Slices, read_slices, write_slices

Reading = Literal["literal", "delta", "stages"]


@contextmanager
def mixed(
    model_view: ModelView,
    deltas: Sequence[NeuronDelta],
    weights: Sequence[float],
    reading: Reading,
) -> Iterator[None]:
    """Give the base model the tasks' neurons in a weighted mixture, for a while.

    With W0 the base model's weights, W_k those that delta k reached on its task's neurons and V_k
    those that it started from, a neuron of tasks K gets

    - ``"literal"``: the sum over K of ``weights[k] * W_k``, so weights scale what the base knew;
    - ``"delta"``: ``W0`` plus the sum over K of ``weights[k] * (W_k - W0)``;
    - ``"stages"``: ``W0`` plus the sum over K of ``weights[k] * (W_k - V_k)``: where tasks share
      a neuron, a stage counts only for what it changed itself. With weights of 1 this is the model
      after the last stage.

    Neurons of no task stay as they are.

    Args:
        model_view: the base model.
        deltas: one per task.
        weights: one per delta.
        reading: which of the three.

    Raises:
        ValueError: for the deltas of another model.
        RuntimeError: while something else has changed the model's weights for a while.
    """
    require_own_weights(model_view)
    with pinned_fingerprint(model_view), Undo() as undo:
        require_same_model(repr(deltas[0]), deltas[0].fingerprint, model_view)
        mask: Bool[Tensor, "layer d_mlp"] = torch.stack([d.neurons.mask for d in deltas]).any(0)
        union = NeuronSet(mask, model_view.fingerprint, "mixture")
        before = read_slices(model_view, union)
        base = before.map(lambda value: value.float().cpu().contiguous())
        result = base.map(torch.zeros_like if reading == "literal" else torch.clone)
        for delta, weight in zip(deltas, weights, strict=True):
            result.add_(_added(delta, base, reading), weight)
        undo.add(write_slices, model_view, union, before)
        write_slices(model_view, union, result)
        yield


def _added(delta: NeuronDelta, base: Slices, reading: Reading) -> Slices:
    """What a delta adds to the mixture at weight 1."""
    if reading == "literal":
        return delta.trained
    if reading == "stages":
        return delta.change()
    started = base.of(delta.neurons, delta.trained)
    return Slices(delta.neurons, {name: own - started[name] for name, own in delta.trained.items()})


@contextmanager
def mixed_by_example(
    model_view: ModelView,
    deltas: Sequence[NeuronDelta],
    weights: Float[Tensor, "example task"],
) -> Iterator[None]:
    """Answer every example with a mixture of its own, as ``mixed`` with ``"stages"`` would.

    For ``evaluate_items`` and what else says which examples run; without ``share_prefix``, whose
    prefix is no example's.

    Args:
        model_view: the base model.
        deltas: one per task.
        weights: of the examples by their numbers in the split. A task whose weight is 0 costs
            nothing.

    Raises:
        ValueError: for weights of another shape, or of another model's deltas.
        RuntimeError: when the model runs and it isn't known which examples, or while something
            has changed the model's weights for a while.
    """
    require_own_weights(model_view)
    if weights.ndim != 2 or weights.shape[1] != len(deltas):
        raise InputError(
            f"weights is {tuple(weights.shape)}; {len(deltas)} deltas need [example, "
            f"{len(deltas)}]."
        )
    require_same_model(repr(deltas[0]), deltas[0].fingerprint, model_view)
    rows = _Rows(weights)
    changes = [delta.change() for delta in deltas]
    chosen = [delta.neurons.layers() for delta in deltas]
    with Undo() as undo:
        for layer in model_view.layers:
            own = [
                _Change.of(layer, task, index[layer.index], change)
                for task, (index, change) in enumerate(zip(chosen, changes, strict=True))
                if layer.index in index
            ]
            if own:
                _LayerMixture(layer, own, rows).attach(undo)
        yield


@dataclass(frozen=True, eq=False)
class _Change:
    """What a task changed in its neurons of a layer.

    Attributes:
        task: its number.
        index: which neurons.
        parts: the changes by part, in the model's dtype, as ``read_slices`` has them.
    """

    task: int
    index: Int[Tensor, " n"]
    parts: Mapping[str, Tensor]

    @staticmethod
    def of(layer: MLPLayer, task: int, index: Tensor, change: Slices) -> "_Change":
        parts = {
            part: change[f"{layer.index}/{part}"].to(own.parameter)
            for part, own in layer.parameters.items()
            if f"{layer.index}/{part}" in change
        }
        return _Change(task, index.to(layer.parameters["W_out"].parameter.device), parts)


@dataclass(frozen=True, eq=False)
class _Share:
    """The rows of a batch that have a part of a task's change.

    Attributes:
        rows: which; None is all of them.
        weights: of the task in these rows.
    """

    rows: Int[Tensor, " row"] | None
    weights: Float[Tensor, "row 1 1"]

    def of(self, values: Float[Tensor, "batch pos d"]) -> Float[Tensor, "row pos d"]:
        return values if self.rows is None else values[self.rows]

    def spread(self, part: Float[Tensor, "row pos d"], n_rows: int) -> Float[Tensor, "batch pos d"]:
        """Weight the rows and put them among rows of zeros."""
        part = part * self.weights
        if self.rows is None:
            return part
        return part.new_zeros(n_rows, *part.shape[1:]).index_copy_(0, self.rows, part)


class _Rows:
    """Which rows of the batch that runs take part in which task's change; looked up once a run."""

    def __init__(self, weights: Float[Tensor, "example task"]) -> None:
        self._weights = weights
        self._known: tuple[Any, dict[int, _Share]] = (None, {})

    def shares(self, like: Tensor) -> tuple[int, dict[int, _Share]]:
        """Return the number of rows, and the share of each task that has one."""
        examples = current_examples()
        if not examples:
            raise StateError(
                "A mixture for each example needs to know which examples run; run the model by "
                "evaluate_items without share_prefix."
            )
        key = examples, like.device, like.dtype
        if self._known[0] != key:
            own = self._weights[list(examples)]
            shares = {}
            for task, column in enumerate(own.mT):
                rows = column.nonzero().flatten()
                if len(rows):
                    at = None if len(rows) == len(examples) else rows.to(like.device)
                    shares[task] = _Share(at, column[rows].to(like)[:, None, None])
            self._known = key, shares
        return len(examples), self._known[1]


class _LayerMixture:
    """Hooks on one layer's MLP that add each example's mixture of changes."""

    def __init__(self, layer: MLPLayer, changes: Sequence[_Change], rows: _Rows) -> None:
        self._layer, self._changes, self._rows = layer, changes, rows
        self._input: Tensor | None = None
        self._activation: Tensor | None = None

    def attach(self, undo: Undo) -> None:
        """Attach the hooks; undoing detaches them."""
        incoming, post, output = mlp_modules(self._layer)
        for line in incoming:
            keep = partial(line.reads.register_forward_pre_hook, self._keep_input)
            add_hook(undo, line.reads, keep)
            add = partial(self._add_incoming, line.weight, line.bias)
            add_hook(undo, line.module, partial(line.module.register_forward_hook, add))
        add_hook(undo, post, partial(post.register_forward_hook, self._keep_activation))
        add_hook(undo, output, partial(output.register_forward_hook, self._add_output))

    def _keep_input(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        self._input = args[0]

    def _keep_activation(self, _module: nn.Module, _args: Any, output: Tensor) -> None:
        self._activation = output

    def _add_incoming(
        self, weight: str, bias: str | None, _module: nn.Module, _args: Any, output: Tensor
    ) -> Tensor:
        source = self._by_row(self._input, output)
        n_rows, shares = self._rows.shares(output)
        result = None
        for change in self._changes:
            if change.task in shares:
                share = shares[change.task]
                part = share.of(source) @ change.parts[weight]
                if bias is not None:
                    part = part + change.parts[bias]
                added = share.spread(part, n_rows).reshape(*output.shape[:-1], -1)
                add = output.index_add if result is None else result.index_add_
                result = add(-1, change.index, added)
        return output if result is None else result

    def _add_output(self, _module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        activation = self._by_row(self._activation, output)
        self._input = self._activation = None
        n_rows, shares = self._rows.shares(output)
        for change in self._changes:
            if change.task in shares:
                share = shares[change.task]
                own = share.of(activation).index_select(-1, change.index)
                added = share.spread(own @ change.parts["W_out"], n_rows)
                output = output + added.reshape(output.shape)
        return output

    def _by_row(self, values: Tensor | None, like: Tensor) -> Float[Tensor, "batch pos d"]:
        """Give values the rows of the batch, which some models run as one list of tokens."""
        if values is None:
            raise StateError(
                f"The MLP of {self._layer.hook} did not run through the modules that this library "
                "expects; this architecture is not supported."
            )
        n_rows, _ = self._rows.shares(like)
        return values.reshape(n_rows, -1, values.shape[-1])
