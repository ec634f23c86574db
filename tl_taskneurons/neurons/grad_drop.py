"""Attribution that no single layer can cancel: GradDrop of AtP*.

Kramár et al. 2024 (AtP*, arXiv 2403.00745, section 3.1.2): a neuron's direct effect and what later
layers make of it can be of opposite sign and nearly cancel in the gradient. So gradients are taken
as often as there are layers, each time without what one layer adds to the residual stream, and the
sizes of the effects are averaged over the layers left out, but for the neuron's own.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tl_taskneurons.models.hooks import add_hook
from tl_taskneurons.models.view import ModelView
from tl_taskneurons.neurons.capture import BatchPass
from tl_taskneurons.neurons.relp import same_value
from tl_taskneurons.runtime.cleanup import Undo


def grad_drop(run: BatchPass) -> None:
    """Hand over the mean size of ``gradient * activation`` over the layers that are left out.

    Layers below a neuron's have no part in its gradient, so one ordinary pass stands for them.
    """
    n_layers = run.model_view.n_layers
    sums = {
        layer: torch.zeros(
            len(run.batch.index), run.model_view.d_mlp, device=run.model_view.device,
            dtype=torch.float32,
        )
        for layer in run.layers
    }  # fmt: skip

    def reduce(dropped: int | None, layer: int, gradient: Tensor, activation: Tensor) -> None:
        if dropped is None or layer < dropped:
            effect = (gradient.float() * run.removed(layer, activation)).sum(1).abs()
            times = layer if dropped is None and n_layers > 1 else 1
            sums[layer] += times * effect.to(sums[layer].device)

    run.backward(partial(reduce, None))
    for dropped in range(min(run.layers) + 1, n_layers):
        with _dropped(run.model_view, dropped):
            run.backward(partial(reduce, dropped))
    for layer, total in sums.items():
        run.add(layer, total / max(1, n_layers - 1))


@contextmanager
def _dropped(model_view: ModelView, layer: int) -> Iterator[None]:
    """Let gradients pass a layer by its residual stream alone; its output stays what it is."""

    def pass_by(
        _block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> Any:
        stream = args[0] if args else next(iter(kwargs.values()))
        if isinstance(output, Tensor):
            return same_value(output, stream)
        first, *rest = output
        return type(output)([same_value(first, stream), *rest])

    block = model_view.model.blocks[layer]
    with Undo() as undo:
        add_hook(undo, block, partial(block.register_forward_hook, pass_by, with_kwargs=True))
        yield
