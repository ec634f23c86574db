"""A model small enough to compute on paper, a watch on a model's state, and cached tiny models.

The micro model has two tokens and no attention. The residual stream is ``(a, b, x)``: the logits
are ``(a, b)``, the neurons read ``x`` only, and the embedding of token t is ``(0, 0, t + 1)``.
"""

import functools
import math
from types import SimpleNamespace
from typing import Any

import helpers
import torch
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.HookedRootModule import HookedRootModule

from tl_taskneurons.tasks.prompts import Item
from tl_taskneurons.tasks.task import Example, Task

LN3 = math.log(3)


class MicroMLP(nn.Module):
    def __init__(self, w_in: list[float], b_in: list[float], w_out: list[list[float]]) -> None:
        super().__init__()
        reads = [[0.0] * len(w_in), [0.0] * len(w_in), w_in]
        self.W_in = nn.Parameter(torch.tensor(reads))
        self.b_in = nn.Parameter(torch.tensor(b_in))
        self.W_out = nn.Parameter(torch.tensor(w_out))
        self.hook_post = HookPoint()

    def forward(self, stream: Tensor) -> Tensor:
        return self.hook_post((stream @ self.W_in + self.b_in).relu()) @ self.W_out


class MicroBlock(nn.Module):
    def __init__(self, mlp: MicroMLP) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, stream: Tensor) -> Tensor:
        return stream + self.mlp(stream)


class MicroUnembed(nn.Module):
    def forward(self, stream: Tensor) -> Tensor:
        return stream[..., :2]


class MicroModel(HookedRootModule):
    def __init__(self, *mlps: MicroMLP) -> None:
        super().__init__()
        self.cfg = SimpleNamespace(model_name="micro", n_ctx=8)
        self.embedding = nn.Parameter(torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 2.0]]))
        self.blocks = nn.ModuleList(MicroBlock(mlp) for mlp in mlps)
        self.tokenizer = None
        self.unembed = MicroUnembed()
        self.setup()

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        stream = self.embedding[tokens]
        for block in self.blocks:
            stream = block(stream)
        return self.unembed(stream)


def one_layer() -> Any:
    """Three neurons: w = x, 2x and relu(x - 1.5), so (1, 2, 0) at token 0, (2, 4, 0.5) at token 1.

    They write 2 ln3, -ln3/2 and 0 to logit a: it is ln3 at token 0 and 2 ln3 at token 1, so token
    0 is predicted with probability 3/4 and 9/10.
    """
    out = [[2 * LN3, 0.0, 0.0], [-LN3 / 2, 0.0, 0.0], [0.0, 0.0, 4.0]]
    return MicroModel(MicroMLP([1.0, 2.0, 1.0], [0.0, 0.0, -1.5], out))


def two_layers() -> Any:
    """One neuron each: the lower one doubles x from 1 to 2, the upper one makes logit a = ln3."""
    return MicroModel(
        MicroMLP([1.0], [0.0], [[0.0, 0.0, 1.0]]),
        MicroMLP([1.0], [0.0], [[LN3 / 2, 0.0, 0.0]]),
    )


def item(prompt: tuple[int, ...], answer: tuple[int, ...], index: int = 0) -> Item:
    return Item(index, prompt, answer, ())


@functools.cache
def lens(name: str, kind: str, tokenizer: Any) -> Any:
    """A tiny model that tests share; only for tests that leave it as it was."""
    return helpers.tiny_lens(name, kind, tokenizer=tokenizer)


def words(n: int = 6) -> Task:
    """A generation task with prompts and answers of many lengths."""
    train = tuple(
        Example(input="abcdefgh"[: 1 + i % 4] + str(i), target="xyzuvw"[i % 3 : 2 * (i % 3) + 1])
        for i in range(n)
    )
    return Task(name="words", train=train, test=train, metric="exact_match", instruction="Go")


def snapshot(model: Any) -> dict[str, Any]:
    """Everything about a model that no function may change; compare with ``unchanged``."""
    modules = list(model.modules())
    return {
        "weights": [(p, p.detach().clone()) for p in model.parameters()],
        "flags": [p.requires_grad for p in model.parameters()],
        "grads": [(p.grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()],
        "training": [module.training for module in modules],
        "hooks": [
            (
                len(module._forward_hooks),
                len(module._forward_pre_hooks),
                len(module._backward_hooks),
                len(module._backward_pre_hooks),
            )
            for module in modules
        ],
        "points": [
            (name, len(point.fwd_hooks), len(point.bwd_hooks))
            for name, point in model.hook_dict.items()
        ],
        "level": model.context_level,
        "grad mode": torch.is_grad_enabled(),
    }


def same_bits(a: Tensor, b: Tensor) -> bool:
    # NaN equals itself here: HookedTransformer leaves Bloom's unused W_pos uninitialised.
    a, b = (tensor.detach().contiguous().view(torch.uint8) for tensor in (a, b))
    return torch.equal(a, b)


def unchanged(model: Any, before: dict[str, Any]) -> bool:
    """Whether a model is as it was at ``before``, weights and gradients bit by bit."""
    now = snapshot(model)
    for key in ("flags", "training", "hooks", "points", "level", "grad mode"):
        assert now[key] == before[key], key
    for (parameter, weight), (same, _) in zip(before["weights"], now["weights"], strict=True):
        assert parameter is same
        assert same_bits(parameter, weight)
    for (grad, value), (same, _) in zip(before["grads"], now["grads"], strict=True):
        assert grad is same
        assert grad is None or same_bits(grad, value)
    return True


def agree(values: Tensor, others: Tensor, tolerance: float = 1e-4) -> bool:
    """Relative to the largest score of each layer."""
    gap = ((values - others).abs().amax(1) / others.abs().amax(1)).max().item()
    assert gap < tolerance, gap
    return True
