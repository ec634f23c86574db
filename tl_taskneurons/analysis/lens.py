"""What a neuron writes towards the next token: the logit lens of its output weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import ModelView, view
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.errors import InputError

_CHUNK = 64  # neurons at a time: 64 x 150,000 tokens in float32 are 38 MB


@dataclass(frozen=True)
class TokenEffects:
    """The tokens that a neuron's output weights move most, strongest first.

    Attributes:
        promoted: tokens with the highest effects, each with its effect.
        suppressed: tokens with the lowest effects.
    """

    promoted: tuple[tuple[str, float], ...]
    suppressed: tuple[tuple[str, float], ...]


@torch.no_grad()
def output_effects(
    model: LanguageModel, neurons: Sequence[tuple[int, int]]
) -> Float[Tensor, "neuron d_vocab"]:
    """Return the direct effect of each neuron's output weights on the logits of all tokens.

    ``(W_out[j] * w) @ W_U``, minus its mean over the vocabulary (which no probability depends
    on); w is the weight of the final norm, and W_out[j] is centred first where that is a
    LayerNorm. A norm that follows the MLP (Gemma 2) is applied in the same way before. Left out
    are the norms' division by the size of the stream and every later layer, so effects compare
    within a neuron; per unit of activation, in float32. A negative activation turns the signs.

    Raises:
        ValueError: for a neuron outside the model.
    """
    model_view = view(model)
    NeuronSet.from_pairs(model, neurons)  # refuses neurons outside the model
    lens = model_view.model
    unembedding = lens.W_U.detach().float()
    rows = []
    for layer, j in neurons:
        row = model_view.layers[layer].parameters["W_out"].oriented[j].float()
        row = _through(getattr(lens.blocks[layer], "ln2_post", None), row, model_view)
        row = _through(getattr(lens, "ln_final", None), row.to(unembedding.device), model_view)
        rows.append(row)
    effects = torch.stack(rows) @ unembedding
    return (effects - effects.mean(1, keepdim=True)).cpu()


def token_effects(
    model: LanguageModel, neurons: Sequence[tuple[int, int]], *, n_tokens: int = 10
) -> list[TokenEffects]:
    """Return the tokens that each neuron's output weights promote and suppress most.

    See ``output_effects`` for what is computed.

    Args:
        model: a HookedTransformer or TransformerBridge with a tokenizer.
        neurons: ``(layer, j)`` pairs.
        n_tokens: how many tokens of each kind.

    Raises:
        ValueError: for a neuron outside the model, ``n_tokens`` below 1, or no tokenizer.
    """
    if n_tokens < 1:
        raise InputError(f"n_tokens is {n_tokens}; it must be at least 1.")
    tokenizer = getattr(view(model).model, "tokenizer", None)
    if tokenizer is None:
        raise InputError("The model has no tokenizer; load it with one or set model.tokenizer.")
    found = []
    for start in range(0, len(neurons), _CHUNK):
        # Rows of the unembedding beyond the tokenizer only pad it to a round size.
        effects = output_effects(model, neurons[start : start + _CHUNK])[:, : len(tokenizer)]
        order = effects.argsort(dim=1, descending=True, stable=True)
        for row, ranked in zip(effects, order, strict=True):
            top, bottom = ranked[:n_tokens].tolist(), ranked.flip(0)[:n_tokens].tolist()
            found.append(
                TokenEffects(*(_named(tokenizer, ids, row[ids].tolist()) for ids in (top, bottom)))
            )
    return found


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Return each token's own text, with the space it begins with.

    Bytes that make no character alone come out as the replacement character.
    """
    texts = tokenizer.batch_decode([[i] for i in ids], clean_up_tokenization_spaces=False)
    pieces = tokenizer.convert_ids_to_tokens(list(ids))
    return [
        # Decoding a SentencePiece token alone drops the space that its mark stands for.
        f" {text}" if str(piece).startswith("\u2581") and not text.startswith(" ") else text
        for text, piece in zip(texts, pieces, strict=True)
    ]


def _through(
    norm: nn.Module | None, row: Float[Tensor, " d_model"], model_view: ModelView
) -> Float[Tensor, " d_model"]:
    """Apply what a norm does linearly: the centring of a LayerNorm, and its weight."""
    if norm is None:
        return row
    cfg = model_view.model.cfg
    if str(cfg.normalization_type).startswith("LN"):
        row = row - row.mean()
    weight = getattr(norm, "w", None)  # none where it is folded into the unembedding
    if weight is None:
        return row
    offset = 1.0 if getattr(cfg, "rmsnorm_uses_offset", False) else 0.0  # Gemma stores w - 1
    return row * (weight.detach().float().to(row.device) + offset)


def _named(
    tokenizer: Any, ids: Sequence[int], effects: Sequence[float]
) -> tuple[tuple[str, float], ...]:
    return tuple(zip(token_texts(tokenizer, ids), effects, strict=True))
