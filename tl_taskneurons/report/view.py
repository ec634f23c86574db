"""The data of the interactive view: which neurons it lists, and what it says about each."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from torch import Tensor

from tl_taskneurons.analysis.explanation import ExplainedExample, NeuronExplanation
from tl_taskneurons.report.folder import Contents

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


def view_data(
    contents: Contents,
    chosen: Mapping[tuple[str, str], Sequence[Pair]],
    scores: Mapping[str, Tensor],
    explained: Mapping[tuple[str, Pair], NeuronExplanation],
) -> dict[str, Any]:
    """Return what the page's script reads, as plain JSON values.

    Args:
        contents: the run folder, with the table ``neurons``.
        chosen: from ``choose``.
        scores: each task's scores of all neurons ``[layer, d_mlp]``, where there are any.
        explained: by task and neuron; empty for a page without texts.
    """
    neurons = contents.tables["neurons"]
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
        sets.setdefault(selection, {})[task] = {"counts": counts.tolist(), "neurons": listed}
    return {"layers": n_layers, "sets": sets, "texts": texts}


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
