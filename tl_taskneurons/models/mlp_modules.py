"""Where a layer's MLP reads its input, and the modules whose outputs its matrices make."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from tl_taskneurons.models.layers import MLPLayer


@dataclass(frozen=True, eq=False)
class Linear:
    """One matrix of an MLP that neurons read the residual stream by.

    Attributes:
        module: the module whose output is the matrix's result.
        reads: the module that is called with the MLP's input.
        weight: name of the matrix.
        bias: name of its bias, if it has one.
    """

    module: nn.Module
    reads: nn.Module
    weight: str
    bias: str | None


def mlp_modules(layer: MLPLayer) -> tuple[list[Linear], nn.Module, nn.Module]:
    """Return the modules of pre-activations, of activations and of the output matrix's result.

    In a TransformerBridge the matrices are modules of their own; a HookedTransformer multiplies by
    its parameters and passes the results through hook points.
    """
    mlp: Any = layer.module
    parts = layer.parameters
    bridge = "in" in dict(mlp.named_children())
    if bridge:
        pre, gate = getattr(mlp, "in"), getattr(mlp, "gate", None)
        output = mlp.out
    elif layer.gated:
        pre, gate, output = mlp.hook_pre_linear, mlp.hook_pre, mlp
    else:
        pre, gate, output = mlp.hook_pre, None, mlp
    linears = [("W_in", "b_in", pre), *([("W_gate", "b_gate", gate)] if layer.gated else [])]
    incoming = [
        Linear(module, module if bridge else mlp, weight, bias if bias in parts else None)
        for weight, bias, module in linears
    ]
    return incoming, mlp.hook_post, output
