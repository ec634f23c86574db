# ruff: noqa: ARG005, E501, E731 - a table
"""Bad calls of what goes to others and comes from them: lists, the hub, adapters, the harness."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bad_calls_values import COUNTS, FILES, MODELS, NEURONS, SETS, Rows
from bad_calls_world import Bad, World, of, plain

import tl_taskneurons as tn

# Files that strangers may have written, by name.
STRANGE: dict[str, bytes] = {
    "deep.json": b"[" * 100_000,
    "twice.json": b'{"0": [1], "0": [2]}',
    "long.json": b'{"layer' + b"9" * 5000 + b'": [1]}',
    "digits.json": b'{"0": [' + b"9" * 5000 + b"]}",
    "huge.json": b'{"0": [1e400]}',
    "beyond.json": json.dumps({"0": [10**30]}).encode(),
    "latin.json": b'{"0": ["\xe9"]}',
    "cells.csv": b"layer,neuron\n=1+1,2\n",
    "ragged.csv": b"layer,neuron\n1,2\n1,2,3,4,5\n",
    "latin.csv": b"layer,neuron\n\xe9,2\n",
    "none.parquet": b"PAR1PAR1",
    "none.pt": b"\x80\x04.",
}


def strange(name: str) -> Bad:
    """A file of a stranger's."""

    def make(world: World) -> Path:
        file = world.folder / name
        file.write_bytes(STRANGE[name])
        return file

    return of(make, name)


def exchange() -> Rows:
    """Lists of neurons, the hub, adapters, the harness, and words of labels."""
    named: Callable[[World], dict[str, Any]] = lambda w: {"model": w.model, "source": w.neurons}
    yield "exchange", tn.read_neurons, named, {
        "model": MODELS[:3],
        "source": [*map(strange, STRANGE), *FILES[:2], of(lambda w: w.folder, "is a folder"), *plain(None, 3), Bad([3], ("3 (int)",)),
                   of(lambda w: w.foreign, "foreign"), Bad({"0": [True]}, ("mask of 1",)),
                   of(lambda w: w.score, "NeuronScores")],
        "name": plain(3, None),
    }  # fmt: skip
    yield "exchange", tn.write_neurons, lambda w: {"neurons": w.sets, "path": w.folder / "n.json"}, {
        "neurons": [*SETS[:4], of(lambda w: {**w.sets, "x": w.foreign}, "x", "2 models"), SETS[5]],
        "path": [*plain(None, 3, "neurons.txt"), of(lambda w: w.folder, "ends in")],
    }  # fmt: skip
    yield "exchange", tn.push_to_hub, lambda w: {"items": w.neurons, "repo_id": "me/there"}, {
        "items": [*plain(None, 3, "set"), Bad([3], ("3",)), Bad({}, ("one",)), Bad({"a": 3}, ("3",)),
                  of(lambda w: [w.neurons, w.foreign], "different models"),
                  of(lambda w: [w.neurons, w.neurons], "names")],
        "repo_id": [*plain(None, 3, "", "a/b/c")],
        "results": plain("table", 3), "base_model": plain(3), "licence": plain(3),
    }  # fmt: skip
    yield "exchange", tn.from_hub, lambda w: {"repo_id": "me/there"}, {
        "repo_id": plain(None, 3, "", "a/b/c", "../../etc"), "name": plain(3), "revision": plain(3),
    }  # fmt: skip
    pair: Callable[[World], dict[str, Any]] = lambda w: {"base": w.model, "tuned": w.model}
    yield "exchange", tn.NeuronDelta.between, pair, {
        "base": [*MODELS[:3], of(lambda w: w.other, "layers and neurons")],
        "tuned": [*MODELS[:3], of(lambda w: w.model, "nothing differs")],
    }  # fmt: skip

    def to_peft(delta: Any, model: Any, folder: Any) -> Any:
        return delta.to_peft(folder, model)

    given: Callable[[World], dict[str, Any]] = lambda w: {
        "delta": w.delta, "model": w.model, "folder": w.new_folder(),
    }  # fmt: skip
    yield "exchange", to_peft, given, {
        "model": [*MODELS[:3], of(lambda w: w.other, "model")],
        "folder": [*plain(None, 3), of(lambda w: w.text, "notes.txt")],
    }  # fmt: skip
    harness: Callable[[World], dict[str, Any]] = lambda w: {"model": w.model, "tasks": "none_such"}
    yield "exchange", tn.lm_eval, harness, {
        "model": MODELS[:3], "tasks": [*plain(None, 3, "hellaswg"), Bad([], ("tasks",)), Bad([3], ("3",))],
        "neurons": NEURONS[:3], "delta": plain(3, "delta"), "limit": COUNTS, "num_fewshot": plain(-1, 1.5, "2"),
        "include_path": [*plain(3), of(lambda w: w.nowhere, "not_there")],
    }  # fmt: skip
    words: Callable[[World], dict[str, Any]] = lambda w: {
        "name": "t", "train": [], "test": [tn.Example("a", "yes")], "labels": ["yes", "no"],
        "metric": "accuracy",
    }  # fmt: skip
    yield "exchange", tn.Task, words, {
        "verbalizers": [*plain(3, "yes"), Bad({"yse": "y"}, ("yse", "yes")), Bad({"yes": 3}, ("3",)),
                        Bad({"yes": []}, ("[]",)), Bad({"yes": [""]}, ("''",)), Bad({"yes": "no"}, ("'no'",)),
                        Bad({"yes": ["a", 3]}, ("3",))],
    }  # fmt: skip
