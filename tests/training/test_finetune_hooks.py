"""Gradients of chosen neurons under hooks of the user's own, against plain autograd."""

from typing import Any

import helpers
import pytest
import torch

from tl_taskneurons.models.forward import answer_losses, frozen
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.tasks.prompts import Prompt
from tl_taskneurons.training.examples import one_batch, training_items
from tl_taskneurons.training.neuron_trainee import NeuronTrainee

KINDS = ["bridge", pytest.param("hooked", marks=pytest.mark.needs("hooked"))]


def double_in_place(value: torch.Tensor, hook: Any) -> torch.Tensor:
    return value.mul_(2)


HOOKS: list[Any] = [
    lambda value, hook: torch.zeros_like(value),
    lambda value, hook: torch.full_like(value, 0.3),
    lambda value, hook: -value,
    lambda value, hook: value.relu() + value.roll(1, -1),
]
POINTS = (
    "hook_pre", "hook_pre_linear", "hook_post", "hook_in", "gate.hook_in", "gate.hook_out",
    "in.hook_in", "in.hook_out", "out.hook_in",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3"])
def test_gradients_are_right_under_hooks_of_others(name: str, kind: str, tokenizer: Any):
    model = helpers.tiny_lens(name, kind, tokenizer=tokenizer)
    items = training_items(view(model), [helpers.toy_task()], Prompt())
    batch = one_batch(items, view(model))
    known = [(p, h) for p in POINTS if f"blocks.1.mlp.{p}" in model.hook_dict for h in HOOKS]
    # Autograd itself refuses what changes a matrix's input in place.
    known += [("hook_pre", double_in_place)]
    if kind == "bridge":  # of a constant in the MLP's place nothing depends on the neurons
        known += [("out.hook_out", hook) for hook in HOOKS[2:]]
    assert known
    for lowest in (0, 1):
        trainee = NeuronTrainee(
            view(model), NeuronSet.from_pairs(model, [(lowest, 3), (1, 5), (1, 7)])
        )
        for point, hook in known:
            trained = dict(trainee.masters)
            for master in trained.values():
                master.grad = None
            with model.hooks(fwd_hooks=[(f"blocks.1.mlp.{point}", hook)]):
                with frozen(model), trainee.collecting():
                    answer_losses(view(model), batch).sum().backward()
                wanted = by_autograd(model, batch)
            for key, master in trained.items():
                layer, part = int(key[0]), key[2:]
                index = trainee.masters.neurons.layers()[layer]
                axis = 1 if part in ("W_in", "W_gate") else 0
                torch.testing.assert_close(
                    master.grad, wanted[key].index_select(axis, index), atol=1e-5, rtol=1e-4,
                    msg=lambda text, at=(point, key): f"{at}: {text}",
                )  # fmt: skip


def by_autograd(model: Any, batch: Any) -> dict[str, torch.Tensor]:
    """Gradients of all neurons' weights, by autograd alone; 0 where there is none."""
    parts = {
        f"{layer.index}/{name}": part
        for layer in view(model).layers
        for name, part in layer.parameters.items()
    }
    weights = [part.parameter for part in parts.values()]
    gradients = torch.autograd.grad(
        answer_losses(view(model), batch).sum(), weights, materialize_grads=True, allow_unused=True
    )
    return {key: p.orient(g) for (key, p), g in zip(parts.items(), gradients, strict=True)}
