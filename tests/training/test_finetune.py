import copy
from dataclasses import replace
from typing import Any

import helpers
import pytest
import torch

from tl_taskneurons import score_neurons
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.tasks.prompts import Prompt
from tl_taskneurons.training.examples import training_items
from tl_taskneurons.training.finetune import finetune
from tl_taskneurons.training.neuron_trainee import NeuronTrainee
from tl_taskneurons.training.settings import Training
from tl_taskneurons.training.slices import read_slices

EXACT = ("llama", "gpt2", "bloom", "phi3")
KINDS = ["bridge", pytest.param("hooked", marks=pytest.mark.needs("hooked"))]
DECAYING = Training(lr=1e-2, steps=5, batch_size=4, weight_decay=0.3)


def chosen(model: Any, fraction: float = 0.2) -> NeuronSet:
    return score_neurons(model, helpers.toy_task(), "random").top(fraction=fraction)


def selected(model: Any, neurons: NeuronSet) -> dict[str, torch.Tensor]:
    """For each parameter that holds neurons, True where the chosen ones are."""
    masks: dict[int, torch.Tensor] = {}
    for layer in view(model).layers:
        for part in layer.parameters.values():
            shape = [1] * part.parameter.ndim
            shape[part.axis] = -1
            mask = neurons.mask[layer.index].reshape(shape).expand(part.parameter.shape)
            masks[id(part.parameter)] = mask
    return {
        name: masks[id(weight)] for name, weight in model.named_parameters() if id(weight) in masks
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", (*EXACT, "opt", "gpt_neox"))
def test_the_chosen_neurons_move_and_nothing_else_does(name: str, kind: str, tokenizer: Any):
    model = helpers.tiny_lens(name, kind, tokenizer=tokenizer)
    neurons = chosen(model)
    before = {key: weight.detach().clone() for key, weight in model.named_parameters()}
    finetune(model, helpers.toy_task(), neurons, DECAYING, keep=True)
    masks = selected(model, neurons)
    assert len(masks) == sum(len(layer.parameters) for layer in view(model).layers)
    fused = {id(p) for k, p in model.named_parameters() if "gate_up_proj" in k}  # holds its parts
    for key, weight in model.named_parameters():
        if key in masks:
            moved = weight != before[key]
            assert not moved[~masks[key]].any(), key
            assert moved[masks[key]].float().mean() > 0.99, key
        elif id(weight) not in fused:
            # As bytes: a HookedTransformer's unused position embedding holds whatever was there.
            assert torch.equal(weight.detach().view(torch.int32), before[key].view(torch.int32)), (
                key
            )


def plain_way(model: Any, neurons: NeuronSet, training: Training) -> dict[str, torch.Tensor]:
    """Full gradients by autograd, cut to the chosen neurons, and AdamW as it comes."""
    model_view = view(model)
    items = training_items(model_view, [helpers.toy_task()], Prompt())
    index = neurons.layers()
    names = [
        (layer.index, part, 1 if part in ("W_in", "W_gate") else 0)
        for layer in model_view.layers
        for part in layer.parameters
        if layer.index in index
    ]
    slices = {
        f"{i}/{part}": model_view.layers[i].parameters[part].oriented.index_select(axis, index[i])
        for i, part, axis in names
    }
    optimiser = torch.optim.AdamW(
        slices.values(), lr=training.lr, betas=training.betas, weight_decay=training.weight_decay
    )
    assert training.steps is not None
    for step in range(training.steps):
        model.zero_grad()
        losses = []
        for item in items:  # one row each: nothing to pad
            ids = torch.tensor([item.prompt + item.answer])
            table = model(ids)[0, :-1].log_softmax(-1)
            picked = table.gather(1, ids[0, 1:, None])[-len(item.answer) :]
            losses.append(-picked.mean())
        torch.stack(losses).mean().backward()
        for i, part, axis in names:
            parameter = model_view.layers[i].parameters[part]
            gradient = parameter.parameter.grad
            assert gradient is not None
            slices[f"{i}/{part}"].grad = gradient.movedim(parameter.axis, axis).index_select(
                axis, index[i]
            )
        if training.clip is not None:
            torch.nn.utils.clip_grad_norm_(slices.values(), training.clip)
        for group in optimiser.param_groups:
            group["lr"] = training.rate(step, training.steps)
        optimiser.step()
        for i in index:
            own = {part: slices[f"{i}/{part}"] for j, part, _ in names if j == i}
            model_view.write(i, index[i], own)
    return slices


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EXACT)
def test_the_way_is_that_of_a_masked_full_gradient(name: str, kind: str, tokenizer: Any):
    training = replace(DECAYING, batch_size=8, lr=3e-3, clip=0.5)  # all examples in every step
    model = helpers.tiny_lens(name, kind, tokenizer=tokenizer)
    neurons = chosen(model)
    start = read_slices(view(model), neurons)
    delta = finetune(model, helpers.toy_task(), neurons, training)
    wanted = plain_way(model, neurons, training)
    assert delta.trained.keys() == wanted.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(delta.trained[key], value, atol=1e-5, rtol=0)
        assert (value - start[key]).abs().max() > 2e-3, key


@pytest.mark.needs("hooked")
@pytest.mark.parametrize("name", EXACT)
def test_both_classes_agree(name: str, tokenizer: Any):
    models = helpers.both_classes(helpers.tiny_hf(name), tokenizer)
    training = replace(DECAYING, lr=3e-3)
    one, other = (
        finetune(model, helpers.toy_task(), chosen(model), training) for model in models.values()
    )
    assert one.fingerprint == other.fingerprint
    for key, value in one.trained.items():
        torch.testing.assert_close(other.trained[key], value, atol=1e-5, rtol=0)
    assert list(one.history["loss"]) == pytest.approx(list(other.history["loss"]), abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_weights_are_rounded_float32_masters(kind: str, tokenizer: Any):
    model = helpers.both_classes(helpers.tiny_hf("llama"), tokenizer, torch.bfloat16)[kind]
    neurons = chosen(model)
    start = read_slices(view(model), neurons)
    # Steps far smaller than bfloat16 can hold: the masters keep them all the same.
    delta = finetune(
        model, helpers.toy_task(), neurons, Training(lr=1e-5, steps=3, warmup=0.0), keep=True
    )
    now = read_slices(view(model), neurons)
    for key, master in delta.trained.items():
        assert master.dtype == torch.float32 and now[key].dtype == torch.bfloat16
        assert torch.equal(now[key], master.to(torch.bfloat16))
        assert (master != start[key].float()).float().mean() > 0.99
        assert (now[key] == start[key]).float().mean() > 0.9


def test_training_learns_and_keep_leaves_it_in_the_model(tokenizer: Any):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    neurons = chosen(model, 1.0)
    before = view(model).fingerprint
    delta = finetune(model, helpers.toy_task(), neurons, Training(lr=1e-2, steps=40))
    assert view(model).fingerprint == before
    assert delta.history["loss"].iloc[-1] < 0.2 * delta.history["loss"][0]
    assert delta.info["steps"] == 40 and delta.info["tasks"] == ["toy"]
    again = finetune(model, helpers.toy_task(), neurons, Training(lr=1e-2, steps=40), keep=True)
    held = read_slices(view(model), neurons)
    assert all(torch.equal(held[k], again.trained[k]) for k in held)
    assert all(torch.equal(delta.trained[k], again.trained[k]) for k in held)


def state(model: Any) -> dict[str, Any]:
    """All that training must leave as it was."""
    return {
        "weights": {n: p.detach().clone() for n, p in model.named_parameters()},
        "gradients": {n: None if p.grad is None else p.grad.clone()
                      for n, p in model.named_parameters()},
        "flags": [p.requires_grad for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
                  for m in model.modules()],
    }  # fmt: skip


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    return one == other


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("failure", [None, KeyboardInterrupt, RuntimeError])
def test_the_model_is_as_it_was(kind: str, failure: Any, tokenizer: Any, monkeypatch):
    model = helpers.tiny_lens("llama", kind, tokenizer=tokenizer)
    model.train()
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 3 != 0)
        if i % 2:
            parameter.grad = torch.full_like(parameter, float(i))
    neurons = chosen(model)
    model(torch.zeros(1, 2, dtype=torch.long))  # a bridge attaches hooks of its own at first
    before = state(model)
    real, calls = NeuronTrainee.write, []

    def write(self: NeuronTrainee) -> None:
        real(self)
        calls.append(None)
        if failure is not None and len(calls) == 3:
            raise failure("no more")

    monkeypatch.setattr(NeuronTrainee, "write", write)
    if failure is None:
        finetune(model, helpers.toy_task(), neurons, DECAYING)
    else:
        with pytest.raises(failure, match="no more"):
            finetune(model, helpers.toy_task(), neurons, DECAYING, keep=True)
    assert len(calls) >= 3
    after = state(model)
    assert [key for key in before if not equal(before[key], after[key])] == []


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_gradient_mode_does_not_matter(mode: Any, tokenizer: Any):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    neurons = chosen(model)
    wanted = finetune(model, helpers.toy_task(), neurons, DECAYING)
    with mode():
        found = finetune(model, helpers.toy_task(), neurons, DECAYING)
    assert all(torch.equal(found.trained[k], wanted.trained[k]) for k in wanted.trained)


# Bad input


def test_an_empty_set_and_no_task_are_refused(tokenizer: Any):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    neurons = chosen(model)
    with pytest.raises(ValueError, match="no neuron to train"):
        finetune(model, helpers.toy_task(), neurons - neurons)
    with pytest.raises(ValueError, match="no task"):
        finetune(model, [], neurons)
    with pytest.raises(ValueError, match="train split of task 'toy' is empty"):
        finetune(model, replace(helpers.toy_task(), train=()), neurons)


def test_neurons_of_another_model_are_refused_with_both_fingerprints(tokenizer: Any):
    model, other = (helpers.tiny_lens("llama", seed=s, tokenizer=tokenizer) for s in (0, 1))
    with pytest.raises(ValueError) as caught:
        finetune(model, helpers.toy_task(), chosen(other))
    for each in (model, other):
        assert view(each).fingerprint in str(caught.value)


def test_a_bridge_with_folded_weights_is_refused(tokenizer: Any):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    model.enable_compatibility_mode(disable_warnings=True, no_processing=True)
    finetune(model, helpers.toy_task(), chosen(model), Training(steps=1))  # nothing was folded
    folded = helpers.tiny_lens("llama", tokenizer=tokenizer)
    folded.enable_compatibility_mode(disable_warnings=True)
    with pytest.raises(ValueError, match=r"enable_compatibility_mode.*layer norms are folded"):
        finetune(folded, helpers.toy_task(), chosen(folded))


@pytest.mark.needs("hooked")
def test_a_hooked_transformer_with_folded_weights_is_refused(tokenizer: Any):
    model = helpers.tiny_lens("llama", "hooked", tokenizer=tokenizer)
    weights = copy.deepcopy(model.state_dict())
    model.load_and_process_state_dict(weights, fold_ln=True)
    with pytest.raises(ValueError, match=r"normalization_type 'RMSPre'.*layer norms are folded"):
        finetune(model, helpers.toy_task(), chosen(model))


def test_quantised_weights_are_refused(tokenizer: Any):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    neurons = chosen(model)
    linear = model.blocks[0].mlp.out.original_component
    linear.weight = torch.nn.Parameter(linear.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match="quantised"):
        finetune(model, helpers.toy_task(), neurons)


def test_an_mlp_that_is_bypassed_is_noticed(tokenizer: Any):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    neurons = chosen(model)
    object.__setattr__(model.blocks[1].mlp, "forward", lambda hidden: hidden)
    with pytest.raises(RuntimeError, match=r"never reached 1/"):
        finetune(model, helpers.toy_task(), neurons, Training(steps=1))


@pytest.mark.parametrize("factor", [5.0, -0.1, float("nan")])
def test_updates_are_scaled_by_factors_from_0_to_1(factor: float, tokenizer: Any):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    scales = torch.full(view(model).shape, factor)
    with pytest.raises(ValueError, match=f"update_scale has {factor:g}; .* from 0 to 1"):
        finetune(model, helpers.toy_task(), chosen(model), update_scale=scales)
