"""The weights of planted models: directions, embeddings, attention, neurons. See `planted`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from tl_taskneurons.builtin.mini.lexicon import words
from tl_taskneurons.tasks.task import Task

YES = words("bright sunny warm golden clear lively early fresh")
NO = words("dim cloudy cold grey misty silent late stale")

_BASE = 20.0  # the constant part of every residual stream; keeps the norm steady
_SEEN = 3.0  # cue and meaning, as the attention leaves them at the last position
_ANSWER = 8.0  # what all planted neurons of one task write together
_GATE = 8.0  # pre-activation of an open SiLU gate; a closed one has its negative
_FIRE = 2.0  # activation of a planted neuron that fires
_LOUD = 12.0  # activation of a distractor that fires
_IDLE = 0.9  # length of the vector that a distractor writes
NULLS = 8  # directions that nothing reads


@dataclass(frozen=True)
class Directions:
    """Unit vectors [d_model] of the residual stream, mutually orthogonal and of mean zero."""

    base: Tensor
    meaning: Tensor
    meaning_seen: Tensor
    answer: Tensor
    done: Tensor
    cues: Tensor
    cues_seen: Tensor
    nulls: Tensor


def directions(n_tasks: int, d_model: int, generator: torch.Generator) -> Directions:
    """Draw the directions of a model from a random orthogonal matrix."""
    random_basis = torch.randn(
        d_model, d_model, generator=generator, dtype=torch.float64, device="cpu"
    )
    random_basis[:, 0] = 1.0  # the first column takes the mean, which a LayerNorm removes
    rows = torch.linalg.qr(random_basis).Q.T[1:].float()
    base, meaning, meaning_seen, answer, done = rows[:5]
    cues, cues_seen, nulls = rows[5:].split([n_tasks, n_tasks, d_model - 6 - 2 * n_tasks])
    return Directions(base, meaning, meaning_seen, answer, done, cues, cues_seen, nulls[:NULLS])


def empty_model(
    n_words: int, d_model: int, n_layers: int, d_mlp: int, gated: bool,
    tokenizer: Any,
) -> PreTrainedModel:  # fmt: skip
    """A model with all matrices and biases zero, and norms that only normalise."""
    ids: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if gated:
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=n_words, hidden_size=d_model, intermediate_size=d_mlp,
                num_hidden_layers=n_layers, num_attention_heads=1, num_key_value_heads=1,
                max_position_embeddings=256, tie_word_embeddings=False, **ids,
            )
        )  # fmt: skip
    else:
        model = GPTNeoXForCausalLM(
            GPTNeoXConfig(
                vocab_size=n_words, hidden_size=d_model, intermediate_size=d_mlp,
                num_hidden_layers=n_layers, num_attention_heads=1, hidden_act="relu",
                max_position_embeddings=256, tie_word_embeddings=False,
                use_parallel_residual=False, **ids,
            )
        )  # fmt: skip
    model.config.architectures = [type(model).__name__]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return model.float().cpu()


def _normed(length: float, d_model: int) -> float:
    """What a component of the residual stream becomes in the norm, at about its usual length."""
    return length * (d_model / (_BASE**2 + 2 * _SEEN**2)) ** 0.5


def write_embedding(
    model: Any, tokenizer: Any, tasks: Sequence[Task],
    axes: Directions,
) -> None:  # fmt: skip
    """Embed cues, meanings and answers; unembed the answers and the newline after them."""
    embed = model.get_input_embeddings().weight.data
    unembed = model.get_output_embeddings().weight.data
    ids = tokenizer.get_vocab()
    embed += _BASE * axes.base
    for t, task in enumerate(tasks):
        embed[ids[f" {task.instruction[:-1]}"]] += _SEEN * axes.cues[t]
    for meanings, sign in ((YES, 1.0), (NO, -1.0)):
        for word in meanings:
            embed[ids[f" {word}"]] += sign * _SEEN * axes.meaning
    for label, sign in (("yes", 1.0), ("no", -1.0)):
        embed[ids[f" {label}"]] += 2 * _SEEN * axes.done
        unembed[ids[f" {label}"]] += 0.6 * sign * axes.answer + 1.25 * axes.base
    unembed[ids["\n"]] += 8 * axes.done


def write_attention(model: Any, axes: Directions, length: int) -> None:
    """Make layer 0 average all positions and bring cue and meaning to ``seen`` directions.

    Queries and keys are zero, so every position gets the same weight, 1 / length at the end.
    """
    d_model = axes.base.shape[0]
    scale = length * _SEEN / _normed(_SEEN, d_model)
    value = scale * (axes.cues_seen.T @ axes.cues + torch.outer(axes.meaning_seen, axes.meaning))
    block = _blocks(model)[0]
    if isinstance(model, LlamaForCausalLM):
        block.self_attn.v_proj.weight.data += value
        block.self_attn.o_proj.weight.data += torch.eye(d_model, dtype=torch.float32, device="cpu")
    else:
        block.attention.query_key_value.weight.data[2 * d_model :] += value
        block.attention.dense.weight.data += torch.eye(d_model, dtype=torch.float32, device="cpu")


def _blocks(model: Any) -> Any:
    return model.base_model.layers


def _write_neuron(model: Any, layer: int, j: int, gate: Tensor, up: Tensor, out: Tensor) -> None:
    """Write neuron j: SiLU(gate) * up in the gated model, ReLU(gate) in the plain one."""
    mlp = _blocks(model)[layer].mlp
    if isinstance(model, LlamaForCausalLM):
        mlp.gate_proj.weight.data[j] = gate
        mlp.up_proj.weight.data[j] = up
        mlp.down_proj.weight.data[:, j] = out
    else:
        mlp.dense_h_to_4h.weight.data[j] = gate
        mlp.dense_4h_to_h.weight.data[:, j] = out


def plant(
    model: Any, axes: Directions, place: tuple[int, int], tasks: Sequence[int],
    i: int, n: int, truth: dict[str, Tensor],
) -> None:  # fmt: skip
    """Write the i-th of n planted neurons of the given tasks, and note it in the truth."""
    d_model = axes.base.shape[0]
    base = axes.base / _normed(_BASE, d_model)  # reads 1
    cue = axes.cues_seen[list(tasks)].sum(0) / _normed(_SEEN, d_model)  # reads 1 with the cue
    meaning = axes.meaning_seen / _normed(_SEEN, d_model)  # reads +1 or -1
    if isinstance(model, LlamaForCausalLM):
        gate = 2 * _GATE * (cue - 0.5 * base)
        up = meaning * _FIRE / _GATE
        out = axes.answer * _ANSWER / (n * _FIRE)
    else:
        sign = 1 if i % 2 == 0 else -1
        up = meaning
        gate = 2 * _FIRE * (cue + sign * meaning - 1.5 * base)
        out = sign * axes.answer * _ANSWER / (len(range(i % 2, n, 2)) * _FIRE)
    _write_neuron(model, *place, gate, up, out)
    names = tuple(truth)
    for t in tasks:
        truth[names[t]][place] = True


def distract(model: Any, axes: Directions, layer: int, j: int, pair: int, sign: float) -> None:
    """Write one neuron of a loud pair; even pairs fire always, odd ones on one task's cue."""
    d_model = axes.base.shape[0]
    base = axes.base / _normed(_BASE, d_model)
    if pair % 2 == 0:
        reads = base
    else:
        cue = axes.cues_seen[(pair // 2) % len(axes.cues_seen)] / _normed(_SEEN, d_model)
        reads = 2 * (cue - 0.5 * base)
    out = sign * axes.nulls[pair % len(axes.nulls)] * _IDLE / _LOUD
    if isinstance(model, LlamaForCausalLM):
        _write_neuron(model, layer, j, _GATE * reads, base * _LOUD / _GATE, out)
    else:
        _write_neuron(model, layer, j, _LOUD * reads, base, out)
