"""Relevance patching: attribution by a backward pass under the rules of relevance propagation.

Jafari et al. 2025 (RelP, arXiv 2508.21258) keep attribution patching's product of a change in
activation and a coefficient that a backward pass brings, and take for the coefficient what
layer-wise relevance propagation gives in place of the gradient. Three rules replace what the
gradient sees of a model's curvature: a norm only divides by a constant; an attention pattern is
constant, so relevance flows through the values alone; an activation function multiplies its input
by a constant, and a product of two branches gives half to each. The forward pass is unchanged.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tl_taskneurons.models.hooks import add_hook
from tl_taskneurons.models.view import ModelView
from tl_taskneurons.neurons.capture import BatchPass
from tl_taskneurons.runtime.cleanup import Undo
from tl_taskneurons.runtime.errors import InputError, StateError

# The architectures for which the rules are known to hold, by test.
_KNOWN = ("Llama", "Mistral", "Gemma", "Gemma2", "Gemma3", "Qwen2", "Qwen3", "GPT2", "Bloom")
_NORMS = ("ln1", "ln2", "ln1_post", "ln2_post")
# Far above the constant that norms add to the mean square.
_LARGE = 100.0


def relp(run: BatchPass) -> None:
    """Hand over ``coefficient * activation`` summed over positions, for each layer."""
    with relevance_rules(run.model_view):
        run.backward(
            lambda layer, g, a: run.give(layer, (g.float() * run.removed(layer, a)).sum(1))
        )


@contextmanager
def relevance_rules(model_view: ModelView) -> Iterator[None]:
    """Let backward passes propagate relevance; forward passes compute what they always do.

    Args:
        model_view: the model, frozen.

    Raises:
        ValueError: for an architecture without rules of its own, by name.
        RuntimeError: when a gated MLP is no product of its activation function and its other
            branch.
    """
    _require_known(model_view)
    model = model_view.model
    points: Any = model.hook_dict
    norms = [getattr(block, name, None) for block in model.blocks for name in _NORMS]
    norms = [norm for norm in [*norms, model.ln_final] if isinstance(norm, nn.Module)]
    with Undo() as undo:
        for norm in norms:
            rule = partial(_norm_rule, _line_of(model_view, norm))
            add_hook(undo, norm, partial(norm.register_forward_hook, rule))
        for layer in model_view.layers:
            for name in ("hook_q", "hook_k"):
                point = points[f"blocks.{layer.index}.attn.{name}"]
                add_hook(undo, point, partial(point.add_hook, _constant, is_permanent=True))
            rule = _Product(model_view, layer.index)
            for name, hook in rule.hooks().items():
                point = points[f"blocks.{layer.index}.mlp.{name}"]
                # Before the hooks of interventions, which act on what the rule returns.
                add_hook(
                    undo, point, partial(point.add_hook, hook, is_permanent=True, prepend=True)
                )
        yield


def _require_known(model_view: ModelView) -> None:
    cfg = model_view.model.cfg
    name = getattr(cfg, "original_architecture", None) or getattr(cfg, "architecture", None)
    known = {f"{prefix}{kind}" for prefix in _KNOWN for kind in ("ForCausalLM", "LMHeadModel")}
    if name not in known:
        raise InputError(
            f"Method 'relp' has no rules for {name or model_view.name}; it has them for "
            f"{', '.join(_KNOWN)}. Use 'grad_act', or 'integrated_gradients'."
        )


def _constant(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001 (TransformerLens)
    return activation.detach()


def same_value(value: Tensor, line: Tensor) -> Tensor:
    """Return a value whose gradient is that of a line through it."""
    return value.detach() + (line - line.detach())


@dataclass(frozen=True)
class _Line:
    """A norm without its division: what it multiplies by, adds, and whether it centres."""

    weight: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    centres: bool


def _line_of(model_view: ModelView, norm: nn.Module) -> _Line:
    """Read a norm off three inputs, as models keep weights and biases in ways of their own."""
    width = model_view.layers[0].d_model
    signs = torch.ones(width, device=model_view.device, dtype=model_view.dtype)
    signs[1::2] = -1
    inputs = torch.stack([signs, -signs, signs + 1]) * _LARGE
    with torch.no_grad():
        up, down, shifted = norm(inputs.unsqueeze(0)).squeeze(0).float()
    weight = (up - down) / 2 * signs.float()
    centres = torch.allclose(shifted, up, rtol=1e-2, atol=1e-3)
    return _Line(weight.to(model_view.dtype), ((up + down) / 2).to(model_view.dtype), centres)


def _norm_rule(line: _Line, _norm: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    if not inputs:
        raise StateError("A norm was called by keyword, so its input is not seen.")
    stream = inputs[0]
    if line.centres:
        stream = stream - stream.mean(-1, keepdim=True)
    scaled = stream * line.weight.to(stream.device)
    with torch.no_grad():
        target = (output - line.bias.to(output.device)).float()
        size = scaled.float().square().sum(-1, keepdim=True).clamp_min(1e-30)
        share = ((target * scaled.float()).sum(-1, keepdim=True) / size).to(scaled.dtype)
    return same_value(output, scaled * share)


class _Product:
    """The rule of one MLP: constants in place of the activation function and of half of each."""

    def __init__(self, model_view: ModelView, layer: int) -> None:
        self.gated = model_view.layers[layer].gated
        self.where = f"Layer {layer} of {model_view.name}"
        mlp: Any = model_view.layers[layer].module
        self.function: Callable[[Tensor], Tensor] | None = None
        if self.gated:
            self.function = getattr(getattr(mlp, "original_component", mlp), "act_fn", None)
        self.before: dict[str, Tensor] = {}

    def hooks(self) -> dict[str, Callable[..., Tensor]]:
        names = ("hook_pre", "hook_pre_linear") if self.gated else ("hook_pre",)
        return {**{name: partial(self._keep, name) for name in names}, "hook_post": self._rule}

    def _keep(self, name: str, activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG002
        self.before[name] = activation
        return activation

    def _rule(self, activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG002 (TransformerLens)
        pre = self.before.pop("hook_pre")
        if not self.gated:
            return same_value(activation, pre * _ratio(activation, pre))
        up = self.before.pop("hook_pre_linear")
        with torch.no_grad():
            gate = None if self.function is None else self.function(pre)
            if gate is None or not torch.allclose(gate * up, activation, rtol=1e-2, atol=1e-3):
                raise StateError(
                    f"{self.where} is no product of its activation function and its other branch, "
                    "so method 'relp' has no rule for it; use 'grad_act'."
                )
            ratio = _ratio(gate, pre)
        return same_value(activation, (up * gate + pre * (ratio * up.detach())) / 2)


def _ratio(after: Tensor, before: Tensor) -> Tensor:
    """An activation over its input, 0 where that is 0."""
    before = before.detach()
    return torch.where(before == 0, 0.0, after.detach() / before)
