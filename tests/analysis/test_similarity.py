import gc
import math
import weakref
from collections.abc import Iterator
from typing import Any

import helpers
import micro
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tl_taskneurons import READINGS, NeuronSet, similarity_over_models, view, weight_similarity

# Plain and gated; nn.Linear, Conv1D (gpt2) and one fused matrix for gate and up (phi3).
SOME = ("llama", "gpt2", "bloom", "gpt_neox", "gemma2", "phi3")
KEYS = ["layer", "part", "task_x", "task_y"]


def random_sets(model: Any, names: str = "abc", share: float = 0.3) -> dict[str, NeuronSet]:
    generator = torch.Generator().manual_seed(3)
    shape, fingerprint = view(model).shape, view(model).fingerprint
    return {
        name: NeuronSet(torch.rand(shape, generator=generator) < share, fingerprint, name)
        for name in names
    }


def neuron_vectors(model: Any, layer: int, part: str) -> Tensor:
    """``[d_mlp, numbers of the part]`` in float64, by the library's own way of reading weights."""
    found = view(model).read(layer, torch.arange(view(model).d_mlp))
    rows = {
        name: (value if name == "W_out" else value.T).double()
        for name, value in found.items()
        if name.startswith("W_")
    }
    return torch.cat(list(rows.values()), dim=1) if part == "all" else rows[part]


def cosine(x: Tensor, y: Tensor) -> float:
    return float(x.flatten() @ y.flatten() / (x.norm() * y.norm()))


def dense(vectors: list[Tensor], x: list[Tensor], y: list[Tensor], reading: str) -> float:
    """The plain computation, on one layer or several laid end to end."""
    if reading == "masked":
        masked = [
            torch.cat([torch.where(mask[:, None], v, 0.0).flatten() for v, mask in each])
            for each in (zip(vectors, x, strict=True), zip(vectors, y, strict=True))
        ]
        return cosine(*masked)
    if reading == "mean":
        means = [
            torch.cat([v[mask].mean(0) for v, mask in each])
            for each in (zip(vectors, x, strict=True), zip(vectors, y, strict=True))
        ]
        return cosine(*means)
    pairs = [
        torch.nn.functional.cosine_similarity(v[in_x][:, None], v[in_y][None], dim=-1).flatten()
        for v, in_x, in_y in zip(vectors, x, y, strict=True)
    ]
    return float(torch.cat(pairs).mean())


def assert_dense(model: Any, sets: dict[str, NeuronSet], reading: str, tolerance: float) -> None:
    parts = ["W_in", *(["W_gate"] if view(model).gated else []), "W_out", "all"]
    layers = range(view(model).n_layers)
    table = weight_similarity(model, sets, reading=reading)
    assert len(table) == len(layers) * len(parts) * len(sets) * (len(sets) - 1) // 2
    assert not table.duplicated(KEYS).any()
    assert table["part"].unique().tolist() == parts
    for row in table.to_dict("records"):
        x, y = sets[row["task_x"]].mask[row["layer"]], sets[row["task_y"]].mask[row["layer"]]
        vectors = neuron_vectors(model, row["layer"], row["part"])
        plain = dense([vectors], [x], [y], reading)
        assert row["similarity"] == pytest.approx(plain, abs=tolerance)
        assert (row["n_x"], row["n_y"]) == (x.sum(), y.sum())
        assert row["shared"] == (x & y).sum()
        assert row["reading"] == reading
    whole = weight_similarity(model, sets, reading=reading, per_layer=False)
    assert (whole["layer"] == "all").all()
    for row in whole.to_dict("records"):
        x, y = sets[row["task_x"]], sets[row["task_y"]]
        vectors = [neuron_vectors(model, layer, row["part"]) for layer in layers]
        plain = dense(vectors, list(x.mask), list(y.mask), reading)
        assert row["similarity"] == pytest.approx(plain, abs=tolerance)
        assert (row["n_x"], row["n_y"], row["shared"]) == (len(x), len(y), len(x & y))


# --- the three readings ---


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("name", SOME)
def test_readings_are_the_dense_computation(name: str, reading: str):
    model = micro.lens(name, "bridge", None)
    assert_dense(model, random_sets(model), reading, 1e-6)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("llama", torch.bfloat16), ("gpt2", torch.bfloat16), ("llama", torch.float64)],
)
def test_other_types_are_summed_at_least_in_float32(name: str, dtype: torch.dtype, both_classes):
    for model in both_classes(helpers.tiny_hf(name), dtype=dtype).values():
        for reading in READINGS:
            tolerance = 1e-6 if dtype == torch.bfloat16 else 1e-12
            assert_dense(model, random_sets(model), reading, tolerance)


@pytest.mark.needs("hooked")
@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "phi3"])
def test_both_classes_agree(name: str):
    models = {kind: micro.lens(name, kind, None) for kind in ("bridge", "hooked")}
    for reading in READINGS:
        bridge, hooked = (
            weight_similarity(models[kind], random_sets(models[kind]), reading=reading)
            for kind in ("bridge", "hooked")
        )
        pd.testing.assert_frame_equal(bridge, hooked, atol=1e-6)


def test_what_the_readings_say_of_disjoint_equal_and_even_sets():
    model = micro.lens("llama", "bridge", None)
    half = NeuronSet(torch.arange(48).repeat(2, 1) < 24, view(model).fingerprint)
    sets = {"half": half, "rest": ~half, "same": half}
    found = {
        reading: weight_similarity(model, sets, reading=reading, per_layer=False)
        .query("part == 'all'")
        .set_index(["task_x", "task_y"])["similarity"]
        for reading in READINGS
    }
    assert found["masked"]["half", "rest"] == 0
    assert found["mean"]["half", "rest"] != 0
    assert found["pairwise"]["half", "rest"] != 0
    assert found["masked"]["half", "same"] == pytest.approx(1)
    assert found["mean"]["half", "same"] == pytest.approx(1)
    assert found["pairwise"]["half", "same"] < 0.2  # random directions, and 1/24 with oneself


def test_masked_is_shared_over_the_root_of_the_sizes_when_lengths_are_equal():
    model = helpers.tiny_lens("llama")
    weight = view(model).layers[0].parameters["W_out"]
    with torch.no_grad():
        weight.parameter.div_(weight.parameter.norm(dim=1 - weight.axis, keepdim=True))
    table = weight_similarity(model, random_sets(model), parts=["W_out"]).query("layer == 0")
    plain = table["shared"] / (table["n_x"] * table["n_y"]) ** 0.5
    np.testing.assert_allclose(table["similarity"], plain, rtol=1e-6)


def test_against_other_sets_and_chosen_parts():
    model = micro.lens("gpt2", "bridge", None)
    sets = random_sets(model)
    table = weight_similarity(
        model, {"a": sets["a"]}, {"c": sets["c"], "a": sets["b"]}, parts=("all", "W_in")
    )
    assert table["part"].unique().tolist() == ["all", "W_in"]
    every = weight_similarity(model, sets).set_index(KEYS)["similarity"]
    for row in table.to_dict("records"):
        own = {"c": "c", "a": "b"}[row["task_y"]]  # names on the two sides are independent
        assert row["similarity"] == every[row["layer"], row["part"], "a", own]


def test_layers_without_neurons_are_nan():
    model = micro.lens("llama", "bridge", None)
    low = NeuronSet.from_pairs(model, [(0, 1), (0, 2)], "low")
    both = NeuronSet.from_pairs(model, [(0, 2), (1, 3)], "both")
    for reading in READINGS:
        table = weight_similarity(model, {"low": low, "both": both}, reading=reading)
        assert table.set_index("layer")["similarity"][0].notna().all()
        assert table.set_index("layer")["similarity"][1].isna().all()
        whole = weight_similarity(
            model, {"low": low, "both": both}, reading=reading, per_layer=False
        )
        assert whole["similarity"].notna().all()


def test_neurons_of_zero_weights_have_no_direction():
    model = helpers.tiny_lens("gpt2")
    nothing = torch.tensor([0])
    found = view(model).read(0, nothing)
    view(model).write(0, nothing, {name: torch.zeros_like(v) for name, v in found.items()})
    x = NeuronSet.from_pairs(model, [(0, 0), (0, 1)])
    y = NeuronSet.from_pairs(model, [(0, 1)])
    table = weight_similarity(model, {"x": x, "y": y}, reading="pairwise").query("layer == 0")
    np.testing.assert_allclose(table["similarity"], 0.5, rtol=1e-6)
    dead = NeuronSet.from_pairs(model, [(0, 0)])
    for reading in ("masked", "mean"):
        table = weight_similarity(model, {"dead": dead, "y": y}, reading=reading)
        assert table["similarity"].isna().all()


class Largest(TorchDispatchMode):
    """Sees the size of every tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.nbytes = 0
        self.mine: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {value.untyped_storage().data_ptr() for value in args if isinstance(value, Tensor)}
        if isinstance(result, Tensor) and result.untyped_storage().data_ptr() not in given:
            self.nbytes = max(self.nbytes, result.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_larger_than_a_part_of_one_layer_is_made(dtype: torch.dtype):
    hf = helpers.tiny_hf("llama", hidden_size=128, intermediate_size=256)
    model = helpers.both_classes(hf, dtype=dtype)["bridge"]
    sets = random_sets(model)
    for reading in READINGS:
        with Largest() as largest:
            weight_similarity(model, sets, reading=reading)
        # A bfloat16 part becomes float32, a float32 one is not copied at all.
        limit = 128 * 256 * 4 if dtype == torch.bfloat16 else 128 * 256 * 4 - 1
        assert 0 < largest.nbytes <= limit


def test_the_model_is_only_read():
    model = micro.lens("llama", "bridge", None)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for reading in READINGS:
        weight_similarity(model, random_sets(model), reading=reading)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_bad_input():
    model = micro.lens("gpt2", "bridge", None)
    sets = random_sets(model)
    with pytest.raises(ValueError, match="Unknown reading 'mask'; did you mean 'masked'"):
        weight_similarity(model, sets, reading="mask")
    with pytest.raises(ValueError, match="no part 'W_gate'.*Known: W_in, W_out, all"):
        weight_similarity(model, sets, parts=["W_in", "W_gate"])
    with pytest.raises(ValueError, match="parts is empty"):
        weight_similarity(model, sets, parts=[])
    with pytest.raises(ValueError, match="The set 'none' is empty"):
        weight_similarity(model, {**sets, "none": sets["a"] - sets["a"]})
    with pytest.raises(ValueError, match="The set 'a' belongs to model .* call .rebind"):
        weight_similarity(helpers.tiny_lens("gpt2", seed=1), sets)
    with pytest.raises(ValueError, match="no pair of sets"):
        weight_similarity(model, {"a": sets["a"]})


# --- over fine-tuned models ---


def test_each_model_compares_its_own_task_with_the_test_tasks():
    sets = random_sets(micro.lens("llama", "bridge", None), "abxy")
    models = {name: helpers.tiny_lens("llama", seed=k + 1) for k, name in enumerate("ab")}
    table = similarity_over_models(models, sets, ["x", "y"], reading="mean", parts=["W_in"])
    assert table["model"].tolist() == table["task_x"].tolist()
    assert len(table) == 2 * 2 * 2
    for name, model in models.items():
        rebound = {task: own.rebind(model) for task, own in sets.items()}
        expected = weight_similarity(
            model, {name: rebound[name]}, {"x": rebound["x"], "y": rebound["y"]},
            reading="mean", parts=["W_in"],
        )  # fmt: skip
        found = table[table["model"] == name].drop(columns="model").reset_index(drop=True)
        pd.testing.assert_frame_equal(found, expected)
    whole = similarity_over_models(models, sets, ["x"], per_layer=False, parts=["all"])
    assert whole["layer"].tolist() == ["all", "all"]


def test_one_model_at_a_time():
    sets = random_sets(micro.lens("llama", "bridge", None), "abcx")
    alive: list[weakref.ref] = []

    def load() -> Iterator[tuple[str, Any]]:
        for seed, name in enumerate("abc"):
            assert all(earlier() is None for earlier in alive)
            model = helpers.tiny_lens("llama", seed=seed)
            alive.append(weakref.ref(model))
            yield name, model
            del model

    gc.disable()  # what an automatic collection happens to free does not count
    try:
        table = similarity_over_models(load(), sets, ["x"], parts=["all"])
    finally:
        gc.enable()
    assert table["model"].unique().tolist() == ["a", "b", "c"]
    assert not math.isnan(table["similarity"].sum())


def test_bad_models():
    model = micro.lens("llama", "bridge", None)
    sets = random_sets(model)
    with pytest.raises(ValueError, match="no set for 'z'. Known: a, b, c"):
        similarity_over_models({"a": model}, sets, ["z"])
    with pytest.raises(ValueError, match="no set for 'z'"):
        similarity_over_models({"z": model}, sets, ["a"])
    with pytest.raises(ValueError, match="no models"):
        similarity_over_models({}, sets, ["a"])
    with pytest.raises(ValueError, match="no pair of sets"):
        similarity_over_models({"a": model}, sets, [])
    with pytest.raises(ValueError, match="don't fit"):
        similarity_over_models({"a": micro.lens("bloom", "bridge", None)}, sets, ["b"])
