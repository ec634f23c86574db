"""Trained weights as a plain Hugging Face folder."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tl_taskneurons.loading.huggingface import find_source, read_source
from tl_taskneurons.loading.models import load_model
from tl_taskneurons.runtime.atomic import write_folder
from tl_taskneurons.runtime.errors import ExistsError, InputError
from tl_taskneurons.runtime.options import require_kind


def write_merged(
    apply: Callable[[Any], None],
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    dtype: torch.dtype,
) -> Path:
    """Write a model as ``apply`` changes it; see ``Delta.merge``."""
    require_kind("source", source, str | os.PathLike, "give the name or folder of the base model")
    require_kind("out", out, str | os.PathLike, "give a new folder")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExistsError(f"{out} exists; give a new folder for the merged model.")
    _, hf, tokenizer = read_source(find_source(source), dtype, with_tokenizer=True)
    plain = copy.deepcopy(hf)  # the bridge takes the other one apart
    state = hf.state_dict()  # the same storage, so what is written to the bridge shows here
    bridge = load_model(hf, tokenizer=tokenizer, dtype=dtype, device="cpu")
    apply(bridge)
    plain.load_state_dict(state)
    _require_same(plain, bridge, source)
    plain.config.dtype = dtype

    def write(part: Path) -> None:
        plain.save_pretrained(part)
        if tokenizer is not None:
            tokenizer.save_pretrained(part)

    write_folder(out, write)
    return out


@torch.no_grad()
def _require_same(plain: Any, bridge: Any, source: str | os.PathLike[str]) -> None:
    """Refuse when the bridge ran on copies that the Hugging Face model doesn't see."""
    ids = torch.arange(min(12, int(plain.config.vocab_size)), device="cpu")[None]
    logits = [plain.eval()(ids).logits, bridge(ids)]
    one, other = (each[0].float().log_softmax(-1) for each in logits)
    gap = float((one - other).abs().max())
    if not gap < (1e-3 if one.dtype == plain.dtype else 0.3):
        raise InputError(
            f"The trained weights can't be merged into {source}: the merged model's log-"
            f"probabilities would be off by {gap:.2g} nats, because TransformerLens runs on copies "
            "of this architecture's fused matrices. Use applied(model), or train neurons or LoRA."
        )
