"""The MLP of one layer: its neurons' hook point and parameters, for each model class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from tl_taskneurons.runtime.errors import InputError

_PARTS = ("W_in", "b_in", "W_gate", "b_gate", "W_out")


@dataclass(frozen=True, eq=False)
class NeuronParameter:
    """A leaf parameter that holds one part of every neuron of a layer.

    Attributes:
        name: ``W_in``, ``W_gate``, ``W_out``, ``b_in`` or ``b_gate``.
        parameter: the leaf ``nn.Parameter`` (writing to it in place changes the model).
        axis: the axis of ``parameter`` that runs over the neurons.
    """

    name: str
    parameter: nn.Parameter
    axis: int

    @property
    def oriented(self) -> Tensor:
        """The parameter as TransformerLens orients it; a view without gradient.

        ``[d_model, d_mlp]`` for W_in and W_gate, ``[d_mlp, d_model]`` for W_out, ``[d_mlp]`` for
        biases.
        """
        return self.orient(self.parameter.detach())

    def orient(self, values: Tensor, *, back: bool = False) -> Tensor:
        """View values laid out as the parameter as TransformerLens orients them, or ``back``."""
        axes = self.axis, neuron_axis(self.name)
        return values if values.ndim == 1 else values.movedim(*(axes[::-1] if back else axes))


@dataclass(frozen=True, eq=False)
class MLPLayer:
    """The MLP of one layer.

    Attributes:
        index: layer number.
        hook: name of the hook point of the neurons' activations ``[batch, pos, d_mlp]``.
        point: that hook point.
        module: the MLP module.
        gated: whether the activation is ``act(gate) * up``.
        parameters: the neurons' parameters by name.
    """

    index: int
    hook: str
    point: HookPoint
    module: nn.Module
    gated: bool
    parameters: Mapping[str, NeuronParameter]

    @property
    def d_mlp(self) -> int:
        """Number of neurons, read off the output matrix."""
        return self.parameters["W_out"].oriented.shape[0]

    @property
    def d_model(self) -> int:
        """Width of the residual stream, read off the output matrix."""
        return self.parameters["W_out"].oriented.shape[1]


def neuron_axis(part: str) -> int:
    """Return the axis of the neurons in a part of an MLP, oriented as TransformerLens does."""
    return 1 if part in ("W_in", "W_gate") else 0


def _hooked_layer(name: str, i: int, block: nn.Module, hooks: Mapping[str, HookPoint]) -> MLPLayer:
    mlp = getattr(block, "mlp", None)
    _refuse_if_unusable(name, i, mlp, hooks)
    assert mlp is not None
    gated = hasattr(mlp, "W_gate")
    axes = {"W_in": 1, "W_gate": 1, "W_out": 0, "b_in": 0}
    found: dict[str, NeuronParameter] = {}
    for part, axis in axes.items():
        parameter = getattr(mlp, part, None)
        if parameter is None:
            continue
        _refuse_unless_leaf(name, i, mlp, part, part)
        if part == "b_in" and gated:
            # TransformerLens adds this bias after the product of gate and up, where no
            # architecture has one; it is zero in every converted model.
            if bool(parameter.detach().any()):
                raise InputError(
                    f"Layer {i} of {name} is a gated HookedTransformer MLP with a non-zero b_in, "
                    "which TransformerLens applies in the wrong place; load the model as a "
                    "TransformerBridge instead (kind='bridge')."
                )
            continue
        found[part] = NeuronParameter(part, parameter, axis)
    return _checked_layer(name, i, mlp, gated, found, hooks)


def _bridge_layer(name: str, i: int, block: nn.Module, hooks: Mapping[str, HookPoint]) -> MLPLayer:
    mlp = getattr(block, "mlp", None)
    _refuse_if_unusable(name, i, mlp, hooks)
    assert mlp is not None
    found: dict[str, NeuronParameter] = {}
    for role, weight_name, bias_name in (
        ("in", "W_in", "b_in"),
        ("gate", "W_gate", "b_gate"),
        ("out", "W_out", None),
    ):
        component = getattr(mlp, role, None)
        linear = getattr(component, "original_component", component)
        linear = _without_idle_adapter(name, i, linear, weight_name)
        weight = getattr(linear, "weight", None)
        if weight is None:
            continue
        _refuse_unless_leaf(name, i, linear, "weight", weight_name)
        out_first = type(linear).__name__ != "Conv1D"  # nn.Linear holds [out, in], Conv1D [in, out]
        axis = (0 if out_first else 1) if role != "out" else (1 if out_first else 0)
        found[weight_name] = NeuronParameter(weight_name, weight, axis)
        bias = getattr(linear, "bias", None)
        if bias is not None and bias_name is not None:
            _refuse_unless_leaf(name, i, linear, "bias", bias_name)
            found[bias_name] = NeuronParameter(bias_name, bias, 0)
    return _checked_layer(name, i, mlp, "W_gate" in found, found, hooks)


def _without_idle_adapter(name: str, i: int, linear: Any, part: str) -> Any:
    """The plain matrix under an adapter of peft that is merged or switched off; refuse others."""
    if not hasattr(linear, "get_base_layer"):
        return linear
    merged, off = getattr(linear, "merged", False), getattr(linear, "disable_adapters", False)
    if not (merged or off):
        raise InputError(
            f"Layer {i} of {name} has an active adapter {linear.active_adapters} on {part}, so the "
            "neurons' weights are not what the matrix holds. Merge it (merge_and_unload), or give "
            "the Hugging Face model to load_model, which merges a copy."
        )
    return linear.get_base_layer()


def _refuse_unless_leaf(name: str, i: int, module: nn.Module, attribute: str, part: str) -> None:
    """Refuse a weight that is computed from others at every run: writing to it has no effect."""
    if attribute in module._parameters:
        return
    if f"{attribute}_orig" in module._parameters:
        cause = "is pruned (torch.nn.utils.prune), or normalised by its spectrum"
        remedy = f"torch.nn.utils.prune.remove(module, {attribute!r})"
    elif hasattr(module, "parametrizations"):
        cause = "is parametrised (torch.nn.utils.parametrize)"
        remedy = f"torch.nn.utils.parametrize.remove_parametrizations(module, {attribute!r})"
    elif f"{attribute}_g" in module._parameters:
        cause, remedy = "is split by weight_norm", "torch.nn.utils.remove_weight_norm(module)"
    else:
        cause, remedy = "is no parameter of its module", "module.weight = nn.Parameter(weight)"
    raise InputError(
        f"Layer {i} of {name} has a {part} that {cause}: it is computed from other tensors at "
        f"every run, so changing it has no effect. Make it permanent first: {remedy}."
    )


def _refuse_if_unusable(
    name: str, i: int, mlp: nn.Module | None, hooks: Mapping[str, HookPoint]
) -> None:
    cause = None
    if mlp is None:
        cause = "it has no MLP (an attention-only or state-space layer)"
    elif "moe" in type(mlp).__name__.lower() or hasattr(mlp, "experts"):
        cause = "it is a mixture of experts, whose neurons depend on the router"
    elif hasattr(mlp, "hook_mid"):
        cause = "it is a SoLU MLP with a layer norm between activation and output matrix"
    elif _hook_of(i) not in hooks:
        cause = f"it has no hook point {_hook_of(i)}"
    if cause:
        raise InputError(
            f"Layer {i} of {name} can't be used: {cause}. Supported are decoder-only models with "
            "plain or gated MLPs (Llama, GPT-2, Bloom, GPT-NeoX, Gemma, Phi-3, Qwen and their kin)."
        )


def _hook_of(layer: int) -> str:
    return f"blocks.{layer}.mlp.hook_post"


def _checked_layer(
    name: str,
    i: int,
    mlp: nn.Module,
    gated: bool,
    parameters: dict[str, NeuronParameter],
    hooks: Mapping[str, HookPoint],
) -> MLPLayer:
    missing = {"W_in", "W_out"} - set(parameters)
    if missing:
        raise InputError(
            f"Layer {i} of {name} can't be used: its {type(mlp).__name__} has no "
            f"{' and no '.join(sorted(missing))}."
        )
    for part in parameters.values():
        weight = part.parameter  # float8 counts as floating point, but its scales are elsewhere
        if not weight.is_floating_point() or weight.element_size() < 2 or weight.ndim > 2:
            raise InputError(
                f"Layer {i} of {name} has {part.name} of type {part.parameter.dtype} and shape "
                f"{tuple(part.parameter.shape)}: quantised weights can't be scored or changed. "
                "Load the model in float32 or bfloat16."
            )
        if weight.is_inference():
            raise InputError(
                f"{name} was made under torch.inference_mode, so it can have no gradients; load "
                "it outside (scoring it inside is fine)."
            )
    # One order for both classes: the fingerprint depends on it.
    parameters = {part: parameters[part] for part in _PARTS if part in parameters}
    layer = MLPLayer(i, _hook_of(i), hooks[_hook_of(i)], mlp, gated, parameters)
    d_model, d_mlp = layer.d_model, layer.d_mlp
    for part_name in {"W_in", "W_gate"} & set(parameters):
        shape = tuple(parameters[part_name].oriented.shape)
        if shape != (d_model, d_mlp):
            raise InputError(
                f"Layer {i} of {name} can't be used: {part_name} is {shape}, W_out implies "
                f"{(d_model, d_mlp)}."
            )
    return layer
