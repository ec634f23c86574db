import copy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import helpers
import pytest
import torch

from tl_taskneurons import score_neurons
from tl_taskneurons.models.view import view
from tl_taskneurons.tasks.batches import make_batches
from tl_taskneurons.tasks.prompts import Prompt
from tl_taskneurons.training import loop as training_loop
from tl_taskneurons.training.comparisons import (
    TRAINERS,
    finetune_all,
    finetune_lora,
    finetune_random,
    finetune_top,
    top_by,
)
from tl_taskneurons.training.examples import training_items
from tl_taskneurons.training.finetune import finetune
from tl_taskneurons.training.lora_trainee import LoraWeights
from tl_taskneurons.training.settings import Training

KINDS = ["bridge", pytest.param("hooked", marks=pytest.mark.needs("hooked"))]
SHORT = Training(lr=1e-2, steps=3, batch_size=4, weight_decay=0.1)


def chosen(model: Any):
    return score_neurons(model, helpers.toy_task(), "random").top(fraction=0.2)


@pytest.fixture
def model(tokenizer: Any) -> Any:
    bridge = helpers.tiny_lens("llama", tokenizer=tokenizer)
    bridge(torch.zeros(1, 2, dtype=torch.long))  # it attaches hooks of its own at first
    return bridge


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def traces(model: Any) -> dict[str, Any]:
    """What training must leave as it was, beside the weights."""
    return {
        "modules": [(name, type(module)) for name, module in model.named_modules()],
        "flags": [(name, weight.requires_grad) for name, weight in model.named_parameters()],
        "gradients": [(name, weight.grad) for name, weight in model.named_parameters()],
        "modes": [module.training for module in model.modules()],
        "peft": hasattr(getattr(model, "original_model", None), "peft_config"),
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
    }


@pytest.mark.parametrize("how", TRAINERS)
def test_every_way_trains_and_leaves_the_model_as_it_was(how: str, model: Any, tmp_path: Path):
    neurons, task = chosen(model), helpers.toy_task()
    for weight in list(model.parameters())[::2]:
        weight.requires_grad_(False)
    before, marks = weights(model), traces(model)
    delta = TRAINERS[how](model, task, neurons, SHORT, limit=6, checkpoint=tmp_path / "c")
    assert same(before, weights(model)) and marks == traces(model)
    assert delta.fingerprint == view(model).fingerprint
    assert delta.info["tasks"] == ["toy"] and delta.info["examples"] == 6
    assert len(delta.history) == 3 and delta.n_parameters > 0
    with delta.applied(model):
        assert not same(before, weights(model))
    assert same(before, weights(model))
    # A second call finds the finished run and gives the same weights.
    again = TRAINERS[how](model, task, neurons, SHORT, limit=6, checkpoint=tmp_path / "c")
    with delta.applied(model):
        trained = weights(model)
    with again.applied(model):
        assert same(trained, weights(model))


@pytest.mark.parametrize("how", ["task", "all", "lora"])
def test_an_exception_leaves_the_model_as_it_was(how: str, model: Any, monkeypatch):
    neurons = chosen(model)
    before, marks = weights(model), traces(model)
    real, calls = training_loop.update, []

    def update(*arguments: Any) -> tuple[float, float]:
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(training_loop, "update", update)
    with pytest.raises(KeyboardInterrupt):
        TRAINERS[how](model, helpers.toy_task(), neurons, SHORT)
    assert same(before, weights(model)) and marks == traces(model)


# Neurons


def test_random_neurons_match_per_layer_or_in_all(model: Any):
    neurons = chosen(model)
    task = helpers.toy_task()
    layered = finetune_random(model, task, neurons, SHORT, seed=3)
    assert layered.neurons.per_layer == neurons.per_layer
    assert layered.neurons != neurons
    plain = finetune_random(model, task, neurons, SHORT, match="total", seed=3)
    assert len(plain.neurons) == len(neurons) and plain.neurons != layered.neurons
    wanted = finetune(model, task, neurons.random_like(3), SHORT)
    assert same(layered.trained, wanted.trained)


def test_the_top_neurons_are_those_of_the_method(model: Any):
    neurons, task = chosen(model), helpers.toy_task()
    for method in ("grad_act", "weight_norm"):
        top = score_neurons(model, task, method, limit=5).top(n=len(neurons))
        delta = finetune_top(model, task, neurons, SHORT, method=method, score_limit=5)
        assert delta.neurons == top
    other = replace(helpers.toy_task(5), name="other")
    both = [score_neurons(model, each, limit=4).values for each in (task, other)]
    mean = top_by(model, [task, other], 7, "grad_act", prompt=Prompt(), limit=4)
    order = ((both[0] + both[1]) / 2).flatten().argsort(descending=True)[:7]
    assert sorted(order.tolist()) == mean.mask.flatten().nonzero().flatten().tolist()
    for method in ("exact", "gradact"):
        with pytest.raises(ValueError, match=f"method is '{method}'"):
            finetune_top(model, task, neurons, SHORT, method=method)


# All weights


def plain_training(hf: Any, batch: Any, training: Training) -> None:
    """Train a Hugging Face model on one batch, in PyTorch alone."""
    parameters = list(hf.parameters())
    optimiser = torch.optim.AdamW(parameters, weight_decay=training.weight_decay)
    targets = batch.answer_mask[:, 1:]
    for step in range(training.steps or 0):
        optimiser.zero_grad()
        mask = batch.attention_mask.long()
        logits = hf(batch.tokens, attention_mask=mask).logits[:, :-1].log_softmax(-1)
        losses = -logits.gather(2, batch.tokens[:, 1:, None])[..., 0] * targets
        (losses.sum(1) / targets.sum(1)).mean().backward()
        for group in optimiser.param_groups:
            group["lr"] = training.rate(step, training.steps or 0)
        optimiser.step()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "phi3"])
def test_all_weights_end_where_torch_takes_hugging_face(name: str, kind: str, tokenizer: Any):
    hf = helpers.tiny_hf(name)
    plain, start = copy.deepcopy(hf), copy.deepcopy(hf)
    model = helpers.both_classes(hf, tokenizer)[kind]
    training = replace(SHORT, batch_size=8, clip=None, lr=1e-3)  # every step has all examples
    task = helpers.toy_task()
    delta = finetune_all(model, task, None, training)
    items = training_items(view(model), [task], Prompt())
    (batch,) = make_batches(items, token_budget=10**6, with_end=True)
    plain_training(plain, batch, training)
    ids = batch.tokens[:, :12]
    with torch.no_grad(), delta.applied(model):
        found = model(ids).log_softmax(-1)
        wanted = plain(ids).logits.log_softmax(-1)
        # AdamW makes steps of rounding errors where a gradient is zero (the keys' biases).
        moved = (start(ids).logits.log_softmax(-1) - wanted).abs().max()
    assert (found - wanted).abs().max() < 2e-3 * moved
    # No more and no less than Hugging Face has: no bias of the unembedding, no second embedding.
    assert delta.n_parameters == sum(p.numel() for p in plain.parameters())


def test_all_weights_of_a_bfloat16_model_have_float32_masters(tokenizer: Any):
    model = helpers.both_classes(helpers.tiny_hf("llama"), tokenizer, torch.bfloat16)["bridge"]
    before = weights(model)
    delta = finetune_all(model, helpers.toy_task(), None, SHORT)
    assert same(before, weights(model))
    assert all(value.dtype == torch.float32 for value in delta.trained.values())
    with delta.applied(model):
        for name, weight in model.named_parameters():
            if name in delta.trained:
                assert torch.equal(weight, delta.trained[name].to(torch.bfloat16))


def test_deltas_of_other_models_are_refused(model: Any, tokenizer: Any):
    other = helpers.tiny_lens("llama", seed=1, tokenizer=tokenizer)
    for train in (finetune_all, finetune_lora):
        delta = train(model, helpers.toy_task(), None, SHORT)
        with pytest.raises(ValueError, match=delta.fingerprint), delta.applied(other):
            pass
        with pytest.raises(ValueError, match=view(other).fingerprint):
            train(model, helpers.toy_task(), chosen(other), SHORT)


# LoRA


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "phi3"])
def test_adapters_on_attention_are_what_runs_and_leave_no_trace(name: str, tokenizer: Any):
    model = helpers.tiny_lens(name, tokenizer=tokenizer)
    options: dict[str, Any] = {"rank": 3, "attention": True}
    delta = finetune_lora(model, helpers.toy_task(), None, SHORT, **options)
    roles = {key.partition("/")[2] for key in delta.factors}
    assert {"attn.q", "attn.k", "attn.v", "attn.o", "W_in", "W_out"} <= roles
    ids = torch.arange(5, 15)[None]
    before = weights(model)
    lora = LoraWeights(view(model), rank=3, attention=True)
    with torch.no_grad():
        plain = model(ids)
        with lora.attached():
            lora.start_from(delta.factors)
            wanted = model(ids)
        with delta.applied(model):
            torch.testing.assert_close(model(ids), wanted, atol=1e-4, rtol=1e-4)
        own = {key: pair for key, pair in delta.factors.items() if "attn" in key}
        with replace(delta, factors=own).applied(model):
            assert (model(ids) - plain).abs().max() > 1e-3
    assert same(before, weights(model))


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "phi3"])
def test_a_lora_delta_is_what_peft_merges(name: str, tokenizer: Any):
    model = helpers.tiny_lens(name, tokenizer=tokenizer)
    delta = finetune_lora(model, helpers.toy_task(), None, SHORT, rank=3, alpha=5.0)
    assert delta.scaling == pytest.approx(5 / 3)
    base = weights(model)
    with delta.applied(model):
        parts = {
            f"{layer.index}/{key}": part.parameter.detach().clone()
            for layer in view(model).layers
            for key, part in layer.parameters.items()
            if key in ("W_in", "W_gate", "W_out")
        }
    assert parts.keys() == delta.factors.keys()
    lora = LoraWeights(view(model), rank=3, alpha=5.0)
    with lora.attached():
        lora.start_from(delta.factors)
        assert same(
            {k: torch.cat([f.flatten() for f in pair]) for k, pair in lora.factors().items()},
            {k: torch.cat([f.flatten() for f in pair]) for k, pair in delta.factors.items()},
        )
        for key, layer in lora._layers.items():
            layer.merge()
            merged = layer.get_base_layer().weight.detach()
            torch.testing.assert_close(parts[key], merged, atol=1e-6, rtol=0)
            layer.unmerge()
        moved = [parts[k] - layer.get_base_layer().weight for k, layer in lora._layers.items()]
    assert min(float(change.detach().abs().max()) for change in moved) > 1e-3
    for key, weight in weights(model).items():
        torch.testing.assert_close(weight, base[key], atol=1e-6, rtol=0)  # peft's own unmerge


def test_lora_starts_at_the_model_and_depends_on_the_seed(model: Any):
    before = torch.random.get_rng_state()
    still = finetune_lora(model, helpers.toy_task(), None, replace(SHORT, lr=1e-12))
    loss = finetune(model, helpers.toy_task(), chosen(model), SHORT).history["loss"][0]
    assert still.history["loss"][0] == pytest.approx(loss, rel=1e-5)
    again = finetune_lora(model, helpers.toy_task(), None, replace(SHORT, lr=1e-12))
    other = finetune_lora(model, helpers.toy_task(), None, replace(SHORT, lr=1e-12, seed=1))
    assert torch.equal(still.factors["0/W_in"][0], again.factors["0/W_in"][0])
    assert not torch.equal(still.factors["0/W_in"][0], other.factors["0/W_in"][0])
    assert torch.equal(before, torch.random.get_rng_state())


def test_lora_refusals(model: Any, tokenizer: Any, monkeypatch):
    with pytest.raises(ValueError, match="rank is 0"):
        finetune_lora(model, helpers.toy_task(), None, SHORT, rank=0)
    marks = traces(model)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"tl-taskneurons\[compare\]"):
        finetune_lora(model, helpers.toy_task(), None, SHORT)
    assert traces(model) == marks


@pytest.mark.needs("hooked")
def test_lora_of_a_hooked_transformer_is_refused(tokenizer: Any):
    model = helpers.tiny_lens("llama", "hooked", tokenizer=tokenizer)
    with pytest.raises(TypeError, match="kind='bridge'"):
        finetune_lora(model, helpers.toy_task(), None, SHORT)
