import json
from pathlib import Path
from typing import Any

import helpers
import pytest
import torch
import transformers
from safetensors import safe_open

from tl_taskneurons import score_neurons
from tl_taskneurons.loading.models import load_model
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime import tensor_files as files
from tl_taskneurons.training.deltas import NeuronDelta
from tl_taskneurons.training.finetune import finetune
from tl_taskneurons.training.settings import Training
from tl_taskneurons.training.slices import read_slices

KINDS = ["bridge", pytest.param("hooked", marks=pytest.mark.needs("hooked"))]
DTYPES = [torch.float32, torch.bfloat16]
SHORT = Training(lr=1e-2, steps=3, batch_size=4)


def chosen(model: Any, seed: int = 0) -> NeuronSet:
    return score_neurons(model, helpers.toy_task(), "random", seed=seed).top(fraction=0.2)


def trained(model: Any, seed: int = 0) -> NeuronDelta:
    return finetune(model, helpers.toy_task(), chosen(model, seed), SHORT)


@pytest.fixture
def model(tokenizer: Any) -> Any:
    return helpers.tiny_lens("llama", tokenizer=tokenizer)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


# Applying and undoing


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_apply_then_undo_gives_the_same_bytes(kind: str, dtype: torch.dtype, tokenizer: Any):
    model = helpers.both_classes(helpers.tiny_hf("phi3"), tokenizer, dtype)[kind]
    before, name = weights(model), view(model).fingerprint
    delta = trained(model)
    assert delta.dtype == dtype
    delta.apply(model)
    assert not same(before, weights(model)) and view(model).fingerprint != name
    delta.undo(model)
    assert same(before, weights(model)) and view(model).fingerprint == name
    with delta.applied(model):
        assert not same(before, weights(model))
    assert same(before, weights(model))
    with pytest.raises(RuntimeError, match="stop"), delta.applied(model):
        raise RuntimeError("stop")
    assert same(before, weights(model))


def test_a_delta_trained_on_top_of_another_nests(model: Any):
    before = weights(model)
    first = trained(model)
    with first.applied(model):
        second = trained(model, seed=1)
        inner = weights(model)
        with second.applied(model):
            assert not same(inner, weights(model))
        assert same(inner, weights(model))
        second.apply(model)
        with pytest.raises(
            ValueError, match=r"W_in of layer \d differs. Undo what was applied last"
        ):
            first.undo(model)
        second.undo(model)
        assert same(inner, weights(model))
    assert same(before, weights(model))


def test_what_was_applied_is_what_was_trained(model: Any):
    neurons = chosen(model)
    delta = finetune(model, helpers.toy_task(), neurons, SHORT)
    finetune(model, helpers.toy_task(), neurons, SHORT, keep=True)
    kept = weights(model)
    delta.undo(model)
    with delta.applied(model):
        assert same(kept, weights(model))


@pytest.mark.parametrize("how", ["apply", "applied"])
def test_another_base_is_refused_with_both_fingerprints(model: Any, tokenizer: Any, how: str):
    other = helpers.tiny_lens("llama", seed=1, tokenizer=tokenizer)
    delta = trained(model)
    before = weights(other)
    with pytest.raises(ValueError) as caught:
        delta.apply(other) if how == "apply" else delta.applied(other).__enter__()
    assert delta.fingerprint in str(caught.value) and view(other).fingerprint in str(caught.value)
    assert same(before, weights(other))
    gpt2 = helpers.tiny_lens("gpt2", tokenizer=tokenizer, n_layer=3)
    with pytest.raises(ValueError, match=r"\(2, 48\).*\(3, 48\)"):
        delta.undo(gpt2)
    with pytest.raises(ValueError, match="doesn't hold the trained weights"):
        delta.undo(model)


def test_the_base_in_another_precision(tokenizer: Any):
    hf = helpers.tiny_hf("llama")
    wide, narrow = (helpers.both_classes(hf, tokenizer, dtype)["bridge"] for dtype in DTYPES)
    from_wide, from_narrow = trained(wide), trained(narrow)
    before = weights(narrow)
    from_wide.apply(narrow)  # the base rounds to what the model holds, so undo is exact
    from_wide.undo(narrow)
    assert same(before, weights(narrow))
    before = weights(wide)
    with pytest.raises(ValueError, match=r"trained in torch.bfloat16.*applied\(model\)"):
        from_narrow.apply(wide)
    with from_narrow.applied(wide):
        assert not same(before, weights(wide))
    assert same(before, weights(wide))
    with pytest.raises(ValueError, match="one precision"):
        _ = from_wide + from_narrow


# Arithmetic


def dense(delta: NeuronDelta, model: Any) -> dict[str, torch.Tensor]:
    """The change of every MLP weight, zero where nothing was trained."""
    before = weights(model)
    with delta.applied(model):
        return {name: weight - before[name] for name, weight in weights(model).items()}


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_scale_and_add_are_those_of_the_dense_change(name: str, tokenizer: Any):
    model = helpers.tiny_lens(name, tokenizer=tokenizer)
    one, other = trained(model), trained(model, seed=1)
    assert len(one.neurons & other.neurons) > 0 and len(one.neurons - other.neurons) > 0
    first, second = dense(one, model), dense(other, model)
    made = {
        "sum": (one + other, {k: first[k] + second[k] for k in first}),
        "half": (0.5 * one, {k: 0.5 * first[k] for k in first}),
        "difference": (one + other * -1.0, {k: first[k] - second[k] for k in first}),
        "average": ((one + other).scaled(0.5), {k: (first[k] + second[k]) / 2 for k in first}),
    }
    for label, (delta, wanted) in made.items():
        found = dense(delta, model)
        for key, value in wanted.items():
            torch.testing.assert_close(found[key], value, atol=2e-6, rtol=0, msg=f"{label} {key}")
    together = torch.stack([change.square().sum() for change in first.values()]).sum().sqrt()
    assert one.norm == pytest.approx(float(together), rel=1e-4)


def test_scale_by_nothing_and_bad_factors(model: Any, tokenizer: Any):
    delta = trained(model)
    before = weights(model)
    with delta.scaled(0.0).applied(model):
        assert same(before, weights(model))
    for factor in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"factor is {factor}"):
            delta.scaled(factor)
    other = trained(helpers.tiny_lens("llama", seed=1, tokenizer=tokenizer))
    with pytest.raises(ValueError, match="different models"):
        _ = delta + other
    with pytest.raises(TypeError):
        _ = delta + 1  # type: ignore[operator]


# Files


def test_a_file_gives_the_delta_back(model: Any, tmp_path: Path):
    delta = trained(model)
    delta.save(tmp_path / "d.safetensors")
    delta.save(tmp_path / "again.safetensors")
    assert (tmp_path / "d.safetensors").read_bytes() == (
        tmp_path / "again.safetensors"
    ).read_bytes()
    found = NeuronDelta.load(tmp_path / "d.safetensors")
    assert found.neurons == delta.neurons and found.name == delta.name == "toy"
    assert same(found.base, delta.base) and same(found.trained, delta.trained)
    assert found.info == json.loads(json.dumps(delta.info))
    assert repr(found) == repr(delta) and found.fingerprint in repr(found)
    with found.applied(model):
        assert same(read_slices(view(model), delta.neurons), delta.trained)


def test_the_file_grows_with_the_neurons(model: Any, tmp_path: Path):
    sizes = {}
    for n in (2, 8, 32):
        neurons = score_neurons(model, helpers.toy_task(), "random").top(n=n)
        delta = finetune(model, helpers.toy_task(), neurons, Training(steps=1))
        assert delta.n_parameters == n * 3 * helpers.D_MODEL
        delta.save(tmp_path / f"{n}")
        with safe_open(tmp_path / f"{n}", "pt") as file:
            sizes[n] = sum(file.get_tensor(k).nbytes for k in file.keys())  # noqa: SIM118
    mask = helpers.N_LAYERS * helpers.D_MLP
    assert sizes == {n: mask + 2 * 4 * n * 3 * helpers.D_MODEL for n in sizes}


def test_an_interrupted_save_leaves_the_old_file(model: Any, monkeypatch, tmp_path: Path):
    file = tmp_path / "d.safetensors"
    delta = trained(model)
    delta.save(file)
    before = file.read_bytes()

    def full_disk(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(files, "save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        delta.scaled(2.0).save(file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_what_is_no_delta_is_refused(model: Any, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="none"):
        NeuronDelta.load(tmp_path / "none")
    chosen(model).save(tmp_path / "set")
    with pytest.raises(ValueError, match="holds no NeuronDelta .it holds NeuronSet"):
        NeuronDelta.load(tmp_path / "set")
    delta = trained(model)
    delta.save(tmp_path / "d")
    (tmp_path / "d").write_bytes((tmp_path / "d").read_bytes()[:-50])
    with pytest.raises(ValueError, match="damaged"):
        NeuronDelta.load(tmp_path / "d")


# Merging


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "phi3"])
def test_a_merged_folder_is_a_plain_model(name: str, tied: bool, tmp_path: Path):
    base = helpers.save_tiny(name, tmp_path / "base", tie_word_embeddings=tied)
    model = load_model(base, device="cpu")
    delta = trained(model)
    folder = delta.merge(base, tmp_path / "merged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "merged"]
    ids = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(0))
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    untrained = transformers.AutoModelForCausalLM.from_pretrained(base).eval()
    with torch.no_grad(), delta.applied(model):
        wanted = model(ids).log_softmax(-1)
        torch.testing.assert_close(plain(ids).logits.log_softmax(-1), wanted, atol=2e-5, rtol=0)
        assert (untrained(ids).logits.log_softmax(-1) - wanted).abs().max() > 1e-2
    assert plain.config.tie_word_embeddings == tied
    head = plain.get_output_embeddings()
    assert head is not None and (head.weight is plain.get_input_embeddings().weight) == tied
    assert {n for n, _ in plain.named_parameters()} == {n for n, _ in untrained.named_parameters()}
    texts = [
        transformers.AutoTokenizer.from_pretrained(path)("Is it odd?")["input_ids"]
        for path in (base, folder)
    ]
    assert texts[0] == texts[1]
    again = load_model(folder, device="cpu")
    with delta.applied(model):
        assert view(again).fingerprint == view(model).fingerprint


def test_a_bfloat16_delta_merges_into_a_bfloat16_folder(tmp_path: Path):
    base = helpers.save_tiny("llama", tmp_path / "base")
    model = load_model(base, dtype="bfloat16", device="cpu")
    delta = trained(model)
    delta.merge(base, tmp_path / "merged")
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert {p.dtype for p in plain.parameters()} == {torch.bfloat16}
    merged = load_model(tmp_path / "merged", dtype="bfloat16", device="cpu")
    with delta.applied(model):
        assert view(merged).fingerprint == view(model).fingerprint


def test_merging_refuses_what_would_go_wrong(tmp_path: Path, monkeypatch):
    base = helpers.save_tiny("llama", tmp_path / "base")
    other = helpers.save_tiny("llama", tmp_path / "other", seed=1)
    delta = trained(load_model(base, device="cpu"))
    with pytest.raises(ValueError, match=delta.fingerprint):
        delta.merge(other, tmp_path / "merged")
    with pytest.raises(FileExistsError, match="give a new folder"):
        delta.merge(base, other)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        delta.merge(tmp_path / "nowhere", tmp_path / "merged")

    def full_disk(self: Any, folder: Path) -> None:
        Path(folder).mkdir(exist_ok=True)
        raise OSError("No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(transformers.LlamaForCausalLM, "save_pretrained", full_disk)
        delta.merge(base, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    (tmp_path / "merged").mkdir()  # an empty folder is no obstacle, nor is what was left over
    assert delta.merge(base, tmp_path / "merged") == tmp_path / "merged"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "merged", "other"]
