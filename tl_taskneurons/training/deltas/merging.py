"""Trained weights as a plain Hugging Face folder."""

import copy
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tl_taskneurons.loading.huggingface import find_source, read_source
from tl_taskneurons.loading.models import load_model


def write_merged(
    apply: Callable[[Any], None],
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    dtype: torch.dtype,
) -> Path:
    """Write a model as ``apply`` changes it; see ``Delta.merge``."""
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists; give a new folder for the merged model.")
    _, hf, tokenizer = read_source(find_source(source), dtype, with_tokenizer=True)
    plain = copy.deepcopy(hf)  # the bridge takes the other one apart
    state = hf.state_dict()  # the same storage, so what is written to the bridge shows here
    apply(load_model(hf, tokenizer=tokenizer, dtype=dtype, device="cpu"))
    plain.load_state_dict(state)
    plain.config.dtype = dtype
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a merge that was killed
    try:
        plain.save_pretrained(part)
        if tokenizer is not None:
            tokenizer.save_pretrained(part)
        if out.exists():
            out.rmdir()
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out
