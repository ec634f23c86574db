"""What the check at loading found, remembered in the cache folder per configuration and version.

A file that is damaged, or a folder that can't be read or written, only costs measuring again.
"""

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from itertools import chain
from typing import Any

from tl_taskneurons.loading.huggingface import cache_folder
from tl_taskneurons.models.digests import digests
from tl_taskneurons.runtime.atomic import write_atomically

_PACKAGES = ("transformer-lens", "transformers", "torch")
_FORM = 3  # of what is remembered


def structure_key(hf: Any, kind: str) -> str:
    """Names a Hugging Face model's class and configuration, and a kind of TransformerLens model."""
    facts = {name: value for name, value in hf.config.to_dict().items() if name != "_name_or_path"}
    made = [type(hf).__name__, kind, _FORM, *map(version, _PACKAGES)]
    text = json.dumps([made, facts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def weights_key(hf: Any, kind: str, dtype: Any, device: Any) -> str:
    """Names besides every weight and buffer of the model, and what it is built with.

    The bytes are read, which takes a tenth of the time of a run on 16 tokens.
    """
    tensors = dict(chain(hf.named_parameters(), hf.named_buffers()))
    told = sorted(f"{name}:{digest}" for name, digest in digests(tensors).items())
    text = "\n".join([structure_key(hf, kind), str(dtype), str(device), *told])
    return f"w{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def recall(key: str) -> dict[str, Any] | None:
    """What was remembered under a key; None where nothing legible was."""
    try:
        found = json.loads((cache_folder() / "checks" / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def remember(key: str, facts: Mapping[str, Any]) -> None:
    """Keep facts for the next process, where the cache folder can be written."""
    text = json.dumps(dict(facts))
    file = cache_folder() / "checks" / f"{key}.json"
    try:
        write_atomically(file, lambda path: path.write_text(text, encoding="utf-8"))
    except OSError:
        return  # it is measured again next time
