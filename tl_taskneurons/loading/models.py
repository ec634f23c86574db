"""From a name, a folder, a GGUF file or a Hugging Face model to a TransformerLens model.

Every way leads through a Hugging Face model with its raw weights, so a ``bridge`` and a ``hooked``
model of the same source compute the same log-probabilities.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tl_taskneurons.loading.adapters import ADAPTER_FILE, base_of, merged, with_adapter
from tl_taskneurons.loading.build import as_bridge, as_hooked, hooked_class, share_identity
from tl_taskneurons.loading.checks import check_loaded, take_down
from tl_taskneurons.loading.huggingface import Source, find_source, read_source
from tl_taskneurons.loading.remembered import weights_key
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.runtime.errors import InputError, InputTypeError

_KINDS = ("bridge", "hooked")
_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def load_model(
    name_or_path: str | os.PathLike[str] | nn.Module,
    *,
    kind: str = "bridge",
    dtype: torch.dtype | str = torch.float32,
    device: str | torch.device | None = None,
    device_map: str | Mapping[str, str | int] | None = None,
    tokenizer: Any = None,
    trust_remote_code: bool = False,
) -> LanguageModel:
    """Load a language model as a TransformerLens model with raw (unprocessed) weights.

    Args:
        name_or_path: a mini model (``"mini-llama"``, ``"mini-llama-base"``, ``"mini-bloom"``,
            ``"mini-bloom-base"``), ``"smollm2-135m"``, a Hugging Face hub id, a Hugging Face
            folder, a folder with a ``peft`` adapter, a ``.gguf`` file (converted once and cached
            under ``$TL_TASKNEURONS_CACHE``, by default the user's cache folder), or a Hugging
            Face model in memory. A model in memory is taken over: it is moved and cast, and a
            bridge rewires it; pass a copy to keep yours. One with adapters (a ``PeftModel`` too)
            stays as it is: they are merged into a copy, with a warning.
        kind: ``"bridge"`` for a TransformerBridge, ``"hooked"`` for a HookedTransformer
            (TransformerLens 3.9 only).
        dtype: of the weights: float32, bfloat16, float16 or float64.
        device: where the model goes; by default the first GPU, else the CPU.
        device_map: in place of ``device``, for a bridge larger than one GPU: where its layers go,
            as accelerate understands it (``"auto"``, ``"balanced"`` or module names to GPUs). All
            weights must find room on GPUs. A model in memory that accelerate has spread over
            several stays as it is.
        tokenizer: a Hugging Face tokenizer; by default the one that comes with the model.
        trust_remote_code: whether Python code that comes with the model may run; without it such
            a model is refused.

    Returns:
        The model in eval mode, with ``model.tokenizer`` (None where the source has none).

    Before it is returned, the model is compared with the Hugging Face model it came from: with its
    own weights on a short input, and as a small random model of the same configuration on inputs
    beyond any sliding window, padded, and with a key-value cache. A cache that computes something
    else is not used, and a warning says so.

    Raises:
        ValueError: a model that does not compute what Hugging Face computes (the message says by
            how much, and where), unknown name, kind or dtype, a device map that does not go with
            the other arguments or leaves weights outside of the devices, a file or folder that
            cannot be read as a model, or an architecture that TransformerLens cannot build.
        FileNotFoundError: a path that isn't there, or SmolLM2 found nowhere.
        ConnectionError: the hub is needed and cannot be reached.
        ImportError: ``kind="hooked"`` under TransformerLens 4.
        TypeError: something that is neither a name, a path nor a Hugging Face model.
    """
    if kind not in _KINDS:
        raise InputError(f"unknown kind {kind!r}; use one of {', '.join(map(repr, _KINDS))}")
    if kind == "hooked":
        hooked_class()  # before minutes of loading, not after
    if not isinstance(name_or_path, str | os.PathLike | nn.Module):
        raise InputTypeError(
            f"expected a name, a path or a Hugging Face model, got {name_or_path!r}; give e.g. "
            "'smollm2-135m'"
        )
    if tokenizer is not None and not hasattr(tokenizer, "save_pretrained"):
        raise InputTypeError(
            f"tokenizer is {tokenizer!r}; give a Hugging Face tokenizer, as "
            "AutoTokenizer.from_pretrained returns"
        )
    _check_device(device)
    dtype = as_dtype(dtype)
    spread = device_map is not None or _is_spread(name_or_path)
    if spread:
        _check_spread(name_or_path, kind, device, device_map)
    own_tokenizer = None
    if isinstance(name_or_path, nn.Module):
        source, hf = _take_over(merged(name_or_path), dtype)
    else:
        source, hf, own_tokenizer = _read(
            name_or_path, dtype, with_tokenizer=tokenizer is None, device_map=device_map,
            trust_remote_code=trust_remote_code,
        )  # fmt: skip
    hf.eval()
    if spread:
        _refuse_offloaded(hf, source)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with nullcontext(own_tokenizer) if tokenizer is None else _reloadable(tokenizer) as tok:
        quantised = getattr(hf.config, "quantization_config", None) is not None
        if kind == "bridge" and not spread and not quantised:
            hf.to(place)
        # A model in memory may be of any making; one with a source is compared once.
        key = weights_key(hf, kind, dtype, place) if source.location else ""
        original = take_down(hf, key)  # before the bridge rewires it
        if kind == "hooked":
            model = as_hooked(hf, tok, source, dtype, place)
            share_identity(model, hf)
        else:
            model = as_bridge(hf, tok, source, None if spread else place)
    if tokenizer is not None:
        model.tokenizer.name_or_path = source.location or source.name  # the copy's folder is gone
    model.source_revision = source.revision
    model.eval()
    check_loaded(model, hf, original, kind)
    return model


def _read(
    name_or_path: str | os.PathLike[str], dtype: torch.dtype, **options: Any
) -> tuple[Source, Any, Any]:
    """A named model; with its adapter, where the name is that of an adapter's folder."""
    folder = Path(name_or_path).expanduser()
    if not (folder / ADAPTER_FILE).is_file() or (folder / "config.json").is_file():
        return read_source(find_source(name_or_path), dtype, **options)
    base = find_source(base_of(folder))
    source, hf, tokenizer = read_source(base, dtype, **options)
    own = Source(folder.resolve().name, str(folder), source.revision)
    return own, with_adapter(hf, folder), tokenizer


def model_name(model: LanguageModel) -> str:
    """The name that tables and messages use for a model.

    Raises:
        TypeError: the model has no TransformerLens config.
    """
    cfg = getattr(model, "cfg", None)
    if cfg is None:
        raise InputTypeError(
            f"expected HookedTransformer or TransformerBridge, got {type(model).__name__}; "
            "load_model makes one from a Hugging Face model"
        )
    return str(getattr(cfg, "model_name", None) or "unnamed")


def model_revision(model: LanguageModel) -> str:
    """Hub commit, GGUF key or checksum of a model from ``load_model``; empty without one."""
    return str(getattr(model, "source_revision", ""))


def _check_device(
    device: Any, name: str = "device", known: str = "'cpu', 'cuda' or 'cuda:1'"
) -> None:
    """Raise ValueError for a device that isn't there, before anything is loaded."""
    if device is None or str(device) == "cpu":
        return
    try:
        torch.empty(0, dtype=torch.float32, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(
            f"{name} is {device!r}, which PyTorch {torch.__version__} can't use here "
            f"({str(error).splitlines()[0][:80]}); use {known}"
        ) from error


def _is_spread(model: Any) -> bool:
    """Whether accelerate has put a model in memory on several devices."""
    return len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1


def _check_spread(model: Any, kind: str, device: Any, device_map: Any) -> None:
    """Raise ValueError where several devices don't go with the other arguments."""
    if kind == "hooked":
        raise InputError(
            "a HookedTransformer can't be spread over devices by accelerate; use kind='bridge'"
        )
    if device is not None:
        raise InputError(
            f"device is {str(device)!r}, but the model is spread over devices; leave device out"
        )
    if device_map is not None and isinstance(model, nn.Module):
        raise InputError(
            "device_map is for models that are loaded; spread this one with "
            "accelerate.dispatch_model before, and leave device_map out"
        )
    if isinstance(device_map, str) and device_map not in _MAPS:
        _check_device(
            device_map, "device_map", f"{', '.join(map(repr, _MAPS))}, a device or a dict"
        )
    elif not isinstance(device_map, str | Mapping | None):
        raise InputTypeError(
            f"device_map is {device_map!r} ({type(device_map).__name__}); use "
            f"{', '.join(map(repr, _MAPS))}, a device, or a dict of module names to devices"
        )


def _refuse_offloaded(hf: nn.Module, source: Source) -> None:
    outside = [name for name, weight in hf.named_parameters() if weight.device.type == "meta"]
    if outside:
        raise InputError(
            f"{len(outside)} weights of {source.name!r} found no room on the devices and were "
            f"offloaded, such as {outside[0]!r}: neurons can't be read or changed there. Use more "
            "GPUs, or dtype='bfloat16'"
        )


def as_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """Return the dtype of a name; raise ValueError for one that models are not loaded in."""
    found = _DTYPES.get(dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    if found is None or found not in _DTYPES.values():
        raise InputError(f"unsupported dtype {dtype!r}; use one of {', '.join(_DTYPES)}")
    return found


def _take_over(hf: nn.Module, dtype: torch.dtype) -> tuple[Source, Any]:
    """A model in memory, cast as from_pretrained would cast it."""
    from transformers import PreTrainedModel

    if not isinstance(hf, PreTrainedModel):
        raise InputTypeError(
            f"expected a name, a path or a Hugging Face model, got {type(hf).__name__}; a "
            "HookedTransformer or TransformerBridge needs no loading"
        )
    config: Any = hf.config
    if getattr(config, "quantization_config", None) is None:
        # Parameters only: the rotary frequencies are buffers and stay in float32.
        for parameter in hf.parameters():
            parameter.data = parameter.data.to(dtype)
        hf.set_attn_implementation("eager")
    path = str(getattr(config, "_name_or_path", "") or "")
    revision = str(getattr(config, "_commit_hash", None) or "")
    return Source(Path(path).name if path else type(hf).__name__, "", revision), hf


@contextmanager
def _reloadable(tokenizer: Any) -> Iterator[Any]:
    """A copy of a tokenizer that lies in a folder as long as the context lasts.

    TransformerLens loads every tokenizer again, from where it came, to prepend BOS; one made in
    memory came from nowhere.
    """
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory(prefix="tn-") as folder:
        tokenizer.save_pretrained(folder)
        yield AutoTokenizer.from_pretrained(folder)
