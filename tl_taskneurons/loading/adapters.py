"""Models that carry adapters of ``peft``: their weights are merged before neurons are looked at."""

import copy
import warnings
from pathlib import Path
from typing import Any

from torch import nn

from tl_taskneurons.runtime.errors import InputError, MissingPackageError
from tl_taskneurons.runtime.parsing import parse_json

ADAPTER_FILE = "adapter_config.json"


def base_of(folder: Path) -> str:
    """The model that a folder's adapter was trained on.

    Raises:
        ValueError: its config doesn't say.
    """
    try:
        base = parse_json((folder / ADAPTER_FILE).read_text())["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"the adapter in {str(folder)!r} doesn't name its base model; load that with peft, and "
            "give the PeftModel"
        ) from error
    if not base:
        raise InputError(
            f"the adapter in {str(folder)!r} has an empty base_model_name_or_path; load its base "
            "model, put the adapter on with peft.PeftModel.from_pretrained, and give the PeftModel"
        )
    return str(base)


def with_adapter(hf: Any, folder: Path) -> Any:
    """A freshly loaded base model with a folder's adapter merged into its weights.

    Raises:
        ImportError: without ``peft``.
        ValueError: an adapter that does not fit the model or can't be merged.
    """
    try:
        hf.load_adapter(str(folder))
    except ImportError as error:
        raise MissingPackageError(
            f"{str(folder)!r} holds an adapter, which needs peft; install it with "
            "pip install 'tl-taskneurons[compare]'"
        ) from error
    except (ValueError, RuntimeError, KeyError, TypeError, OSError) as error:
        raise InputError(
            f"the adapter in {str(folder)!r} does not fit its base model: {error}"
        ) from error
    return _merge(hf, f"the adapter in {str(folder)!r} was merged into its base model")


def merged(model: nn.Module) -> Any:
    """A model without adapters: itself, or a copy into which the active ones are merged.

    Args:
        model: a Hugging Face model with or without adapters in it, or a PeftModel around one.

    Raises:
        ValueError: an adapter that can't be merged (a learned prompt).
    """
    if not (_is_peft(model) or any(_is_layer(module) for module in model.modules())):
        return model
    told = "a copy of the model was made and its active adapters merged into the weights"
    return _merge(copy.deepcopy(model), f"{told}; yours keeps them")


def _is_peft(model: nn.Module) -> bool:
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def _is_layer(module: nn.Module) -> bool:
    return hasattr(module, "get_base_layer") or hasattr(module, "modules_to_save")


def _merge(model: nn.Module, told: str) -> Any:
    """Merge all active adapters in place; return the plain Hugging Face model."""
    if _is_peft(model):
        unmergeable = getattr(model, "active_peft_config", None)
        if getattr(unmergeable, "is_prompt_learning", False):
            raise InputError(
                f"an adapter of kind {type(unmergeable).__name__} learns a prompt and can't be "
                "merged into the weights; give a model with LoRA or the like"
            )
        model = model.get_base_model()  # pyright: ignore[reportCallIssue]
    found = [(name, m) for name, m in model.named_modules() if _is_layer(m)]
    for name, layer in found:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, _plain(name, layer))
    for attribute in ("peft_config", "_hf_peft_config_loaded"):
        vars(model).pop(attribute, None)
    for parameter in model.parameters():  # peft froze them
        parameter.requires_grad_(True)
    warnings.warn(f"{told}: neurons and scores are those of the merged weights.", stacklevel=4)
    return model


def _plain(name: str, layer: Any) -> nn.Module:
    off = getattr(layer, "disable_adapters", False)
    if hasattr(layer, "modules_to_save"):
        active = [key for key in layer.active_adapters if key in layer.modules_to_save]
        return layer.original_module if off or not active else layer.modules_to_save[active[0]]
    if not off:
        try:
            layer.merge(safe_merge=True)
        except (AttributeError, NotImplementedError, ValueError) as error:
            raise InputError(f"the adapter on {name!r} can't be merged: {error}") from error
    return layer.get_base_layer()
