"""The data of the interactive view: which neurons it lists, and what it says about each."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from tl_taskneurons.analysis.explanation import ExplainedExample, NeuronExplanation
from tl_taskneurons.report.folder import Contents

_MAP_COLUMNS, _MAP_DECADES = 256, 4
NEEDED = ("task", "selection", "layer", "neuron", "score")
Pair = tuple[int, int]


def choose(neurons: pd.DataFrame, n: int) -> dict[tuple[str, str], list[Pair]]:
    """Choose the neurons to list for each selection and task.

    The best of each layer, best layers first, then the best of all that are left.

    Args:
        neurons: the table of ``runs.detect``.
        n: how many for each selection and task.

    Returns:
        ``(selection, task)`` to ``(layer, j)`` pairs, by score.
    """
    chosen = {}
    for (selection, task), part in neurons.groupby(["selection", "task"], sort=False):
        ranked = part.sort_values(["score", "layer", "neuron"], ascending=[False, True, True])
        first = ~ranked.duplicated("layer")
        kept = pd.concat([ranked[first], ranked[~first]]).head(n)
        kept = ranked[ranked.index.isin(kept.index)]
        pairs = zip(kept["layer"].tolist(), kept["neuron"].tolist(), strict=True)
        chosen[str(selection), str(task)] = list(pairs)
    return chosen


def all_neurons(contents: Contents) -> pd.DataFrame | None:
    """Return every selected neuron of a run: those of detect, and those that searches found.

    None where there are none.
    """
    wanted = [name for name in contents.tables if name == "neurons" or name.endswith("_neurons")]
    frames = [
        contents.tables[name]
        for name in sorted(wanted, key=lambda name: (name != "neurons", name))
        if len(contents.tables[name]) and {*NEEDED} <= {*contents.tables[name].columns}
    ]
    return pd.concat(frames, ignore_index=True) if frames else None


def view_data(
    neurons: pd.DataFrame,
    chosen: Mapping[tuple[str, str], Sequence[Pair]],
    scores: Mapping[str, Tensor],
    explained: Mapping[tuple[str, Pair], NeuronExplanation],
    reliability: Mapping[tuple[str, str], float],
) -> dict[str, Any]:
    """Return what the page's script reads, as plain JSON values.

    Args:
        neurons: from ``all_neurons``.
        chosen: from ``choose``.
        scores: each task's scores of all neurons ``[layer, d_mlp]``, where there are any.
        explained: by task and neuron; empty for a page without texts.
        reliability: split-half reliability of sets by selection and task, where it is known.
    """
    owners = _owners(neurons)
    texts: dict[str, dict[int, dict[str, Any]]] = {}
    sets: dict[str, dict[str, Any]] = {}
    n_layers = _n_layers(neurons)
    for (selection, task), pairs in chosen.items():
        part = neurons[(neurons["selection"] == selection) & (neurons["task"] == task)]
        values = part.set_index(["layer", "neuron"])["score"].to_dict()
        listed = []
        for pair in pairs:
            entry: dict[str, Any] = {"layer": pair[0], "neuron": pair[1], "score": values[pair]}
            entry["shared"] = [name for name in owners[selection, pair] if name != task]
            entry["scores"] = {name: _short(float(own[pair])) for name, own in scores.items()}
            if (task, pair) in explained:
                entry |= _told(explained[task, pair], texts.setdefault(task, {}))
            listed.append(entry)
        counts = part["layer"].value_counts().reindex(range(n_layers), fill_value=0)
        entry = {"counts": counts.tolist(), "neurons": listed}
        if (selection, task) in reliability:
            entry["returns"] = _short(reliability[selection, task])
        sets.setdefault(selection, {})[task] = entry
    maps = {name: score_map_of(own) for name, own in scores.items()}
    return {"layers": n_layers, "sets": sets, "texts": texts, "maps": maps}


def reliability_of(contents: Contents) -> dict[tuple[str, str], float]:
    """Return the reliability of sets that a run's table of layers tells of."""
    layers = contents.tables.get("layers")
    if layers is None or not {"selection", "task", "split_half"} <= {*layers.columns}:
        return {}
    told = layers.dropna(subset="split_half").drop_duplicates(["selection", "task"])
    columns = (told[name] for name in ("selection", "task", "split_half"))
    return {(str(s), str(t)): float(share) for s, t, share in zip(*columns, strict=True)}


def score_map_of(scores: Tensor) -> dict[str, Any]:
    """Return the sizes of scores as bytes, for a picture of layers by neurons.

    Neighbours share a column where there are more than 256 neurons; of these the largest counts.
    The bytes are logarithms over four decades below the largest size.
    """
    sizes = scores.detach().abs().float().cpu().numpy()
    step = -(-sizes.shape[1] // _MAP_COLUMNS)
    shown = np.maximum.reduceat(sizes, np.arange(0, sizes.shape[1], step), axis=1)
    largest = float(shown.max()) or 1.0
    with np.errstate(divide="ignore"):
        decades = np.log10(shown / largest).clip(-_MAP_DECADES, 0) / _MAP_DECADES + 1
    content = (255 * decades).round().astype(np.uint8).tobytes()
    return {"columns": shown.shape[1], "step": step, "largest": _short(largest),
            "sizes": b64encode(content).decode()}  # fmt: skip


def _told(explanation: NeuronExplanation, texts: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """What the page says about a neuron; its texts, which neurons share, go to ``texts``."""
    for shown in explanation.examples:
        texts[shown.index] = {
            "tokens": shown.tokens[shown.own :],
            "answer": shown.answer - shown.own,
            "context": shown.own,
        }
    return {
        "promoted": [[token, _short(value)] for token, value in explanation.promoted],
        "suppressed": [[token, _short(value)] for token, value in explanation.suppressed],
        "examples": [_example(shown) for shown in explanation.examples],
        "seen": explanation.n_seen,
    }


def _example(shown: ExplainedExample) -> dict[str, Any]:
    return {
        "text": shown.index,
        "activations": [_short(value) for value in shown.activations[shown.own :]],
        "relevances": [_short(value) for value in shown.relevances[shown.own :]],
        "relevance": _short(shown.relevance),
    }


def _owners(neurons: pd.DataFrame) -> dict[tuple[str, Pair], list[str]]:
    """Which tasks have a neuron in their set of a selection."""
    owners: dict[tuple[str, Pair], list[str]] = {}
    columns = (neurons[name].tolist() for name in ("selection", "task", "layer", "neuron"))
    for selection, task, layer, j in zip(*columns, strict=True):
        owners.setdefault((selection, (layer, j)), []).append(task)
    return owners


def _n_layers(neurons: pd.DataFrame) -> int:
    """The model's number of layers, with which its fingerprint begins; or the highest seen."""
    fingerprint = str(neurons["fingerprint"].iloc[0]) if "fingerprint" in neurons else ""
    stated = fingerprint.split("x")[0]
    return max(int(neurons["layer"].max()) + 1, int(stated) if stated.isdigit() else 0)


def _short(value: float) -> float:
    """Three digits: enough to read and to colour, a third of the bytes."""
    return float(f"{value:.3g}")
