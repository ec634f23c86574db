"""From lists of neurons in any of the usual shapes to (layer, neuron) pairs."""

import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from tl_taskneurons.models.view import ModelView, require_same_model
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.errors import InputError, InputTypeError

Pairs = list[tuple[int, int]]

COLUMNS = ("layer", "neuron")
NEEDED = (
    'Needed is {"LAYER": [neuron, ...]}, [[layer, neuron], ...], a list of neurons for every '
    "layer, or a table with the columns layer and neuron."
)


def is_whole_set(content: Any) -> bool:
    """Whether this can't be the neurons of one layer alone."""
    content = _plain(content)
    if isinstance(content, Mapping | pd.DataFrame | NeuronSet):
        return True
    listed = isinstance(content, Sequence) and not isinstance(content, str)
    return listed and bool(content) and not isinstance(_plain(content[0]), int | str)


def pairs_of(content: Any, where: str, model_view: ModelView) -> Pairs:
    """The (layer, neuron) pairs that a list in any shape stands for; given twice is refused."""
    content = as_table(content, where)
    if isinstance(content, NeuronSet):
        require_same_model(repr(content), content.fingerprint, model_view)
        return [*content]
    if isinstance(content, pd.DataFrame):
        pairs = _from_table(content, where)
    elif isinstance(content, Mapping):
        pairs = _from_layers(content, where, model_view.d_mlp)
    elif isinstance(content, Sequence) and not isinstance(content, str | bytes):
        pairs = _from_lists(content, where, model_view)
    else:
        raise InputTypeError(f"{where} is {_shown(content)}. {NEEDED}")
    seen: set[tuple[int, int]] = set()
    for pair in pairs:
        if pair in seen:
            raise InputError(
                f"{where} has neuron {pair} twice; list each once (a mask of 0 and 1 must be one "
                "of false and true, and several sets need names)."
            )
        seen.add(pair)
    return pairs


def _from_table(frame: pd.DataFrame, where: str) -> Pairs:
    missing = [column for column in COLUMNS if column not in frame]
    if missing:
        raise InputError(
            f"{where} has the columns {[*map(str, frame.columns)]}, without {missing}; rename what "
            "says the layer to 'layer' and what says its neuron to 'neuron'."
        )
    rows = zip(frame["layer"], frame["neuron"], strict=True)
    return [(_layer(layer, where), _whole(neuron, where)) for layer, neuron in rows]


def _from_layers(content: Mapping, where: str, d_mlp: int) -> Pairs:
    owners: dict[int, Any] = {}
    pairs: Pairs = []
    for key, listed in content.items():
        layer = _layer(key, where)
        if layer in owners:
            raise InputError(
                f"{where} has layer {layer} twice, as {owners[layer]!r} and {key!r}; put their "
                "neurons together."
            )
        owners[layer] = key
        pairs += [(layer, j) for j in _indices(listed, f"layer {key!r} of {where}", d_mlp)]
    return pairs


def _from_lists(content: Sequence, where: str, model_view: ModelView) -> Pairs:
    rows = [_plain(row) for row in content]
    for row in rows:
        if not isinstance(row, Sequence) or isinstance(row, str | bytes):
            raise InputTypeError(f"{where} has the entry {_shown(row)}. {NEEDED}")
    n_layers, d_mlp = model_view.shape
    if any(isinstance(j, bool) for row in rows for j in row):
        if [len(row) for row in rows] != [d_mlp] * n_layers:
            raise InputError(
                f"{where} is a mask of {len(rows)} layers and {sorted({*map(len, rows)})} neurons; "
                f"{model_view.name} has {n_layers} layers of {d_mlp}."
            )
        return [(i, j) for i, row in enumerate(rows) for j in _indices(row, where, d_mlp)]
    paired = [tuple(_whole(one, where) for one in row) for row in rows]
    as_pairs: Pairs = [(row[0], row[1]) for row in paired if len(row) == 2]
    as_layers: Pairs = [(i, j) for i, row in enumerate(paired) for j in row]

    def fits(pairs: Pairs) -> bool:
        return all(0 <= i < n_layers and 0 <= j < d_mlp for i, j in pairs)

    # Also of lists that are too long or short, the likelier reading tells what is wrong.
    can_be_pairs, can_be_layers = len(as_pairs) == len(rows), len(rows) == n_layers
    if can_be_pairs and can_be_layers and fits(as_pairs) and fits(as_layers):
        raise InputError(
            f"{where} has {len(rows)} lists of two numbers, and {model_view.name} {n_layers} "
            "layers: these may be pairs, or every layer's neurons. Write "
            '{"LAYER": [neuron, ...]}, or use NeuronSet.from_pairs.'
        )
    if can_be_pairs and (fits(as_pairs) or not can_be_layers):
        return as_pairs
    if can_be_layers:
        return as_layers
    odd = next(row for row in paired if len(row) != 2)
    raise InputError(
        f"{where} has {len(rows)} lists, one of {len(odd)} numbers; as pairs each needs two, and "
        f"as every layer's neurons {model_view.name} needs {n_layers}. {NEEDED}"
    )


def _indices(listed: Any, where: str, d_mlp: int) -> Iterator[int]:
    """The neurons of one layer: their indices, or a mask of true and false."""
    listed = _plain(listed)
    if not isinstance(listed, Sequence) or isinstance(listed, str | bytes):
        raise InputTypeError(f"{where} is {_shown(listed)}; give a list of neurons.")
    if listed and all(isinstance(j, bool) for j in listed):
        if len(listed) != d_mlp:
            raise InputError(
                f"{where} is a mask of {len(listed)} neurons, and the model has {d_mlp} in a "
                "layer; give one of these, or the neurons' numbers."
            )
        yield from (j for j, chosen in enumerate(listed) if chosen)
    else:
        yield from (_whole(j, where) for j in listed)


def _layer(key: Any, where: str) -> int:
    """The layer that a key names, as 3, "3", "layer_3" or "model.layers.3.mlp.down_proj"."""
    if not isinstance(key, str):
        return _whole(key, where)
    parts = re.split(r"[._/\-\s]", key)
    found = [m[1] for part in parts if (m := re.fullmatch(r"(?i:layer|l)?(\d+)", part))]
    if len(found) != 1 or len(found[0]) > 9:
        raise InputError(f"{where}: {key[:60]!r} names no layer. {NEEDED}")
    return int(found[0])


def _whole(value: Any, where: str) -> int:
    value = _plain(value)
    try:
        if isinstance(value, bool):
            raise TypeError
        whole: Any = int(value) if isinstance(value, float) and value % 1 == 0 else value
        return operator.index(whole)
    except TypeError as error:
        raise InputTypeError(
            f"{where} has {_shown(value)} in place of a whole number. {NEEDED}"
        ) from error


def as_table(content: Any, where: str) -> Any:
    """Columns by name, and rows of them, as a DataFrame; tensors as lists; others as they are."""
    content = _plain(content)
    listed = isinstance(content, Sequence) and not isinstance(content, str | bytes)
    rows = listed and bool(content) and all(isinstance(row, Mapping) for row in content)
    columns = isinstance(content, Mapping) and set(COLUMNS) <= set(content)
    if not (rows or columns):
        return content
    try:
        return pd.DataFrame(content)
    except ValueError as error:
        raise InputError(f"{where} is no table ({error}). {NEEDED}") from error


def _plain(value: Any) -> Any:
    """Tensors, arrays, sets and ranges as lists; everything else as it is."""
    if isinstance(value, pd.DataFrame | NeuronSet | str | bytes | Mapping):
        return value
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value)
    return [*value] if isinstance(value, Iterator) else value


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
