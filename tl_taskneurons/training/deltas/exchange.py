"""Neurons' deltas from and to other forms: two checkpoints, and adapters for ``peft``."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tl_taskneurons.models.view import ModelView
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.atomic import write_folder
from tl_taskneurons.runtime.errors import (
    ExistsError,
    InputError,
    InputTypeError,
    MissingPackageError,
)
from tl_taskneurons.training.slices import SliceName, Slices, read_slices

_ROLES = {"W_in": "in", "W_gate": "gate", "W_out": "out"}
_PREFIX = "base_model.model."


def sides_of(base: ModelView, tuned: ModelView, *, partial: bool) -> tuple[Slices, Slices]:
    """Return the weights of the neurons that differ; see ``NeuronDelta.between``."""
    parts = [[sorted(layer.parameters) for layer in each.layers] for each in (base, tuned)]
    if base.shape != tuned.shape or parts[0] != parts[1]:
        raise InputError(
            f"{base.name} has {base.shape} layers and neurons, {tuned.name} has {tuned.shape}, or "
            "their MLPs have other parts; take two checkpoints of one architecture."
        )
    rest = [each.fingerprint.rsplit("-", 1)[1] for each in (base, tuned)]
    if rest[0] != rest[1] and not partial:
        raise InputError(
            f"{base.name} and {tuned.name} differ in more than their neurons (attention, "
            "embeddings, norms or output biases), which a NeuronDelta can't hold; partial=True "
            "takes the neurons' part."
        )
    mask = torch.zeros(base.shape, dtype=torch.bool, device="cpu")
    for old, new in zip(base.layers, tuned.layers, strict=True):
        for name, part in old.parameters.items():
            one, other = part.oriented, new.parameters[name].oriented
            if one.shape != other.shape:
                raise InputError(
                    f"{name} of layer {old.index} is {tuple(one.shape)} in {base.name} and "
                    f"{tuple(other.shape)} in {tuned.name}."
                )
            differs = one.float().cpu() != other.float().cpu()
            axis = SliceName(old.index, name).axis
            mask[old.index] |= differs if differs.ndim == 1 else differs.any(1 - axis)
    if not mask.any():
        raise InputError(
            f"{base.name} and {tuned.name} have the same neurons: nothing "
            "differs; give the model before and the model after training."
        )
    neurons = NeuronSet(mask, base.fingerprint, f"{tuned.name} against {base.name}")
    return (
        read_slices(base, neurons).map(Tensor.cpu),
        read_slices(tuned, neurons).map(lambda value: value.float().cpu()),
    )


def write_peft(change: Slices, model_view: ModelView, folder: str | os.PathLike[str]) -> Path:
    """Write a change of neurons as a LoRA adapter; see ``NeuronDelta.to_peft``."""
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingPackageError(
            "An adapter needs peft; install it with pip install 'tl-taskneurons[compare]'"
        ) from error
    out = Path(folder)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExistsError(f"{out} exists; give a new folder for the adapter.")
    names = _module_names(model_view, change)
    biased = any(SliceName.parse(name).part.startswith("b_") for name in change)
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for name, home in names.items():
        value, index = change[name], change.neurons.layers()[SliceName.parse(name).layer]
        tensors |= _factors(home, name, value, index, model_view.d_mlp)
        ranks[home] = len(index)
        if biased:  # peft adds the bias of the up factor to the layer's own
            key = SliceName.parse(name)
            own = change.get(str(SliceName(key.layer, key.part.replace("W_", "b_"))))
            bias = torch.zeros(
                tensors[f"{_PREFIX}{home}.lora_B.weight"].shape[0],
                dtype=torch.float32,
                device="cpu",
            )
            if own is not None:
                bias[index] = own
            tensors[f"{_PREFIX}{home}.lora_B.bias"] = bias
    linear = getattr(model_view.layers[0].module, "out").original_component  # noqa: B009
    config = LoraConfig(
        r=max(ranks.values()), lora_alpha=max(ranks.values()), target_modules=list(names.values()),
        rank_pattern=ranks, alpha_pattern=dict(ranks), lora_dropout=0.0, lora_bias=biased,
        fan_in_fan_out=type(linear).__name__ == "Conv1D", task_type="CAUSAL_LM",
        base_model_name_or_path=model_view.name,
    )  # fmt: skip

    def write(part: Path) -> None:
        config.save_pretrained(str(part))
        save_file(tensors, part / "adapter_model.safetensors", metadata={"format": "pt"})

    write_folder(out, write)
    return out


def _factors(
    home: str, name: str, value: Tensor, index: Tensor, d_mlp: int
) -> Mapping[str, Tensor]:
    """A matrix's change as one-hot and dense factors: ``up @ down``, oriented as in ``peft``."""
    n = len(index)
    dense = value.mT.contiguous()
    if SliceName.parse(name).part == "W_out":
        down = torch.zeros(n, d_mlp, dtype=torch.float32, device="cpu")
        down[torch.arange(n, device="cpu"), index] = 1.0
        up = dense
    else:
        up = torch.zeros(d_mlp, n, dtype=torch.float32, device="cpu")
        up[index, torch.arange(n, device="cpu")] = 1.0
        down = dense
    return {f"{_PREFIX}{home}.lora_A.weight": down, f"{_PREFIX}{home}.lora_B.weight": up}


def _module_names(model_view: ModelView, change: Slices) -> dict[str, str]:
    """Hugging Face's names of the modules that hold the matrices of a change."""
    if not model_view.is_bridge:
        raise InputTypeError(
            f"{model_view.name} is a HookedTransformer, which doesn't know the names of Hugging "
            "Face's modules; load it with kind='bridge'."
        )
    homes = {id(m): name for name, m in model_view.model.original_model.named_modules()}
    names: dict[str, str] = {}
    for name in change:
        layer, part = SliceName.parse(name)
        if part not in _ROLES:
            continue
        owner = model_view.layers[layer]
        weight = owner.parameters[part].parameter
        if weight.nbytes < weight.untyped_storage().nbytes():
            raise InputError(
                f"{part} of layer {layer} of {model_view.name} is a part of a fused matrix, which "
                "an adapter can't tell apart; use merge."
            )
        module = getattr(owner.module, _ROLES[part]).original_component
        names[name] = homes[id(module)].replace("._original_component", "")
    return names
