"""What a model is: a fingerprint of all that decides its forward pass.

Two questions with two answers. *Has anything changed?* is asked at every use, so it reads the
bytes of every weight and buffer as fast as memory gives them: version counters and addresses stay
the same under fused optimisers and edits of ``parameter.data``. *Which model is it?* is worked out
only after a change, from bfloat16 bits and Hugging Face's names, so that one model in float32 and
in bfloat16, as HookedTransformer and as TransformerBridge, is one.

A fingerprint is ``{n_layers}x{d_mlp}-{neurons}-{rest}``: 16 hexadecimal digits for the neurons'
weights, 16 for everything else.
"""

import json
import re
import warnings
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import xxhash
from torch import Tensor

from tl_taskneurons.models.digests import digest, digests, span
from tl_taskneurons.models.layers import NeuronParameter
from tl_taskneurons.models.protocol import LanguageModel

# Position-dependent odd multipliers make a hash of integers sensitive to order; fixed, they make it
# the same everywhere.
_HASH_SEED = 20_240_706
_KEPT = 16
# What of a config changes the forward pass without changing a weight. Listed, because the rest of
# a config differs between versions of transformers.
_CONFIG = (
    "activation_function", "alibi", "attention_multiplier", "attn_logit_softcapping", "attn_scale",
    "embedding_multiplier", "eps", "final_logit_softcapping", "hidden_act", "hidden_activation",
    "layer_norm_eps", "layer_norm_epsilon", "layer_types", "logit_scale", "logits_scaling",
    "norm_epsilon", "num_attention_heads", "num_key_value_heads", "partial_rotary_factor",
    "query_pre_attn_scalar", "residual_multiplier", "rms_norm_eps", "rope_parameters",
    "rotary_base", "rotary_dim", "rotary_pct", "scale_attn_by_inverse_layer_idx", "sliding_window",
    "use_parallel_residual", "window_size",
)  # fmt: skip
# The same, told only where it is not as usual.
_USUAL = {
    "apply_residual_connection_post_layernorm": False, "clip_qkv": None,
    "do_layer_norm_before": True, "no_rope_layers": None, "parallel_attn": None,
    "scale_attn_weights": True,
    # Of a HookedTransformer.
    "act_fn": None, "attention_dir": "causal", "attn_scores_soft_cap": -1.0, "attn_types": None,
    "final_rms": False, "normalization_type": None, "output_logits_soft_cap": -1.0,
    "parallel_attn_mlp": False, "positional_embedding_type": None, "post_embedding_ln": False,
    "rotary_adjacent_pairs": False, "rotary_base_local": None, "rotary_scaling_factor": 1.0,
    "use_attention_sinks": False, "use_attn_scale": True, "use_dynamic_ntk_rope": False,
    "use_local_attn": False, "use_logn_attn": False, "use_NTK_by_parts_rope": False,
    "use_normalization_before_and_after": False, "use_yarn_rope": False,
}  # fmt: skip
# Rotary frequencies that such a model computes again for every input.
_MOVING_ROPE = ("dynamic", "longrope")
_OLD_FORM = re.compile(r"\d+x\d+-[0-9a-f]{16}")


@dataclass
class _Memory:
    """What is known of one model.

    Attributes:
        prints: what its bytes were at times, to its fingerprint then; the latest last.
        parts: what a tensor's bytes are, to its hash.
        rest: digest of the bytes beside the neurons when first seen, and their hash.
    """

    prints: dict[str, str] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)
    rest: tuple[str, int] | None = None


@dataclass(frozen=True)
class _State:
    """A model's tensors at one moment.

    Attributes:
        tensors: by name, those twice under two names included.
        digests: what each tensor's bytes are, and how they are laid out.
        settings: entries of the config, and adapters that are switched on.
    """

    tensors: dict[str, Tensor]
    digests: dict[str, str]
    settings: str

    def digest(self, names: Iterable[str]) -> str:
        """One digest of some tensors and of the settings."""
        told = [f"{name}:{self.digests[name]}" for name in names]
        return xxhash.xxh3_128_hexdigest("\n".join([*told, self.settings]).encode())


_known: "weakref.WeakKeyDictionary[LanguageModel, _Memory]" = weakref.WeakKeyDictionary()


def fingerprint(
    model: LanguageModel, parts: Sequence[NeuronParameter], shape: tuple[int, int]
) -> str:
    """The model's fingerprint now.

    Args:
        model: a HookedTransformer or TransformerBridge.
        parts: the neurons' parameters of every layer, in order.
        shape: ``(n_layers, d_mlp)``.
    """
    memory = _known.setdefault(model, _Memory())
    state = _state(model)
    now = state.digest(state.tensors)
    if now not in memory.prints:
        neurons, used = 0, {}
        for k, part in enumerate(parts):
            key = digest(part.parameter) + f"/{part.axis}"
            used[key] = memory.parts.get(key) or _neuron_hash(part)
            neurons = (neurons * 1_000_003 + k + used[key]) % 2**64
        rest = _rest(model, state, parts, memory, used)
        memory.parts = used
        memory.prints[now] = f"{shape[0]}x{shape[1]}-{neurons:016x}-{rest:016x}"
        while len(memory.prints) > _KEPT:
            del memory.prints[next(iter(memory.prints))]
    return memory.prints[now]


def share_identity(
    model: LanguageModel, parts: Sequence[NeuronParameter],
    source: LanguageModel, source_parts: Sequence[NeuronParameter],
) -> None:  # fmt: skip
    """Tell that two models hold the same weights under different names.

    Args:
        model: what goes by the other's fingerprint as long as its weights beside the neurons
            are what they are now.
        parts: its neurons' parameters.
        source: a TransformerBridge of the same weights.
        source_parts: its neurons' parameters.
    """
    memory = _known.setdefault(model, _Memory())
    value = _rest(source, _state(source), source_parts, _Memory(), {})
    state = _state(model)
    memory.prints.clear()
    memory.rest = state.digest(_outside(state, parts)), value


def same_model(first: str, second: str) -> bool:
    """Whether two fingerprints are of one model.

    A fingerprint of the form before this one covered the neurons' weights alone; where these are
    the same, it matches, and a warning says what it leaves open.
    """
    if first == second:
        return True
    old, new = sorted((first, second), key=len)
    if _OLD_FORM.fullmatch(old) and new.startswith(f"{old}-"):
        warnings.warn(
            f"The fingerprint {old} was saved by an earlier version and covers the weights of the "
            f"MLPs only; they are those of {new}, but attention, embeddings and norms were not "
            "recorded. If you know it is the same model, .rebind(model) and save it again.",
            stacklevel=3,
        )
        return True
    return False


def _rest(
    model: LanguageModel,
    state: _State,
    parts: Sequence[NeuronParameter],
    memory: _Memory,
    used: dict[str, int],
) -> int:
    """Hash everything but the neurons' parameters."""
    outside = _outside(state, parts)
    now = state.digest(outside)
    if memory.rest is not None and memory.rest[0] == now:
        return memory.rest[1]
    first_seen = memory.rest is None
    total = _mixed(state.settings)
    for name, told in _told(model, outside, with_copies=not first_seen).items():
        key = state.digests[name]
        if key not in used:
            used[key] = memory.parts.get(key) or _hash(outside[name])
        if used[key]:
            total += _mixed(f"{told}:{used[key]:016x}")
    total %= 2**64
    if first_seen:
        memory.rest = now, total
    return total


def _mixed(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode())


def _outside(state: _State, parts: Sequence[NeuronParameter]) -> dict[str, Tensor]:
    """The tensors that hold no neuron's parameter, by name; a fused gate and up matrix does."""
    own: dict[int, list[tuple[int, int]]] = {}
    for part in parts:
        address, start, end = span(part.parameter)
        own.setdefault(address, []).append((start, end))
    outside = {}
    for name, tensor in state.tensors.items():
        address, start, end = span(tensor)
        if not any(start < b and a < end for a, b in own.get(address, ())):
            outside[name] = tensor
    return outside


def _told(model: LanguageModel, tensors: dict[str, Tensor], *, with_copies: bool) -> dict[str, str]:
    """Which tensors count for the hash, and under which of Hugging Face's names.

    A bridge wraps modules, renames some, and splits fused matrices. The parts of a fused matrix
    count only after a change (``with_copies``): before, they are what it says.
    """
    modules = dict(getattr(model, "original_model", model).named_modules())
    names: dict[str, str] = {}
    for name in tensors:
        *path, last = name.split(".")
        told, is_part = [], False
        for depth, step in enumerate(path):
            if step == "_original_component":
                continue
            module = modules.get(".".join(path[: depth + 1]))
            siblings = getattr(modules.get(".".join(path[:depth])), "_modules", {})
            is_part = is_part or (step in ("q", "k", "v") and "qkv" in siblings)
            original = getattr(module, "name", None) if hasattr(module, "original_component") else 0
            told.append(str(original).rpartition(".")[2] if original else step)
        if not is_part or with_copies:
            names[name] = ".".join([*told, last]).replace(".base_layer.", ".")
    return names


def _state(model: LanguageModel) -> _State:
    inner = getattr(model, "original_model", model)
    config = getattr(inner, "config", None) or getattr(model, "cfg", None)
    entries = {name: getattr(config, name, None) for name in _CONFIG}
    adapters = list(_active_adapters(inner))
    moving = json.dumps(entries["rope_parameters"], default=str)
    skip = any(f'"{kind}"' in moving for kind in _MOVING_ROPE)
    tensors = {
        name: tensor
        for name, tensor in _all_tensors(inner)
        if not (skip and name.endswith("inv_freq"))
        and not (name == "pos_embed.W_pos" and _has_no_positions(model))
        # An adapter that is switched off decides nothing.
        and (".lora_" not in name or any(name.startswith(where) for where, *_ in adapters))
    }
    settings = {name: value for name, value in entries.items() if value is not None} | {
        name: value
        for name, usual in _USUAL.items()
        if (value := getattr(config, name, usual)) != usual and value is not None
    }
    told = json.dumps([settings, adapters], sort_keys=True, default=str)
    return _State(tensors, digests(tensors), told)


def _has_no_positions(model: LanguageModel) -> bool:
    """Whether a HookedTransformer's embedding of positions is unused, and left uninitialised."""
    cfg = getattr(model, "cfg", None)
    return getattr(cfg, "positional_embedding_type", "") == "alibi"


def _all_tensors(model: LanguageModel) -> Iterator[tuple[str, Tensor]]:
    for prefix, module in model.named_modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    yield (f"{prefix}.{name}" if prefix else name), tensor


def _active_adapters(model: LanguageModel) -> Iterator[tuple[str, ...]]:
    """Where peft's adapters are switched on, and how."""
    for name, module in model.named_modules():
        active = getattr(module, "active_adapters", None)
        if isinstance(active, list) and hasattr(module, "get_base_layer"):
            merged = list(getattr(module, "merged_adapters", []))
            if not getattr(module, "disable_adapters", False) or merged:
                scaling = getattr(module, "scaling", {})
                yield name, str(active), str(merged), str(scaling)


def _hash(tensor: Tensor) -> int:
    """Hash a tensor's values as bfloat16; 0 for a bias of zeros, as good as none."""
    values = tensor.detach()
    if values.is_floating_point():
        values = values.to(torch.bfloat16)
    if values.ndim == 1 and not bool(values.any()):
        return 0
    octets = values.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return xxhash.xxh3_64_intdigest(octets)


def _neuron_hash(part: NeuronParameter) -> int:
    """Hash the bfloat16 bits of a parameter; integer sums are the same on every device.

    The factors follow the axes' meaning, not the storage order, so that a transposed copy of the
    same weights has the same hash.
    """
    weight = part.parameter.detach()
    rows = weight.reshape(weight.shape[0], -1)
    sizes = list(rows.shape) if part.axis == 0 else list(rows.shape)[::-1]
    generator = torch.Generator().manual_seed(_HASH_SEED)
    factors = torch.randint(
        -(2**62), 2**62, (sum(sizes),), generator=generator, device="cpu", dtype=torch.int64
    )
    by_neuron, by_other = (factors * 2 + 1).to(rows.device).split(sizes)
    by_row, by_column = (by_neuron, by_other) if part.axis == 0 else (by_other, by_neuron)
    total = 0
    for chunk, row_factors in zip(rows.split(1024), by_row.split(1024), strict=True):
        bits = chunk.to(torch.bfloat16).view(torch.int16).long()
        total += int(((bits * by_column).sum(1) * row_factors).sum())
    return total % 2**64
