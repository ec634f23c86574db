"""The mini models that come with the package: their names, and their folders, checked.

Each is a Hugging Face folder with a SHA-256 beside its weights. The folder
``minis`` of the repository makes them.
"""

import hashlib
from pathlib import Path

from tl_taskneurons.runtime.errors import InputError, MissingFileError

MODELS = ("mini-llama", "mini-llama-base", "mini-bloom", "mini-bloom-base")
FOLDER = Path(__file__).parent / "models"
WEIGHTS, CHECKSUM = "model.safetensors", "model.safetensors.sha256"

_REMEDY = "install the package again, or run `make mini` in a checkout"


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
        raise InputError(f"no mini model is called {name!r}; there are {', '.join(MODELS)}")
    folder = (root or FOLDER) / name
    for file in ("config.json", "tokenizer.json", WEIGHTS, CHECKSUM):
        if not (folder / file).is_file():
            raise MissingFileError(f"{folder / file} is missing; {_REMEDY}")
    wanted = mini_checksum(folder)
    found = sha256(folder / WEIGHTS)
    if found != wanted:
        raise InputError(
            f"the weights {folder / WEIGHTS} are damaged: their SHA-256 is {found}, it should be "
            f"{wanted}; {_REMEDY}"
        )
    return folder


def mini_checksum(folder: Path) -> str:
    """Return the SHA-256 that is recorded for the weights of a mini model."""
    words = (folder / CHECKSUM).read_text(encoding="utf-8").split()
    return words[0] if words else ""


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
