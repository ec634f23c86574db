"""Sets, scores and deltas to and from the Hugging Face hub."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from tl_taskneurons.loading.hub import reaches
from tl_taskneurons.models.identity import same_model
from tl_taskneurons.neurons.lists import write_neurons
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.report.card import Facts, Item, card
from tl_taskneurons.runtime.errors import InputError, InputTypeError, OutOfReachError
from tl_taskneurons.runtime.options import require_kind
from tl_taskneurons.runtime.run_folder import file_name
from tl_taskneurons.runtime.tensor_files import stored_kind
from tl_taskneurons.training.deltas import load_delta

_LOADERS = {"NeuronSet": NeuronSet.load, "NeuronScores": NeuronScores.load}


def push_to_hub(
    items: Item | Mapping[str, Item] | Iterable[Item],
    repo_id: str,
    *,
    base_model: str = "",
    results: pd.DataFrame | None = None,
    licence: str = "",
    private: bool = False,
    overwrite: bool = False,
) -> str:
    """Put sets, scores or deltas on the Hugging Face hub, with a card.

    The card says whose neurons they are, how they were made, the numbers that you give, and how to
    load them; sets are there as JSON too. Who you are is known from ``hf auth login``.

    Args:
        items: a set, scores or a delta; or several of one model, by name or with names.
        repo_id: ``"USER/NAME"``; made where it isn't there.
        base_model: the model's hub id.
        results: numbers for the card, e.g. a table of ``evaluate`` or ``deactivation_table``.
        licence: its identifier, e.g. ``"mit"``; none is named for you.
        private: make the repository private.
        overwrite: put them where files are already; files of the same name and the card are
            replaced, others stay.

    Returns:
        The repository's address.

    Raises:
        ValueError: for items of several models, names given twice, a bad id, or a repository that
            has files already.
        ConnectionError: the hub can't be reached.
        PermissionError: the hub doesn't let you write there.
    """
    _require_id(repo_id)
    require_kind("results", results, pd.DataFrame | None, "give a table, as evaluate returns")
    for field, value in (("base_model", base_model), ("licence", licence)):
        require_kind(field, value, str, "give a name, or leave it out")
    named = _named(items)
    first, *others = named.values()
    for other in others:
        if not same_model(first.fingerprint, other.fingerprint):
            raise InputError(f"{first!r} and {other!r} are of different models; give those of one.")
    files = {f"{file_name(name)}.safetensors": item for name, item in named.items()}
    text = card(repo_id, files, Facts(base_model, results, licence))
    with _asking(repo_id) as api, tempfile.TemporaryDirectory() as folder:
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        found = [file for file in api.list_repo_files(repo_id) if file != ".gitattributes"]
        if found and not overwrite:
            raise InputError(
                f"{repo_id} has {', '.join(found[:5])} already; give another name, or "
                "overwrite=True to replace its card and files of the same names."
            )
        for file, item in files.items():
            item.save(Path(folder, file))
            if isinstance(item, NeuronSet):
                write_neurons(item, Path(folder, file).with_suffix(".json"))
        Path(folder, "README.md").write_text(text, encoding="utf-8")
        api.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message="Add neurons by tl-taskneurons"
        )
    return str(address)


def from_hub(repo_id: str, name: str = "", *, revision: str | None = None) -> Item:
    """Load a set, scores or a delta that ``push_to_hub`` put on the hub; nothing is unpickled.

    Without a network, what was loaded before is taken from Hugging Face's cache.

    Args:
        repo_id: ``"USER/NAME"``.
        name: which, where there are several.
        revision: a branch, tag or commit.

    Raises:
        ValueError: no such repository, nothing of ours in it, or several and no name.
        ConnectionError: the hub can't be reached, and the cache doesn't have it.
        PermissionError: the hub doesn't let you read there.
    """
    _require_id(repo_id)
    require_kind("name", name, str, "give the name of an item, or leave it out")
    require_kind("revision", revision, str | None, "give a branch, tag or commit")
    wanted = f"{file_name(name)}.safetensors" if name else "*.safetensors"
    with _asking(repo_id, reading=True) as api:
        folder = api.snapshot_download(
            repo_id, revision=revision, allow_patterns=[wanted], local_files_only=_offline()
        )
    there = sorted(Path(folder).glob("*.safetensors"))
    files = {file.stem: file for file in there if stored_kind(file) in _KINDS}
    if name:
        files = {stem: file for stem, file in files.items() if stem == file_name(name)}
    if len(files) == 1:
        (file,) = files.values()
        return _LOADERS.get(stored_kind(file), load_delta)(file)
    if files:
        raise InputError(f"{repo_id} has {len(files)} items; say which: name= one of {[*files]}.")
    raise InputError(
        f"{repo_id} has no set, scores or delta of ours"
        + (f" called {name!r}; leave name out to see which it has." if name else ".")
    )


_KINDS = ("NeuronSet", "NeuronScores", "NeuronDelta", "WeightDelta", "LoraDelta")


def _named(items: Any) -> dict[str, Item]:
    """Items by name; one without a name is called by its kind."""
    if isinstance(items, Item):
        return {items.name or type(items).__name__: items}
    if isinstance(items, str | bytes) or not isinstance(items, Iterable):
        raise InputTypeError(
            f"items is {str(items)[:60]!r} ({type(items).__name__}); give a NeuronSet, "
            "NeuronScores or a delta, or several by name."
        )
    listed: list[Any] = [*(items.items() if isinstance(items, Mapping) else items)]
    pairs = listed if isinstance(items, Mapping) else [(getattr(i, "name", ""), i) for i in listed]
    for name, item in pairs:
        if not isinstance(item, Item):
            raise InputTypeError(
                f"{str(item)[:60]!r} ({type(item).__name__}) can't be pushed; give NeuronSets, "
                "NeuronScores or deltas."
            )
        if not name:
            raise InputError(f"{item!r} has no name; give a dict of names to items.")
    named = {str(name): item for name, item in pairs}
    if not named or len(named) < len(pairs):
        raise InputError(
            f"The items are named {[name for name, _ in pairs]}; there must be one at least, and "
            "names must differ."
        )
    return named


def _require_id(repo_id: str) -> None:
    """Refuse what can't be a repository, before the hub is asked."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    require_kind("repo_id", repo_id, str, "give USER/NAME")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"repo_id is {repo_id!r}; give USER/NAME ({error}).") from error


def _offline() -> bool:
    """Whether only the cache can be read."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE) or not reaches(_endpoint())


def _endpoint() -> str:
    """The hub's address, also where it was set after Hugging Face's client was imported."""
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT") or constants.ENDPOINT


@contextmanager
def _asking(repo_id: str, *, reading: bool = False) -> Iterator[Any]:
    """Give the hub's client, and tell what it refuses.

    Raises:
        ValueError, ConnectionError, PermissionError: see ``push_to_hub`` and ``from_hub``.
    """
    from huggingface_hub import HfApi, constants, errors

    away = f"the hub is out of reach ({_endpoint()} does not answer"
    away += ", HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ")"
    if not reading and _offline():
        raise OutOfReachError(f"{repo_id} was not written: {away}. Connect to the network.")
    try:
        yield HfApi(endpoint=_endpoint())
    except (InputError, InputTypeError):
        raise
    except errors.HFValidationError as error:
        raise InputError(f"repo_id is {repo_id!r}; give USER/NAME ({error}).") from error
    except errors.LocalEntryNotFoundError as error:
        raise OutOfReachError(
            f"{repo_id} is not in the Hugging Face cache, and {away}. Connect to the network."
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        if status in (401, 403) and not (reading and status == 401):
            raise PermissionError(
                f"The hub doesn't let you write to {repo_id}; log in with hf auth login, with a "
                f"token that may ({error})."
            ) from error
        if reading and status in (401, 403, 404):
            raise InputError(
                f"The hub shows you no {repo_id}; check the name and revision, and log in with "
                f"hf auth login where it is private ({error})."
            ) from error
        raise OutOfReachError(f"The hub failed for {repo_id}: {error}") from error
