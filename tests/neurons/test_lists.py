"""Neurons as lists of others: every shape gives the same set, and what is none is told."""

import json
from pathlib import Path
from typing import Any

import micro
import numpy as np
import pandas as pd
import pytest
import torch
from small_sets import neuron_set

from tl_taskneurons import NeuronSet, read_neurons, view, write_neurons
from tl_taskneurons.neurons.lists import read_sets

# The tiny llama has 2 layers of 48 neurons.
PAIRS = [(0, 3), (0, 47), (1, 10)]


@pytest.fixture
def model(tokenizer):
    return micro.lens("llama", "bridge", tokenizer)


MASK = torch.zeros(2, 48, dtype=torch.bool)
for _pair in PAIRS:
    MASK[_pair] = True

SHAPES: dict[str, Any] = {
    "layers": {"0": [3, 47], "1": [10]},
    "numbers as keys": {0: (3, 47), 1: {10}},
    "layers named": {"layer_0": [47, 3], "L1": [10]},
    "modules": {"model.layers.0.mlp.down_proj": [3, 47], "transformer.h.1.mlp.dense_4h_to_h": [10]},
    "pairs": PAIRS,
    "each layer": [[3, 47], [10]],
    "tensors": [torch.tensor([3, 47]), np.array([10])],
    "mask": MASK,
    "masks": MASK.tolist(),
    "masks by layer": {"0": MASK[0].tolist(), "1": MASK[1].tolist()},
    "table": pd.DataFrame(PAIRS, columns=["layer", "neuron"]).assign(score=0.5),
    "columns": {"layer": [0, 0, 1], "neuron": [3, 47, 10]},
    "rows": [{"layer": i, "neuron": j, "task": "t"} for i, j in PAIRS],
    "whole floats": [[0.0, 3.0], [0.0, 47.0], [1.0, 10.0]],
    "inside": {"neurons": {"0": [3, 47], "1": [10]}, "name": "ours"},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_the_same_set(model, shape: str):
    found = read_neurons(model, SHAPES[shape], "mine")
    assert found == NeuronSet.from_pairs(model, PAIRS) and found.name == "mine"


def test_one_set_needs_no_name(model):
    assert [*read_neurons(model, {"0": [3]})] == [(0, 3)]


@pytest.mark.parametrize("ending", [".json", ".csv", ".safetensors", ".parquet", ".jsonl"])
def test_files_give_back_the_set(model, tmp_path: Path, ending: str):
    neurons, file = NeuronSet.from_pairs(model, PAIRS, "film"), tmp_path / f"film{ending}"
    if ending == ".safetensors":
        neurons.save(file)
    elif ending == ".parquet":
        neurons.to_frame().to_parquet(file)
    elif ending == ".jsonl":
        file.write_text("".join(f'{{"layer": {i}, "neuron": {j}}}\n' for i, j in PAIRS))
    else:
        write_neurons(neurons, file)
    back = read_neurons(model, file)
    assert back == neurons and back.name == "film"
    listed = [tmp_path / "SHA256SUMS"] if ending == ".csv" else []
    assert sorted(tmp_path.iterdir()) == sorted([file, *listed])


@pytest.mark.parametrize("ending", ["json", "csv"])
def test_a_flipped_bit_is_named(model, tmp_path: Path, ending: str):
    file = tmp_path / f"film.{ending}"
    write_neurons(NeuronSet.from_pairs(model, PAIRS, "film"), file)
    content = file.read_bytes()
    file.write_bytes(content.replace(b"47", b"46"))
    with pytest.raises(ValueError, match=f"film.{ending} is damaged"):
        read_neurons(model, file)


@pytest.mark.parametrize("ending", ["json", "csv"])
def test_names_that_a_spreadsheet_would_run_come_back(model, tmp_path: Path, ending: str):
    pairs = {"=1+1": [(0, 1)], "'=x": [(0, 2)], "-": [(1, 3)]}
    sets = {name: NeuronSet.from_pairs(model, each, name) for name, each in pairs.items()}
    write_neurons(sets, tmp_path / f"sets.{ending}")
    for name, neurons in sets.items():
        assert read_neurons(model, tmp_path / f"sets.{ending}", name) == neurons
    if ending == "csv":
        assert "\n=" not in (tmp_path / "sets.csv").read_text()


def test_what_is_written_is_plain(model, tmp_path: Path):
    neurons = NeuronSet.from_pairs(model, PAIRS, "film")
    write_neurons(neurons, tmp_path / "one.json")
    content = json.loads((tmp_path / "one.json").read_text())
    assert content.pop("file_digest").startswith("tl_taskneurons sha256 ")
    assert content == {
        "fingerprint": view(model).fingerprint, "shape": [2, 48], "name": "film",
        "neurons": {"0": [3, 47], "1": [10]},
    }  # fmt: skip
    write_neurons(neurons, tmp_path / "one.csv")
    assert (tmp_path / "one.csv").read_text() == "layer,neuron\n0,3\n0,47\n1,10\n"
    nothing = NeuronSet.from_pairs(model, [], "nothing")
    for ending in ("json", "csv"):
        write_neurons({"film": neurons, "nothing": nothing}, tmp_path / f"two.{ending}")
    assert json.loads((tmp_path / "two.json").read_text())["sets"] == {
        "film": {"0": [3, 47], "1": [10]}, "nothing": {},
    }  # fmt: skip
    assert (tmp_path / "two.csv").read_text() == (
        "set,layer,neuron\nfilm,0,3\nfilm,0,47\nfilm,1,10\n"
    )


@pytest.mark.parametrize("kind", ["json", "csv", "memory"])
def test_one_of_several_is_named(model, tmp_path: Path, kind: str):
    sets = {
        "film": NeuronSet.from_pairs(model, PAIRS, "film"),
        "news": NeuronSet.from_pairs(model, [(1, 0)], "news"),
    }
    source: Any = {name: [*one] for name, one in sets.items()}
    if kind != "memory":
        source = tmp_path / f"sets.{kind}"
        write_neurons([*sets.values()], source)
    assert read_neurons(model, source, "news") == sets["news"]
    with pytest.raises(ValueError, match=r"2 sets; say which: name= one of \['film', 'news'\]"):
        read_neurons(model, source)
    with pytest.raises(ValueError, match="no set 'new'; did you mean 'news'"):
        read_neurons(model, source, "new")


@pytest.mark.parametrize("kind", ["json", "csv", "memory"])
def test_the_only_set_of_a_list_by_name_keeps_its_name(model, tmp_path: Path, kind: str):
    film = NeuronSet.from_pairs(model, PAIRS, "film")
    source: Any = {"film": [*film]}
    if kind != "memory":
        source = tmp_path / f"one.{kind}"
        write_neurons({"film": film}, source)
    assert read_neurons(model, source).name == read_neurons(model, source, "film").name == "film"
    with pytest.raises(ValueError, match="no set 'news'"):
        read_neurons(model, source, "news")


def test_tables_of_a_run_are_told_apart_by_selection_and_task(model):
    rows = [("past", "plain", 0, 1), ("past", "exclusive", 0, 1), ("news", "plain", 1, 2)]
    table = pd.DataFrame(rows, columns=["task", "selection", "layer", "neuron"])
    assert [*read_neurons(model, table, "plain/news")] == [(1, 2)]


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ("neurons", "MissingFileError", ["No file neurons"]),
        (7, "InputTypeError", ["7 (int)", '{"LAYER": [neuron, ...]}']),
        ([1, 2], "InputTypeError", ["the entry 1 (int)", "[[layer, neuron], ...]"]),
        ({"0": 3}, "InputTypeError", ["layer '0'", "3 (int)", "a list of neurons"]),
        ({"0": ["a"]}, "InputTypeError", ["'a' (str)", "whole number"]),
        ({"0": [1.5]}, "InputTypeError", ["1.5 (float)"]),
        ({"mlp": [1]}, "InputError", ["'mlp' names no layer"]),
        ({"2": [1]}, "InputError", ["(2, 1)", "2 layers of 48", "the list of neurons"]),
        ({"0": [48]}, "InputError", ["(0, 48)", "count from 0"]),
        ({"0": [True]}, "InputError", ["mask of 1 neurons", "has 48"]),
        ({"0": [-1]}, "InputError", ["(0, -1)"]),
        ({"0": [1], "layer_0": [2]}, "InputError", ["layer 0 twice", "'layer_0'"]),
        ([[0, 1], [0, 1], [1, 2]], "InputError", ["(0, 1) twice"]),
        ([[0, 1], [1, 2]], "InputError", ["two numbers", "pairs, or every layer's"]),
        ([[1], [2], [3]], "InputError", ["3 lists", "needs 2"]),
        ([[0, 1], [1, 2, 3], [0, 0]], "InputError", ["one of 3 numbers"]),
        (torch.ones(2, 40, dtype=torch.bool), "InputError", ["2 layers and [40]", "of 48"]),
        (torch.ones(3, dtype=torch.long), "InputTypeError", ["the entry 1"]),
        ([{"layer": 1, "index": 2}], "InputError", ["['layer', 'index']", "['neuron']"]),
        ({"layer": [0, 1], "neuron": [1]}, "InputError", ["no table"]),
        ([{"layer": 1, "neuron": float("nan")}], "InputTypeError", ["nan"]),
        ({"neurons": {"0": [1]}, "fingerprint": "2x48-0-0"}, "InputError", [".rebind(model)"]),
        (neuron_set(3), "InputError", ["belongs to model"]),
    ],
)  # fmt: skip
def test_what_is_no_list_of_neurons_is_told(model, given: Any, error: str, told: list[str]):
    with pytest.raises(Exception, match=".") as caught:
        read_neurons(model, given)
    assert type(caught.value).__name__ == error, caught.value
    assert all(text in str(caught.value) for text in told), caught.value


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", "{", ["a.json is not JSON", '{"LAYER"']),
        ("a.csv", "a,b\n1,2\n", ["['a', 'b']", "without ['layer', 'neuron']"]),
        ("a.csv", "", ["a.csv is no CSV"]),
        ("a.json", "[" * 100_000, ["a.json is not JSON", "nested too deeply"]),
        ("a.json", '{"0": [1], "0": [2]}', ["a.json is not JSON", "it has '0' twice"]),
        ("a.jsonl", '{"layer": 1, "layer": 0, "neuron": 2}', ["it has 'layer' twice"]),
        ("a.json", f'{{"layer{"9" * 5000}": [1]}}', ["a.json", "names no layer"]),
        ("a.json", f'{{"0": [{10**30}]}}', ["a.json", "count from 0"]),
        ("a.pkl", "", ["'.pkl'", "Load other files yourself"]),
        ("a.safetensors", "", ["a.safetensors is damaged"]),
    ],
)
def test_what_is_no_file_of_neurons_is_told(model, tmp_path: Path, name, content, told):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=".") as caught:
        read_neurons(model, tmp_path / name)
    assert all(text in str(caught.value) for text in told), caught.value


def test_a_folder_and_sets_that_can_not_be_written_are_told(model, tmp_path: Path):
    with pytest.raises(OSError, match="is a folder; give a file with neurons"):
        read_neurons(model, tmp_path)
    neurons = NeuronSet.from_pairs(model, PAIRS, "film")
    with pytest.raises(ValueError, match=r"ends in '.txt'; neurons are written as .json or .csv"):
        write_neurons(neurons, tmp_path / "a.txt")
    with pytest.raises(ValueError, match="2 sets of 2 models"):
        write_neurons([neurons, neuron_set(3)], tmp_path / "a.json")
    with pytest.raises(ValueError, match="0 sets"):
        write_neurons({}, tmp_path / "a.json")


def test_names_that_pandas_takes_for_missing_come_back(model, tmp_path: Path):
    sets = {
        name: NeuronSet.from_pairs(model, [(0, k)], name)
        for k, name in enumerate(("None", "NA", "nan", "01", "1", "sst2"))
    }
    write_neurons(sets, tmp_path / "sets.csv")
    assert read_sets(model, tmp_path / "sets.csv") == sets
    nameless = pd.DataFrame({"task": ["a", None, "b"], "layer": [0, 0, 1], "neuron": [1, 2, 3]})
    with pytest.raises(ValueError, match="no 'task' in row 1"):
        read_sets(model, nameless)
