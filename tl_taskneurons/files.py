"""Safetensors files with metadata: atomic to write, nothing unpickled, the same bytes each time."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tl_taskneurons.atomic import write_atomically

# One key only: safetensors writes several metadata keys in a random order.
_KEY = "tl_taskneurons"


def save_tensor(
    path: str | os.PathLike[str], kind: str, tensor: Tensor, metadata: Mapping[str, Any]
) -> None:
    """Write one tensor with JSON metadata to a safetensors file, atomically."""
    header = {_KEY: json.dumps({"kind": kind, **metadata}, sort_keys=True)}
    write_atomically(
        path, lambda temporary: save_file({kind: tensor.contiguous()}, temporary, metadata=header)
    )


def load_tensor(
    path: str | os.PathLike[str], kind: str, needs: Sequence[str] = ()
) -> tuple[Tensor, dict[str, Any]]:
    """Read what ``save_tensor`` wrote: the tensor and its metadata, which has all that it needs.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a damaged file, or one that holds something else.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"No file {source}; {kind}.save(path) writes one.")
    try:
        with safe_open(source, framework="pt") as file:
            found = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            found = found if isinstance(found, dict) else {}
            if found.get("kind") != kind:
                raise ValueError(
                    f"{source} is a safetensors file but holds no {kind} (it holds "
                    f"{found.get('kind', 'nothing of ours')}); load it with what wrote it."
                )
            missing = [key for key in needs if key not in found]
            if missing:
                raise ValueError(f"{source} holds a {kind} without {', '.join(missing)}.")
            return file.get_tensor(kind), found
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{source} is damaged or no safetensors file ({error}); write it again with save."
        ) from error
