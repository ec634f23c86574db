"""The mini models as Hugging Face folders beside this package, each with a checksum.

Weights are stored in float16 to stay small; the config asks for float32, so that a loaded model
computes in float32 from exactly these values.
"""

import hashlib
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tl_taskneurons.atomic import write_atomically
from tl_taskneurons.tasks import did_you_mean

MODELS = ("mini-llama", "mini-llama-base", "mini-bloom", "mini-bloom-base")
_ROOT = Path(__file__).parent.parent / "models"
_WEIGHTS, _SUM = "model.safetensors", "model.safetensors.sha256"


def mini_model_names() -> tuple[str, ...]:
    """Return the names of the mini models."""
    return MODELS


def mini_model_folder(name: str, *, root: Path | None = None) -> Path:
    """Return the folder of a mini model after checking its weights.

    Args:
        name: One of `mini_model_names()`.
        root: Where the folders are; None means inside the package.

    Raises:
        ValueError: If the name is unknown, or the weights do not have the recorded SHA-256.
        FileNotFoundError: If a file of the model is missing.
    """
    if name not in MODELS:
        raise ValueError(f"No mini model is called {name!r}{did_you_mean(name, MODELS)}")
    folder = (root or _ROOT) / name
    for file in ("config.json", "tokenizer.json", _WEIGHTS, _SUM):
        if not (folder / file).is_file():
            raise FileNotFoundError(
                f"{folder / file} is missing; install the package again or run "
                "python -m tl_taskneurons.builtin.mini.train"
            )
    wanted = (folder / _SUM).read_text().split()[0]
    found = _sha256(folder / _WEIGHTS)
    if found != wanted:
        raise ValueError(
            f"The weights {folder / _WEIGHTS} are damaged: their SHA-256 is {found}, it should be "
            f"{wanted}; install the package again or run python -m "
            "tl_taskneurons.builtin.mini.train"
        )
    return folder


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
    folder = (root or _ROOT) / name
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
        save_file(tensors, here / _WEIGHTS, metadata={"format": "pt"})
        (here / _SUM).write_text(f"{_sha256(here / _WEIGHTS)}  {_WEIGHTS}\n")
        for file in sorted(here.iterdir(), key=lambda path: path.name == _SUM):
            write_atomically(folder / file.name, partial(_copy, file))
    return folder


def _copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
