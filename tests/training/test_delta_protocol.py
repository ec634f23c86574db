"""What all kinds of deltas share: applying, undoing, files, merging, and damage that is told."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import helpers
import pytest
import torch
import transformers

from tl_taskneurons import deactivate, evaluate, scale, score_neurons
from tl_taskneurons.loading.models import load_model
from tl_taskneurons.models.view import view
from tl_taskneurons.runtime.errors import StateError
from tl_taskneurons.runtime.tensor_files import load_tensors, save_tensors
from tl_taskneurons.training.comparisons import finetune_all, finetune_lora
from tl_taskneurons.training.deltas import Delta, LoraDelta, NeuronDelta, WeightDelta, load_delta
from tl_taskneurons.training.finetune import finetune
from tl_taskneurons.training.settings import Training
from tl_taskneurons.training.slices import Slices

SHORT = Training(lr=1e-2, steps=2, batch_size=4)
KINDS = {"neurons": NeuronDelta, "all": WeightDelta, "lora": LoraDelta}


def trained(model: Any, kind: str) -> Delta:
    task = helpers.toy_task()
    if kind == "neurons":
        neurons = score_neurons(model, task, "random").top(fraction=0.2)
        return finetune(model, task, neurons, SHORT)
    return {"all": finetune_all, "lora": finetune_lora}[kind](model, task, None, SHORT)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture
def model(tokenizer: Any) -> Any:
    return helpers.tiny_lens("llama", tokenizer=tokenizer)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_applies_undoes_and_comes_back_from_its_file(
    kind: str, model: Any, tmp_path: Path
):
    delta = trained(model, kind)
    before = weights(model)
    with delta.applied(model):
        reached = weights(model)
    assert same(before, weights(model)) and not same(before, reached)
    delta.apply(model)
    assert same(reached, weights(model))
    delta.undo(model)
    assert same(before, weights(model))
    delta.save(tmp_path / "delta")
    found = load_delta(tmp_path / "delta")
    assert type(found) is KINDS[kind] and repr(found) == repr(delta)
    with found.applied(model):
        assert same(reached, weights(model))


@pytest.mark.parametrize("kind", ["all", "lora"])
def test_what_was_not_applied_here_has_no_base_to_go_back_to(kind: str, model: Any, tmp_path: Path):
    delta = trained(model, kind)
    with pytest.raises(RuntimeError, match="was not applied to this"):
        delta.undo(model)
    delta.apply(model)
    delta.save(tmp_path / "delta")
    with pytest.raises(RuntimeError, match="doesn't hold the base weights"):
        load_delta(tmp_path / "delta").undo(model)
    with torch.no_grad():
        view(model).layers[0].parameters["W_in"].parameter.add_(1.0)
    with pytest.raises(ValueError, match="doesn't hold the trained weights"):
        delta.undo(model)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_an_intervention_has_changed_are_left_alone(
    kind: str, model: Any, tokenizer: Any
):
    task, delta, before = helpers.toy_task(), trained(model, kind), weights(model)
    some = score_neurons(model, task, "random").top(fraction=0.2)
    other = helpers.tiny_lens("llama", tokenizer=tokenizer)
    for changed in (deactivate(model, some, how="weights"), scale(model, some, 1.0, how="weights")):
        with changed:
            inside = weights(model)
            for use in (delta.apply, delta.undo, lambda model: delta.applied(model).__enter__()):
                with pytest.raises(StateError, match=r"how='weights'.*Apply the difference first"):
                    use(model)
            with pytest.raises(StateError, match="Apply the difference first"):
                finetune(model, task, some, Training(steps=1), keep=True)
            assert same(inside, weights(model))
            with delta.applied(other):  # another model, though of the same weights
                pass
    assert same(before, weights(model))
    with delta.applied(model):
        reached = evaluate(model, task)["loss"]
        with deactivate(model, some.rebind(model), how="weights"):
            silenced = evaluate(model, task)["loss"].tolist()
    with deactivate(model, some), delta.applied(model):
        assert evaluate(model, task)["loss"].tolist() == silenced != reached.tolist()


@pytest.mark.parametrize("how", ["apply", "applied", "undo"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_while_weights_are_written_changes_nothing(
    kind: str, how: str, model: Any, monkeypatch: pytest.MonkeyPatch
):
    delta = trained(model, kind)
    if how == "undo":
        delta.apply(model)
    before = weights(model)
    real, calls = type(delta)._write, []

    def breaks(self: Any, model_view: Any, values: Any) -> None:
        calls.append(None)
        if len(calls) > 1:
            return real(self, model_view, values)
        values = list(values)
        real(self, model_view, values[: len(values) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(type(delta), "_write", breaks)
    with pytest.raises(KeyboardInterrupt):
        if how == "applied":
            with delta.applied(model):
                raise AssertionError("never reached")
        getattr(delta, how)(model)
    assert same(before, weights(model))


def damaged(delta: NeuronDelta) -> dict[str, Callable[[], NeuronDelta]]:
    layer, j = (~delta.neurons.mask).nonzero()[0].tolist()
    more, fewer = delta.neurons.mask.clone(), delta.neurons.mask.clone()
    more[layer, j] = True
    fewer[delta.neurons.mask.nonzero()[0].tolist()[0]] = False
    first = next(iter(delta.base))

    def of_slices(**sides: Any) -> NeuronDelta:
        made = {name: Slices(delta.neurons, values) for name, values in sides.items()}
        return replace(delta, **made)

    def sides(change: Callable[[dict[str, torch.Tensor]], Any]) -> NeuronDelta:
        base, trained = dict(delta.base), dict(delta.trained)
        change(base)
        change(trained)
        return of_slices(base=base, trained=trained)

    def of(mask: torch.Tensor) -> NeuronDelta:
        return replace(delta, neurons=replace(delta.neurons, mask=mask))

    narrow = {k: v[:16] if k.endswith("W_in") else v for k, v in delta.base.items()}
    return {
        "one more neuron": lambda: of(more),
        "a layer's neurons less": lambda: of(fewer),
        "a slice less": lambda: sides(lambda side: side.pop(first)),
        "a slice less on one side": lambda: of_slices(
            trained={k: v for k, v in delta.trained.items() if k != first}
        ),
        "a slice more": lambda: sides(lambda side: side.update({"1/b_in": torch.zeros(3)})),
        "another width": lambda: of_slices(
            base=narrow, trained={k: v.float().clone() for k, v in narrow.items()}
        ),
        "another type": lambda: of_slices(
            trained={k: v.bfloat16() for k, v in delta.trained.items()}
        ),
    }


def test_neurons_and_slices_that_do_not_fit_are_refused_before_anything_is_written(
    model: Any, tmp_path: Path
):
    delta = trained(model, "neurons")
    assert isinstance(delta, NeuronDelta)
    before = weights(model)
    for what, make in damaged(delta).items():
        broken = make()
        for use in (broken.apply, lambda model, d=broken: d.applied(model).__enter__()):
            with pytest.raises(ValueError, match="fit|wide|has no|damaged"):
                use(model)
            assert same(before, weights(model)), what
        broken.save(tmp_path / "broken")
        if what not in ("another width", "a slice more"):  # told when the model is at hand
            with pytest.raises(ValueError, match=r"broken.*(fit|has no|damaged)"):
                NeuronDelta.load(tmp_path / "broken")


def test_files_with_other_tensors_are_refused(model: Any, tmp_path: Path):
    for kind, old, new in (("neurons", "mask", "mosk"), ("lora", "up/0/W_in", "up/0/W_gote")):
        trained(model, kind).save(tmp_path / kind)
        tensors, header = load_tensors(tmp_path / kind, KINDS[kind].__name__)
        tensors[new] = tensors.pop(old)
        facts = {k: header[k] for k in ("fingerprint", "name", "info", "set", "scaling")
                 if k in header}  # fmt: skip
        save_tensors(tmp_path / kind, KINDS[kind].__name__, tensors, facts)
        with pytest.raises(ValueError, match=f"{kind} is damaged"):
            load_delta(tmp_path / kind)
    score_neurons(model, helpers.toy_task(), "random").top(n=3).save(tmp_path / "set")
    with pytest.raises(ValueError, match="holds no delta .it holds NeuronSet."):
        load_delta(tmp_path / "set")


@pytest.mark.needs("hooked")
def test_all_weights_of_one_class_are_refused_by_the_other(tokenizer: Any):
    hf = helpers.tiny_hf("gpt2")
    both = helpers.both_classes(hf, tokenizer)
    for kind, other in (("bridge", "hooked"), ("hooked", "bridge")):
        delta = trained(both[kind], "all")
        with (
            pytest.raises(ValueError, match=r"no such weight. Use the class|belongs|base model"),
            delta.applied(both[other]),
        ):
            pass


@pytest.mark.parametrize("kind", ["all", "lora"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "phi3"])
def test_a_merged_folder_is_a_plain_model(name: str, kind: str, tmp_path: Path):
    base = helpers.save_tiny(name, tmp_path / "base")
    model = load_model(base, device="cpu")
    delta = trained(model, kind)
    if (name, kind) == ("bloom", "all"):  # its bridge runs on copies of the fused matrices
        with pytest.raises(ValueError, match=r"off by .* nats.*copies of this architecture"):
            delta.merge(base, tmp_path / "merged")
        assert [path.name for path in tmp_path.iterdir()] == ["base"]
        return
    ids = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(0))
    plain = transformers.AutoModelForCausalLM.from_pretrained(
        delta.merge(base, tmp_path / "merged")
    )
    with torch.no_grad(), delta.applied(model):
        found, wanted = plain.eval()(ids).logits.log_softmax(-1), model(ids).log_softmax(-1)
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)


def test_a_copy_of_a_delta_is_a_delta(model: Any):
    for kind in KINDS:
        delta = trained(model, kind)
        again = copy.deepcopy(delta)
        with delta.applied(model):
            reached = weights(model)
        with again.applied(model):
            assert same(reached, weights(model))


def test_adapters_round_once_in_half_precision(tokenizer: Any):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer).to(torch.bfloat16)
    part = view(model).layers[0].parameters["W_in"].oriented
    down, up = torch.randn(part.shape[0], 2), 1e-2 * torch.randn(2, part.shape[1])
    before = part.clone()
    delta = LoraDelta(view(model).fingerprint, {"0/W_in": (down, up)}, 1.0)
    with delta.applied(model):
        after = view(model).layers[0].parameters["W_in"].oriented.clone()
    exact = before.float() + down @ up
    assert torch.equal(after, exact.bfloat16())
    assert not torch.equal(after, before + (down @ up).bfloat16())
