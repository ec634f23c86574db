"""Names of models, checked before torch and TransformerLens are imported."""

import difflib
import importlib.util
import re
from functools import cache
from pathlib import Path

from tl_taskneurons.builtin.mini_models import mini_model_names
from tl_taskneurons.runtime.errors import InputError, MissingFileError

SMOLLM2 = "smollm2-135m"
_CONFIGS = ("config.json", "adapter_config.json")  # of a model, of a peft adapter
# Where TransformerLens 3.9 and 4 write their names down.
_TABLES = ("supported_models.py", "tools/model_registry/data/model_aliases.json")


def check_model_name(name: str) -> None:
    """Refuse a name or path that no model can be loaded from.

    Raises:
        InputError: for a name that nobody knows, with the nearest.
        MissingFileError: for a path that isn't there, or a folder without a model.
    """
    path = Path(name).expanduser()
    if name.lower() in own_names() or path.is_file():
        return
    if name and path.is_dir():
        if not any((path / config).is_file() for config in _CONFIGS):
            raise MissingFileError(
                f"the folder {name!r} holds no config.json; give a folder that Hugging Face's or "
                "peft's save_pretrained wrote"
            )
        return
    if looks_like_path(name):
        raise MissingFileError(f"no file or folder {name!r} (looked from {Path.cwd()})")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.lower() in _lens_names():
        return
    raise InputError(f"unknown model {name!r}; {advice(name)}")


def looks_like_path(name: str) -> bool:
    """Whether a name can only be meant as a path."""
    marks = name.startswith(("/", ".", "~")) or name.endswith(".gguf") or "\\" in name
    return marks or name.count("/") > 1


def own_names() -> tuple[str, ...]:
    """Names that this library knows itself."""
    return (SMOLLM2, *mini_model_names())


def advice(name: str) -> str:
    """Say what could have been meant by a name that nobody knows."""
    if name.lower().startswith("mini-"):
        mini = mini_model_names()
        near = difflib.get_close_matches(name.lower(), mini, n=1, cutoff=0.0)
        return f"did you mean {near[0]!r}? The mini models are {', '.join(mini)}"
    known = [*own_names(), *sorted(_lens_names())]
    near = difflib.get_close_matches(name.lower(), known, n=4, cutoff=0.5) or [SMOLLM2]
    return (
        f"nearest known names: {', '.join(near)}. Or give a hub id (owner/name), a Hugging Face "
        "folder or a .gguf file"
    )


@cache
def _lens_names() -> frozenset[str]:
    """Lower-case names and aliases of TransformerLens, read and not imported."""
    spec = importlib.util.find_spec("transformer_lens")
    folders = (spec.submodule_search_locations or ()) if spec else ()
    files = [Path(folder, table) for folder in folders for table in _TABLES]
    texts = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
    return frozenset(n.lower() for text in texts for n in re.findall(r'"([\w.-][\w./-]+)"', text))
