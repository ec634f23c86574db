"""Every architecture that is said to be supported, built and compared with plain PyTorch.

``python tests/architectures.py`` writes the table of docs/supported_models.md.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helpers
import torch
import transformers
from torch import nn

import tl_taskneurons as tn
from tl_taskneurons.models.agreement import all_gaps, probe_rows, reference
from tl_taskneurons.models.forward import frozen
from tl_taskneurons.models.layers import neuron_axis
from tl_taskneurons.models.view import ModelView
from tl_taskneurons.tasks.prompts import Item
from tl_taskneurons.training.loop import update
from tl_taskneurons.training.neuron_trainee import NeuronTrainee
from tl_taskneurons.training.slices import SliceName, read_slices

PAGE = Path(__file__).parents[1] / "docs" / "supported_models.md"
LIMIT = 1e-4

_H: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_L: dict[str, Any] = {**_H, "intermediate_size": 48, "num_key_value_heads": 2}
_D: dict[str, Any] = {**_L, "head_dim": 8}
_W: dict[str, Any] = {"sliding_window": 8}
_G: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48}

# transformers' prefix, to the arguments of its config.
SUPPORTED: dict[str, dict[str, Any]] = {
    "Apertus": _L,
    "Arcee": _L,
    "Bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "CodeGen": {**_G, "rotary_dim": 4},
    "Ernie4_5": _D,
    "Exaone4": {**_L, **_W},
    "Falcon": {**_H, "ffn_hidden_size": 48},
    "Gemma": _D,
    "Gemma2": {**_D, **_W},
    "Gemma3": {**_D, **_W},
    "Glm": _D,
    "Glm4": _D,
    "GPT2": _G,
    "GPTBigCode": _G,
    "GPTJ": {**_G, "rotary_dim": 4},
    "GPTNeo": {
        "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48,
        "attention_types": [[["global", "local"], 1]], "window_size": 8,
    },
    "GPTNeoX": {**_H, "intermediate_size": 48},
    "Granite": _L,
    "Jais2": _L,
    "Lfm2": {**_L, "layer_types": ["full_attention"] * 2, "block_auto_adjust_ff_dim": False},
    "Llama": _L,
    "Mistral": {**_L, **_W},
    "Mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
    "Nemotron": _L,
    "Olmo": _L,
    "Olmo2": _L,
    "Olmo3": {**_L, **_W},
    "OPT": {**_H, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "Phi": {**_H, "intermediate_size": 48},
    "Phi3": {**_L, **_W},
    "Qwen2": _L,
    "Qwen3": _D,
    "SeedOss": _D,
    "SmolLM3": _L,
    "StableLm": _L,
    "Starcoder2": {**_L, **_W},
    "VaultGemma": {**_D, **_W},
    "XGLM": {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48},
}  # fmt: skip
HOOKED = (
    "Apertus", "Bloom", "GPT2", "GPTJ", "GPTNeo", "GPTNeoX", "Llama", "Mistral", "Olmo3", "OPT",
    "Phi3", "Qwen2", "Qwen3",
)  # fmt: skip
# What TransformerLens builds and gets wrong is refused by load_model.
_WRONG = (
    ("OpenAIGPT", "3.9 and 4.3"), ("Cohere", "3.9"), ("Cohere2", "3.9"), ("HunYuanDenseV1", "3.9"),
)  # fmt: skip
_SPECIAL = {"vocab_size": 264, "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258}


def tiny(name: str) -> Any:
    """A random Hugging Face model whose every weight matters."""
    config_name = "Gemma3Text" if name == "Gemma3" else name
    config = getattr(transformers, f"{config_name}Config")(**{**_SPECIAL, **SUPPORTED[name]})
    model_class = getattr(transformers, f"{name}ForCausalLM", None)
    if model_class is None:
        model_class = getattr(transformers, f"{name}LMHeadModel")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config)
        model.set_attn_implementation("eager")
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 2:
                    weight.normal_(std=0.2)
                elif weight.ndim == 1:
                    weight.add_(0.1 * torch.randn_like(weight))
    return model.eval()


@dataclass(frozen=True)
class Audit:
    """The largest differences between a TransformerLens model and plain PyTorch on Hugging Face's.

    Attributes:
        plain: log-probabilities, each input alone, in nats.
        padded: log-probabilities in padded batches, in nats.
        cached: log-probabilities with a key-value cache, in nats.
        loss: an evaluated answer's loss, in nats.
        scores: scores of neurons, as a part of the highest.
        silenced: log-probabilities with neurons silenced, in nats.
        trained: weights of neurons after an update, as a part of the longest move.
    """

    plain: float
    padded: float
    cached: float
    loss: float
    scores: float
    silenced: float
    trained: float


def audit(name: str, kind: str = "bridge") -> Audit:
    """Build an architecture and compare all that this library does with plain PyTorch."""
    hf = tiny(name)
    rows = probe_rows(264)
    expected = reference(hf, rows)
    model = tn.load_model(copy.deepcopy(hf), kind=kind, device="cpu")
    found = tn.view(model)
    gaps = all_gaps(found, rows, expected)
    outs = [_down_projection(hf, layer.parameters["W_out"].oriented) for layer in found.layers]
    prompt, answer = tuple(rows[0][:-2]), tuple(rows[0][-2:])
    loss, scores = _plain_scores(hf, outs, prompt, answer)
    item = Item(0, prompt, answer, ())
    ours = tn.score_items(model, [item])
    pairs = [(0, 3), (0, 11), (1, 40)]
    neurons = tn.NeuronSet.from_pairs(model, pairs)
    with tn.deactivate(model, neurons), torch.no_grad():
        silenced = model(torch.tensor([rows[0]]))[0].log_softmax(-1)
    off = copy.deepcopy(hf)
    with torch.no_grad():
        for layer, j in pairs:
            weight, axis = outs[layer]
            off.get_parameter(weight).select(axis, j).zero_()
    scored = -expected[0][-3:-1].gather(1, torch.tensor(answer)[:, None]).mean()
    return Audit(
        gaps.plain, max(gaps.left, gaps.right), gaps.cached, abs(loss - scored.item()),
        ((ours.abs() - scores.abs()).abs().max() / scores.abs().max()).item(),
        (silenced - reference(off, rows)[0]).abs().max().item(),
        _training_error(hf, found, item, neurons),
    )  # fmt: skip


def _training_error(hf: Any, found: ModelView, item: Item, neurons: tn.NeuronSet) -> float:
    """An update's distance from the one of Hugging Face's full gradients, which ``hf`` holds.

    By gradient descent: AdamW's first step is the sign of the gradient, whatever its size.
    """
    trainee = NeuronTrainee(found, neurons)
    start = read_slices(found, neurons)
    optimiser = torch.optim.SGD(trainee.parameters)
    with frozen(found.model), trainee.attached():
        update(found, trainee, optimiser, [item], tn.Training(clip=None), rate=1.0)
        end = read_slices(found, neurons)
    worst, longest = 0.0, 0.0
    for name, before in start.items():
        layer, part = SliceName.parse(name)
        values = found.layers[layer].parameters[part].oriented
        if part == "b_in" and not values.any():
            continue  # a bias that only TransformerLens has
        whole = _gradient(hf, values)
        wanted = -whole.index_select(neuron_axis(part), neurons.layers()[layer])
        worst = max(worst, (end[name] - before - wanted).abs().max().item())
        longest = max(longest, wanted.abs().max().item())
    return worst / longest


def _gradient(hf: Any, values: torch.Tensor) -> torch.Tensor:
    """The gradient of the parameter, or of the half of a fused one, that holds some values."""
    for weight in hf.parameters():
        for cut in (slice(None), slice(len(weight) // 2), slice(len(weight) // 2, None)):
            for turned in (False, True):
                piece = weight[cut].T if turned and weight.ndim == 2 else weight[cut]
                if torch.equal(piece, values):
                    return weight.grad[cut].T if turned and weight.ndim == 2 else weight.grad[cut]
    raise ValueError("no parameter of the Hugging Face model has these values")


def _down_projection(hf: Any, w_out: torch.Tensor) -> tuple[str, int]:
    """The parameter that holds W_out, and the axis of its neurons."""
    for name, parameter in hf.named_parameters():
        if parameter.shape == w_out.shape and torch.equal(parameter, w_out):
            return name, 0
        if parameter.shape == w_out.T.shape and torch.equal(parameter, w_out.T):
            return name, 1
    raise ValueError("no parameter of the Hugging Face model is W_out")


def _plain_scores(
    hf: Any, outs: list[tuple[str, int]], prompt: tuple[int, ...], answer: tuple[int, ...]
) -> tuple[float, torch.Tensor]:
    """The loss of an answer, and gradient times activation summed over positions, by autograd."""
    seen: list[torch.Tensor] = []

    def keep(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        args[0].retain_grad()
        seen.append(args[0])

    modules = [hf.get_submodule(name.rpartition(".")[0]) for name, _ in outs]
    handles = [module.register_forward_pre_hook(keep) for module in modules]
    try:
        logits = hf(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0]
        picked = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        loss = -picked.gather(1, torch.tensor(answer)[:, None]).mean()
        loss.backward()
    finally:
        for handle in handles:
            handle.remove()
    pairs = [(act, act.grad) for act in seen if act.grad is not None]
    products = [(act * grad).reshape(-1, act.shape[-1]).sum(0) for act, grad in pairs]
    return loss.item(), torch.stack(products).detach()


def page() -> str:
    """The text of the page of supported models."""
    lines = [
        "# Supported models",
        "",
        "Decoder-only models with plain or gated MLPs. Each architecture here is built by a test,",
        "in every class that TransformerLens has for it, and compared with plain PyTorch on the",
        "Hugging Face model: log-probabilities (alone, padded, with a key-value cache, beyond",
        "sliding windows), losses, scores, silenced neurons and a training step differ by at most",
        f"{LIMIT:g}.",
        "",
        "| Architecture | TransformerBridge | HookedTransformer (3.9) | remark |",
        "|---|---|---|---|",
    ]
    for name in sorted(SUPPORTED, key=str.lower):
        remark = "in 3.9 its key-value cache is wrong and not used" if name == "Mpt" else ""
        lines.append(f"| {name} | yes | {'yes' if name in HOOKED else 'no'} | {remark} |")
    lines += [
        "",
        "`load_model` refuses what TransformerLens builds but computes otherwise than",
        "Hugging Face:",
        *(f"{name} (in {versions})," for name, versions in _WRONG),
        "and whatever else its check at loading finds. Also refused, by name: mixtures of experts,",
        "Mamba and RWKV, encoders, attention-only models, quantised weights, SoLU with layer norm.",
        "",
        "A model that you built yourself is checked by `tn.check_model(model, hf)`.",
        "",
        "This page is written by `python tests/architectures.py`.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    assert helpers  # the tests' folder is on the path
    PAGE.write_text(page(), encoding="utf-8")
