"""From a Hugging Face model to a TransformerLens model of either class."""

import copy
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tl_taskneurons.loading.huggingface import Source, brief
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import view
from tl_taskneurons.runtime.cleanup import Undo
from tl_taskneurons.runtime.errors import InputError, MissingPackageError

logger = logging.getLogger(__name__)

# HookedTransformer guesses the architecture from these words in a path.
_SNIFFED = ("llama", "gemma")


def as_bridge(hf: Any, tokenizer: Any, source: Source, device: torch.device | None) -> Any:
    """A TransformerBridge around a Hugging Face model, which it rewires."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    if device is not None and getattr(hf.config, "quantization_config", None) is None:
        hf.to(device)
    architecture = type(hf).__name__
    try:
        return build_bridge_from_module(
            hf, architecture, hf_config=hf.config, tokenizer=tokenizer, model_name=source.name
        )
    except Exception as error:  # whatever TransformerLens trips over in an architecture
        raise InputError(
            f"TransformerLens cannot build a bridge for {source.name!r} ({architecture}): "
            f"{brief(error)}"
        ) from error


def hooked_class() -> Any:
    """HookedTransformer; raise ImportError where TransformerLens has none."""
    try:
        from transformer_lens import HookedTransformer
    except ImportError as error:
        raise MissingPackageError(
            "TransformerLens 4 removed HookedTransformer; use kind='bridge', or install "
            "'transformer-lens<4'"
        ) from error
    return HookedTransformer


def as_hooked(
    hf: Any, tokenizer: Any, source: Source, dtype: torch.dtype, device: torch.device
) -> Any:
    """A HookedTransformer with the raw weights of a Hugging Face model, which stays as it is."""
    from transformer_lens import loading_from_pretrained as tl_loading

    architecture = type(hf).__name__
    if getattr(hf.config, "mlp_bias", False):
        raise InputError(
            f"HookedTransformer drops the MLP biases of {source.name!r}; use kind='bridge'"
        )
    # The conversion freezes the Hugging Face model, which may be the user's.
    with _flags_kept(hf), _config_folder(hf, source) as name:
        try:
            cfg = tl_loading.get_pretrained_model_config(
                name, fold_ln=False, device="cpu", dtype=dtype
            )
            state = tl_loading.get_pretrained_state_dict(name, cfg, hf_model=hf, dtype=dtype)
            w_out = state.get("blocks.0.mlp.W_out")
            if w_out is not None:
                cfg.d_mlp = w_out.shape[0]  # the config's guess is wrong where n_inner is set
            cfg.tokenizer_name = None  # ours is handed over below
            cfg.model_name = source.name
            model = hooked_class()(cfg, tokenizer, move_to_device=False)
            model.load_and_process_state_dict(
                state,
                fold_ln=False,
                center_writing_weights=False,
                center_unembed=False,
                fold_value_biases=False,
            )
        except Exception as error:  # whatever TransformerLens trips over in an architecture
            raise InputError(
                f"HookedTransformer cannot hold {source.name!r} ({architecture}): "
                f"{brief(error)}; use kind='bridge'"
            ) from error
    # A bridge has its model's own; it says which tokens end a text.
    model.generation_config = getattr(hf, "generation_config", None)
    model.eval()
    return model.to(device, print_details=False)


def share_identity(model: LanguageModel, hf: Any) -> None:
    """Give a HookedTransformer the fingerprint of the same weights' bridge.

    The bridge is built around a copy of the modules that holds the very same weights.
    """
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    same: dict[int, Any] = {id(tensor): tensor for tensor in (*hf.parameters(), *hf.buffers())}
    with _flags_kept(hf):
        try:
            twin = copy.deepcopy(hf, same)
            bridge = build_bridge_from_module(
                twin, type(hf).__name__, hf_config=hf.config, tokenizer=None, model_name="twin"
            )
            view(model).share_identity(view(bridge))
        except Exception as error:  # it then goes by the names of its own weights
            logger.info("no shared fingerprint for %s: %s", type(hf).__name__, brief(error))


@contextmanager
def _flags_kept(model: Any) -> Iterator[None]:
    """Give a model's parameters the ``requires_grad`` back that they have now."""
    with Undo() as undo:
        for parameter in model.parameters():
            undo.add(parameter.requires_grad_, parameter.requires_grad)
        yield


@contextmanager
def _config_folder(hf: Any, source: Source) -> Iterator[str]:
    """What HookedTransformer takes the shape from: a neutral folder with the model's config.

    Gemma's shape is known to it by official names only.
    """
    from transformer_lens.supported_models import OFFICIAL_MODEL_NAMES

    if source.location in OFFICIAL_MODEL_NAMES and "gemma" in source.location.lower():
        yield source.location
        return
    with tempfile.TemporaryDirectory(prefix="tn-") as folder:
        sniffed = [word for word in _SNIFFED if word in folder.lower()]
        if sniffed:
            raise InputError(
                f"the temporary folder {folder!r} has {sniffed[0]!r} in its path, which "
                "HookedTransformer takes for the architecture; set TMPDIR to another folder"
            )
        config = copy.deepcopy(hf.config)
        config.architectures = [type(hf).__name__]
        if config.model_type == "gpt2" and not hasattr(config, "n_ctx"):
            config.n_ctx = config.n_positions  # old configs had it, and it is asked for
        config.save_pretrained(folder)
        yield folder
