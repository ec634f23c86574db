"""Relevance patching against rules written out by hand, and integrated gradients along inputs."""

from typing import Any

import helpers
import pytest
import torch
import transformers
from micro import lens, snapshot, unchanged
from torch import Tensor

import tl_taskneurons as tn
from tl_taskneurons.models.forward import frozen
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.relp import relevance_rules
from tl_taskneurons.tasks.prompts import Item

HOOKED = pytest.param("hooked", marks=pytest.mark.needs("hooked"))
ITEMS = [Item(0, (5, 6, 7), (8,), ()), Item(1, (5, 6, 7, 12), (13,), ())]
SUPPORTED = ("llama", "qwen2", "gemma", "gemma2", "gpt2", "bloom")
CLASSES = [(name, "bridge") for name in SUPPORTED] + [
    pytest.param(name, "hooked", marks=pytest.mark.needs("hooked"))
    for name in SUPPORTED
    if name in helpers.HOOKED_ARCHITECTURES
]


def logit(logits: Tensor, item: Item) -> Tensor:
    return logits[0, item.answer[0]]


def without_biases(name: str) -> transformers.PreTrainedModel:
    hf = helpers.tiny_hf(name)
    with torch.no_grad():
        for key, weight in hf.named_parameters():
            if key.endswith("bias"):
                weight.zero_()
    return hf


@pytest.mark.parametrize(("name", "kind"), CLASSES)
def test_relevance_is_conserved(name: str, kind: str):
    """Without biases, what reaches the first residual stream is the logit that was started from."""
    overrides: Any = {"final_logit_softcapping": None} if name == "gemma2" else {}
    hf = without_biases(name) if not overrides else helpers.tiny_hf(name, **overrides)
    model = helpers.load_model(hf, kind=kind, device="cpu")
    tokens = torch.tensor([[5, 6, 7, 9]])
    streams: list[Tensor] = []

    def start(activation: Tensor, hook: Any) -> Tensor:
        streams.append(activation.detach().requires_grad_())
        return streams[0]

    hooks: Any = [("blocks.0.hook_resid_pre", start)]
    with frozen(model), model.hooks(fwd_hooks=hooks):
        plain = model(tokens)[0, -1, 3]
        (gradient,) = torch.autograd.grad(plain, streams[0])
        by_gradient = (gradient * streams.pop()).sum()
        with relevance_rules(view(model)):
            value = model(tokens)[0, -1, 3]
            (coefficient,) = torch.autograd.grad(value, streams[0])
    assert value.item() == plain.item()  # the forward pass is as ever
    relevance = (coefficient * streams[0]).sum()
    torch.testing.assert_close(relevance, value.detach(), rtol=1e-4, atol=1e-4)
    assert abs(by_gradient - plain) > 1e-2


@pytest.mark.parametrize("kind", ["bridge", HOOKED])
@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom"])
def test_the_last_layer_on_paper(name: str, kind: str, tokenizer: Any):
    """Above the last layer there is one norm, by rule a division by a constant."""
    model = lens(name, kind, tokenizer)
    found = tn.score_items(model, ITEMS, "relp", metric=logit, signed=True)[-1]
    expected = torch.zeros_like(found)
    layer = view(model).layers[-1]
    for item in ITEMS:
        with torch.no_grad():
            _, cache = model.run_with_cache(torch.tensor([[*item.prompt, *item.answer]]))
        place = len(item.prompt) - 1
        stream = cache["blocks.1.hook_resid_post"][0, place]
        if name != "llama":
            stream = stream - stream.mean()
        scale = stream.square().mean().sqrt()
        out = layer.parameters["W_out"].oriented
        if name != "llama":
            out = out - out.mean(1, keepdim=True)
        w = model.ln_final.w if kind == "hooked" else model.ln_final.weight
        direct = (out * w / scale) @ model.W_U[:, item.answer[0]]
        expected -= cache[layer.hook][0, place] * direct.detach()
    torch.testing.assert_close(found, expected / len(ITEMS), rtol=1e-3, atol=1e-4)


def by_hand(model: Any, tokens: Tensor, answer: int) -> Tensor:
    """Relevance of a Llama's neurons in its first layer, all rules written out."""
    hf = model.original_model
    module: Any = transformers.models.llama.modeling_llama
    posts: list[Tensor] = []

    def norm(self: Any, x: Tensor) -> Tensor:
        scale = (x.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt().detach()
        return self.weight * x * scale

    def mlp(self: Any, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)
        sigmoid = gate.sigmoid().detach()  # silu(gate) = gate * sigmoid(gate)
        half = (gate * sigmoid * up.detach() + (gate * sigmoid).detach() * up) / 2
        posts.append(half if half.requires_grad else half.requires_grad_())
        posts[-1].retain_grad()
        return self.down_proj(posts[-1])

    plain = module.eager_attention_forward

    def attention(owner: Any, q: Tensor, k: Tensor, *rest: Any, **options: Any) -> Any:
        return plain(owner, q.detach(), k.detach(), *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.LlamaRMSNorm, "forward", norm)
        patch.setattr(module.LlamaMLP, "forward", mlp)
        patch.setattr(module, "eager_attention_forward", attention)
        hf(tokens).logits[0, -2, answer].backward()
    grad = posts[0].grad
    assert grad is not None
    return -(grad * posts[0]).sum((0, 1)).detach()


def test_a_lower_layer_against_plain_pytorch(tokenizer: Any):
    hf = helpers.tiny_hf("llama")
    hf.config._attn_implementation = "eager"
    model = lens("llama", "bridge", tokenizer)
    found = tn.score_items(model, ITEMS[:1], "relp", metric=logit, signed=True)[0]

    class Plain:
        original_model = hf.requires_grad_(False)

    expected = by_hand(Plain, torch.tensor([[5, 6, 7, 8]]), 8)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    gradient = tn.score_items(model, ITEMS[:1], metric=logit, signed=True)[0]
    assert (gradient - expected).abs().max() > 0.1 * expected.abs().max()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_silenced_neurons_stay_silent(name: str, tokenizer: Any):
    model = lens(name, "bridge", tokenizer)
    silent = tn.NeuronSet.from_pairs(model, [(1, j) for j in range(20)])
    with tn.deactivate(model, silent):
        found = tn.score_items(model, ITEMS, "relp", signed=True)
    with tn.deactivate(model, silent, how="weights"):
        expected = tn.score_items(model, ITEMS, "relp", signed=True)
    expected[silent.mask] = 0.0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_model_is_as_it_was_and_others_are_refused_by_name(tokenizer: Any):
    model = lens("llama", "bridge", tokenizer)
    before = snapshot(model)
    tn.score_items(model, ITEMS, "relp")
    assert unchanged(model, before)
    with pytest.raises(ValueError, match="'relp' has no rules for Phi3ForCausalLM; it has them"):
        tn.score_items(lens("phi3", "bridge", tokenizer), ITEMS, "relp")


@pytest.mark.parametrize("ablation", ["zero", "counterfactual"])
def test_integrated_gradients_along_inputs_against_plain_pytorch(ablation: str, tokenizer: Any):
    model, hf = lens("llama", "bridge", tokenizer), helpers.tiny_hf("llama").requires_grad_(False)
    item = Item(0, (5, 6, 7), (8,), (), (), (5, 11, 7))
    options: Any = {"metric": logit, "ablation": ablation, "signed": True, "steps": 3}
    found = tn.score_items(model, [item], "ig_inputs", **options)

    def run(embeddings: Tensor) -> tuple[Tensor, list[Tensor]]:
        kept: list[Tensor] = []

        def keep(_module: Any, args: tuple[Tensor]) -> tuple[Tensor]:
            kept.append(args[0] if args[0].requires_grad else args[0].requires_grad_())
            return (kept[-1],)

        handles = [layer.mlp.down_proj.register_forward_pre_hook(keep) for layer in hf.model.layers]
        logits = hf(inputs_embeds=embeddings).logits[0, 2, 8]
        for handle in handles:
            handle.remove()
        return logits, kept

    embed = hf.get_input_embeddings()
    own = embed(torch.tensor([[5, 6, 7, 8]]))
    start = torch.zeros_like(own)
    removed = [a.detach() for a in run(own)[1]]
    if ablation == "counterfactual":
        start = embed(torch.tensor([[5, 11, 7, 8]]))
        removed = [a - b.detach() for a, b in zip(removed, run(start)[1], strict=True)]
    expected = torch.zeros_like(found)
    for step in range(3):
        value, kept = run(start + (own - start) * (step + 0.5) / 3)
        for layer, gradient in enumerate(torch.autograd.grad(value, kept)):
            expected[layer] -= (gradient * removed[layer]).sum((0, 1)) / 3
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
