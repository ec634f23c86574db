"""Writing a mini model's folder for Hugging Face, with a checksum of its weights.

Weights are stored in float16 to stay small; the config asks for float32, so that a loaded model
computes in float32 from exactly these values.
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tl_taskneurons.builtin.mini_models import CHECKSUM, FOLDER, WEIGHTS, sha256
from tl_taskneurons.runtime.atomic import write_atomically


def save_mini_model(
    model: Any,
    tokenizer: Any,
    name: str,
    *,
    root: Path | None = None,
) -> Path:
    """Write a model's folder: config, tokenizer, float16 weights and their checksum.

    Every file is written atomically; the checksum last.
    """
    folder = (root or FOLDER) / name
    model.config.dtype = torch.float32
    model.config.architectures = [type(model).__name__]
    tied = model.config.tie_word_embeddings
    tensors = {
        key: value.detach().to(torch.float16).contiguous()
        for key, value in model.state_dict().items()
        if not (tied and key == "lm_head.weight")
    }
    with tempfile.TemporaryDirectory() as scratch:
        here = Path(scratch)
        model.config.save_pretrained(here)
        tokenizer.save_pretrained(here)
        save_file(tensors, here / WEIGHTS, metadata={"format": "pt"})
        (here / CHECKSUM).write_text(f"{sha256(here / WEIGHTS)}  {WEIGHTS}\n")
        for file in sorted(here.iterdir(), key=lambda path: path.name == CHECKSUM):
            write_atomically(folder / file.name, partial(_copy, file))
    return folder


def _copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())
