"""Sets of neurons as lists that others write and read: JSON, CSV and the same in memory."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tl_taskneurons.models.view import require_same_model, view
from tl_taskneurons.neurons.given import Sets, named_sets
from tl_taskneurons.neurons.list_shapes import COLUMNS, NEEDED, as_table, is_whole_set, pairs_of
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.atomic import write_atomically
from tl_taskneurons.runtime.digests import KEY, UNSEALED, require_intact, seal
from tl_taskneurons.runtime.errors import (
    FileError,
    InputError,
    MissingFileError,
    did_you_mean,
)
from tl_taskneurons.runtime.options import require_kind
from tl_taskneurons.runtime.parsing import parse_json
from tl_taskneurons.runtime.table_files import read_csv, read_table, write_csv

# Columns that tell the sets of one table apart.
_GROUPS = ("set", "selection", "task")


def write_neurons(neurons: NeuronSet | Sets, path: str | os.PathLike[str]) -> None:
    """Write neurons as a list that others can read, atomically.

    JSON has ``{"neurons": {"3": [10, 42]}}`` beside the model's fingerprint and shape, several sets
    ``{"sets": {"NAME": {"3": [10, 42]}}}``; CSV the columns ``layer`` and ``neuron``, and for
    several sets ``set``, and doesn't say whose they are. Layers and neurons count from 0. JSON has
    a digest in ``file_digest``, that of CSV goes to ``SHA256SUMS`` beside it; reading checks them.

    Args:
        neurons: a set, or several by name.
        path: a file that ends in ``.json`` or ``.csv``.

    Raises:
        ValueError: for another ending, no set, or sets of different models.
    """
    require_kind("path", path, str | os.PathLike, "give the path of a file, .json or .csv")
    alone = isinstance(neurons, NeuronSet)
    sets = {neurons.name: neurons} if isinstance(neurons, NeuronSet) else named_sets(neurons)
    ending = Path(path).suffix.lower()
    if ending not in (".json", ".csv"):
        raise InputError(
            f"{str(path)!r} ends in {ending!r}; neurons are written as .json or .csv, so give a "
            "file that ends so."
        )
    of = {one.fingerprint: name for name, one in sets.items()}
    if len(of) != 1:
        raise InputError(
            f"{len(sets)} sets of {len(of)} models ({', '.join(of.values())}) can't be written to "
            "one file; give sets of one model."
        )
    if ending == ".json":
        text = _as_json(sets, alone)

        def write(temporary: Path) -> None:
            temporary.write_text(text, encoding="utf-8")
            seal(temporary)

        write_atomically(path, write)
    else:
        rows = [(name, *pair) for name, one in sets.items() for pair in one]
        table = pd.DataFrame(rows, columns=["set", *COLUMNS])
        write_csv(path, table[[*COLUMNS]] if alone else table)


def read_neurons(model: Any, source: Any, name: str = "") -> NeuronSet:
    """Make a set of neurons that a file or an object lists.

    Understood are: layer to neurons, ``{"3": [10, 42]}``, where a layer may be written as
    ``"layer_3"`` or ``"model.layers.3.mlp"``; pairs, ``[[3, 10], [3, 42]]``; the neurons of every
    layer, ``[[], [10], ...]``, or every layer's mask of true and false; and tables with the columns
    ``layer`` and ``neuron``. Files are JSON, JSON lines, CSV or parquet, or what
    ``write_neurons`` or ``NeuronSet.save`` wrote.

    Args:
        model: the model they belong to.
        source: the file, or what a file would hold; tensors and DataFrames will do.
        name: for tables and messages; where the source has sets by name, which.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for neurons outside the model, of another model, or given twice; for lists that
            can be read in two ways; for several sets without a name.
        TypeError: for something else; the message says what was found and what is needed.
    """
    require_kind("name", name, str, "give the name of a set, or leave it out")
    sets, by_name = _read(model, source)
    if len(sets) == 1 and not (by_name and name):
        found = next(iter(sets.values()))
        return found.rename(name) if name else found
    where = _where(source)
    if not name:
        raise InputError(f"{where} has {len(sets)} sets; say which: name= one of {[*sets]}.")
    if name not in sets:
        raise InputError(f"{where} has no set {name!r}{did_you_mean(name, [*sets])}")
    return sets[name]


def read_sets(model: Any, source: Any) -> dict[str, NeuronSet]:
    """Return every set that a file or an object lists, by name; raises as ``read_neurons``."""
    return _read(model, source)[0]


def _read(model: Any, source: Any) -> tuple[dict[str, NeuronSet], bool]:
    """The sets of a source, and whether it tells them by name."""
    model_view, where = view(model), _where(source)
    title = ""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        title = path.name.removesuffix(path.suffix)
        source = _content(path)
    if isinstance(source, NeuronSet):
        require_same_model(repr(source), source.fingerprint, model_view)
        return {source.name: source}, False
    if isinstance(source, Mapping) and {"neurons", "sets"} & set(source):  # ours
        if source.get("fingerprint"):
            require_same_model(where, source["fingerprint"], model_view)
        title = source.get("name", title)
        source = source.get("sets", source.get("neurons"))
    sets, told = {}, _by_name(source, where)
    for name, content in told.items():
        known = name or title
        at = f"{name!r} in {where}" if name else where
        pairs = pairs_of(content, at, model_view)
        try:
            sets[known] = NeuronSet.from_pairs(model_view.model, pairs, known)
        except InputError as error:
            raise InputError(f"{at}: {error}") from error
    return sets, "" not in told


def _as_json(sets: Mapping[str, NeuronSet], alone: bool) -> str:
    def layers(one: NeuronSet, indent: str) -> str:
        rows = [f'{indent}  "{i}": {json.dumps(j.tolist())}' for i, j in one.layers().items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}" if rows else "{}"

    first = next(iter(sets.values()))
    head = [
        f'  "{KEY}": "{UNSEALED}"',
        f'  "fingerprint": {json.dumps(first.fingerprint)}',
        f'  "shape": {json.dumps(list(first.mask.shape))}',
    ]
    if alone:
        head.append(f'  "name": {json.dumps(first.name, ensure_ascii=False)}')
        body = f'  "neurons": {layers(first, "  ")}'
    else:
        rows = [
            f"    {json.dumps(name, ensure_ascii=False)}: {layers(one, '    ')}"
            for name, one in sets.items()
        ]
        body = '  "sets": {\n' + ",\n".join(rows) + "\n  }"
    return "{\n" + ",\n".join([*head, body]) + "\n}\n"


def _where(source: Any) -> str:
    return str(source) if isinstance(source, str | os.PathLike) else "the list of neurons"


def _content(path: Path) -> Any:
    """What a file lists."""
    if path.is_dir():
        raise FileError(f"{path} is a folder; give a file with neurons (.json, .csv, .parquet).")
    if not path.exists():
        raise MissingFileError(f"No file {path} with neurons (looked from {Path.cwd()}).")
    ending = path.suffix.lower()
    if ending == ".safetensors":
        return NeuronSet.load(path)
    if ending == ".csv":
        return read_csv(path)
    if ending == ".parquet":
        return read_table(path)
    if ending not in (".json", ".jsonl"):
        raise InputError(
            f"{path} ends in {ending!r}; neurons are read from .json, .jsonl, .csv, .parquet or "
            ".safetensors. Load other files yourself (of pickles only what you trust) and give "
            "what they hold."
        )
    sealed = require_intact(path, "write it again, or take a copy of it")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if ending == ".json":
            found = parse_json(text)
            return _without_digest(found, sealed, path) if isinstance(found, dict) else found
        return [parse_json(line) for line in text.splitlines() if line.strip()]
    except OSError as error:
        raise FileError(f"{path} can't be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}). {NEEDED}") from error


def _without_digest(found: dict[str, Any], sealed: bool, path: Path) -> dict[str, Any]:
    if found.pop(KEY, None) is not None and not sealed:
        raise InputError(f"{path} is damaged (its digest can't be read); write it again.")
    return found


def _by_name(content: Any, where: str) -> dict[str, Any]:
    """Sets by name; a list alone has none."""
    content = as_table(content, where)
    if isinstance(content, pd.DataFrame):
        told = [c for c in _GROUPS if c in content and content[c].notna().any()]
        for column in told:
            if content[column].isna().any():
                row = int(content[column].isna().to_numpy().argmax())
                raise InputError(
                    f"{where} has no {column!r} in row {row}, and others have one; name the set of "
                    "every row, or take the column out."
                )
        varying = [column for column in told if content[column].nunique() > 1]
        if not varying:
            return {str(content["set"].iloc[0]) if "set" in told else "": content}
        return {"/".join(map(str, key)): part for key, part in content.groupby(varying, sort=False)}
    if isinstance(content, Mapping) and content and all(map(is_whole_set, content.values())):
        return {str(name): one for name, one in content.items()}
    return {"": content}
