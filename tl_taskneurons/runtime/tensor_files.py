"""Safetensors files with metadata: atomic to write, nothing unpickled, the same bytes each time."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tl_taskneurons.runtime.atomic import write_atomically
from tl_taskneurons.runtime.digests import KEY, UNSEALED, require_intact, seal
from tl_taskneurons.runtime.errors import FileError, InputError, InputTypeError, MissingFileError
from tl_taskneurons.runtime.parsing import JSONError, parse_json

# One key only: safetensors writes several metadata keys in a random order.
_KEY = "tl_taskneurons"
_FORMAT = 1
_REMEDY = "delete it and write it again, or take a copy of it"


def save_tensor(
    path: str | os.PathLike[str], kind: str, tensor: Tensor, metadata: Mapping[str, Any]
) -> None:
    """Write one tensor with JSON metadata to a safetensors file, atomically."""
    save_tensors(path, kind, {kind: tensor}, metadata)


def load_tensor(
    path: str | os.PathLike[str], kind: str, needs: Sequence[str] = ()
) -> tuple[Tensor, dict[str, Any]]:
    """Read what ``save_tensor`` wrote: the tensor and its metadata, which has all that it needs.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a damaged file, or one that holds something else.
    """
    tensors, header = load_tensors(path, kind, needs)
    if list(tensors) != [kind]:
        raise InputError(
            f"{path} is damaged or no safetensors file of ours (it has the tensors "
            f"{', '.join(tensors) or 'none'}, expected {kind}); {_REMEDY}."
        )
    return tensors[kind], header


def save_tensors(
    path: str | os.PathLike[str],
    kind: str,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
) -> None:
    """Write named tensors with JSON metadata to a safetensors file, atomically, with a digest.

    They lie on the CPU and contiguous in the file, wherever they came from.

    Raises:
        FileError: when it can't be written.
    """
    facts = {KEY: UNSEALED, "format": _FORMAT, "kind": kind, **metadata}
    header = {_KEY: json.dumps(facts, sort_keys=True)}
    copies = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def write(temporary: Path) -> None:
        save_file(copies, temporary, metadata=header)
        seal(temporary)

    write_atomically(path, write)


def load_tensors(
    path: str | os.PathLike[str], kind: str, needs: Sequence[str] = ()
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save_tensors`` wrote: tensors by name, and metadata with all that it needs.

    Raises:
        FileNotFoundError: when there is no such file.
        FileError: when it can't be read.
        ValueError: for a file whose bytes have changed since, or that holds something else.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputTypeError(f"path is {path!r}; give the path of a file that {kind}.save wrote.")
    source = Path(path)
    if source.is_dir():
        raise FileError(
            f"{source} can't be read: Is a directory; give the file that {kind}.save(path) wrote."
        )
    if not source.exists():
        raise MissingFileError(f"No file {source}; {kind}.save(path) writes one.")
    sealed = require_intact(source, _REMEDY)
    try:
        with safe_open(source, framework="pt") as file:
            found = parse_json((file.metadata() or {}).get(_KEY, "{}"))
            found = found if isinstance(found, dict) else {}
            if found.get("kind") != kind:
                raise InputError(
                    f"{source} is a safetensors file but holds no {kind} (it holds "
                    f"{found.get('kind', 'nothing of ours')}); load it with what wrote it."
                )
            if found.pop("format", _FORMAT) != _FORMAT:
                raise InputError(
                    f"{source} is of a format that this version doesn't know; update "
                    "tl-taskneurons, or write it again with this version."
                )
            if found.pop(KEY, None) is not None and not sealed:
                raise InputError(f"{source} is damaged (its digest can't be read); {_REMEDY}.")
            missing = [key for key in needs if key not in found]
            if missing:
                raise InputError(f"{source} holds a {kind} without {', '.join(missing)}.")
            return {name: file.get_tensor(name) for name in file.keys()}, found  # noqa: SIM118
    except (SafetensorError, JSONError) as error:
        raise InputError(
            f"{source} is damaged or no safetensors file ({error}); {_REMEDY}."
        ) from error


def stored_kind(path: str | os.PathLike[str]) -> str:
    """Return what kind of thing a file of ours holds; empty for a safetensors file of others.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a damaged file.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputTypeError(f"path is {path!r}; give the path of a file that save wrote.")
    source = Path(path)
    if source.is_dir():
        raise FileError(
            f"{source} can't be read: Is a directory; give the file that save(path) wrote."
        )
    if not source.is_file():
        raise MissingFileError(f"No file {source}; give one that save(path) wrote.")
    try:
        with safe_open(source, framework="pt") as file:
            found = parse_json((file.metadata() or {}).get(_KEY, "{}"))
    except (SafetensorError, JSONError) as error:
        raise InputError(
            f"{source} is damaged or no safetensors file ({error}); write it again with save."
        ) from error
    return str(found.get("kind", "")) if isinstance(found, dict) else ""
