"""GradDrop against plain PyTorch: one layer's modules at a time give nothing to the gradient."""

from typing import Any

import helpers
import pytest
import torch
from micro import item, lens, one_layer, snapshot, two_layers, unchanged, words
from torch import Tensor

import tl_taskneurons as tn
from tl_taskneurons.tasks.prompts import Item

HOOKED = pytest.param("hooked", marks=pytest.mark.needs("hooked"))
ITEM = Item(0, (5, 6, 7), (8,), ())
# Modules of a Hugging Face layer: what it adds to the residual stream, and what reads neurons.
PARTS = {
    "llama": ("model.layers", ("self_attn", "mlp"), "mlp.down_proj"),
    "gpt2": ("transformer.h", ("attn", "mlp"), "mlp.c_proj"),
}


def by_hand(name: str, dropped: int | None) -> Tensor:
    """|gradient * activation| of the loss, without gradients through one layer's two modules."""
    hf = helpers.tiny_hf(name, **LAYERS[name]).requires_grad_(False)
    where, adding, reading = PARTS[name]
    layers: Any = hf.get_submodule(where)
    kept: list[Tensor] = []

    def keep(_module: Any, args: tuple[Tensor]) -> tuple[Tensor]:
        kept.append(args[0] if args[0].requires_grad else args[0].requires_grad_())
        return (kept[-1],)

    def stop(_module: Any, _args: Any, output: Any) -> Any:
        return output.detach() if isinstance(output, Tensor) else (output[0].detach(), *output[1:])

    for layer in layers:
        layer.get_submodule(reading).register_forward_pre_hook(keep)
    if dropped is not None:
        for part in adding:
            layers[dropped].get_submodule(part).register_forward_hook(stop)
    logits = hf(torch.tensor([[*ITEM.prompt, *ITEM.answer]])).logits[0, len(ITEM.prompt) - 1]
    loss = logits.logsumexp(-1) - logits[ITEM.answer[0]]
    gradients = torch.autograd.grad(loss, kept, allow_unused=True)
    rows = [
        torch.zeros_like(a[0, 0]) if g is None else (g * a).sum((0, 1)).abs()
        for g, a in zip(gradients, kept, strict=True)
    ]
    return torch.stack(rows).detach()


LAYERS: dict[str, dict[str, Any]] = {"llama": {"num_hidden_layers": 3}, "gpt2": {"n_layer": 3}}


@pytest.mark.parametrize("kind", ["bridge", HOOKED])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_grad_drop_is_the_mean_over_layers_left_out(name: str, kind: str, tokenizer: Any):
    model = helpers.tiny_lens(name, kind, tokenizer=tokenizer, **LAYERS[name])
    # A neuron's own layer left out leaves it nothing, so two of three layers count.
    expected = sum(by_hand(name, dropped) for dropped in range(3)) / 2
    assert isinstance(expected, Tensor)
    before = snapshot(model)
    found = tn.score_items(model, [ITEM], "grad_drop")
    assert unchanged(model, before)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    plain = tn.score_items(model, [ITEM])
    torch.testing.assert_close(plain[-1], found[-1], rtol=1e-4, atol=1e-6)  # nothing is above it
    assert (plain[0] - found[0]).abs().max() > 0.05 * plain[0].max()
    some = tn.score_items(model, [ITEM], "grad_drop", layers=[1])
    torch.testing.assert_close(some[1], found[1], rtol=1e-4, atol=1e-6)
    assert not some[[0, 2]].any()


def test_effects_that_cancel_are_found_on_paper():
    """The lower neuron writes -ln3/2 to logit a itself, and the upper one undoes that."""
    model = two_layers()
    with torch.no_grad():
        model.blocks[0].mlp.W_out[0, 0] = -float(model.blocks[1].mlp.W_out[0, 0])
    first = [item((0,), (0,))]
    plain, dropped = (tn.score_items(model, first, method) for method in ("grad_act", "grad_drop"))
    assert plain[0].item() == pytest.approx(0.0, abs=1e-6) and dropped[0].item() > 0.05
    single = one_layer()  # one layer alone: nothing can be left out
    torch.testing.assert_close(
        tn.score_items(single, first, "grad_drop"), tn.score_items(single, first)
    )


def test_what_it_can_t_answer(tokenizer: Any):
    model = lens("gpt2", "bridge", tokenizer)
    with pytest.raises(ValueError, match="'grad_drop' can't answer .*it has no sign"):
        tn.score_neurons(model, words(3), "grad_drop", signed=True)
    with pytest.raises(ValueError, match="metric 'rank' has no gradient"):
        tn.score_neurons(model, words(3), "grad_drop", metric="rank")
    small = tn.score_neurons(model, words(5), "grad_drop", token_budget=30)
    torch.testing.assert_close(
        small.values, tn.score_neurons(model, words(5), "grad_drop").values, rtol=1e-3, atol=1e-6
    )
