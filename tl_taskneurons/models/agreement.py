"""How far a TransformerLens model is from what Hugging Face computes, in nats."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_taskneurons.models.kvcache import KVCache
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import ModelView

Rows = Sequence[Sequence[int]]
Measure = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class Gaps:
    """Differences in log-probability over all positions and tokens, in nats.

    The largest ones; of a model in half precision, which rounds, their means.

    Attributes:
        plain: each input alone.
        right: in a batch, padded on the right, at real positions.
        left: in a batch, padded on the left, at real positions.
        cached: with a key-value cache, token by token after the first few.
    """

    plain: float
    right: float
    left: float
    cached: float


def probe_rows(vocab: int, lengths: Sequence[int] = (20, 13)) -> list[list[int]]:
    """Token ids that differ from position to position, the same for every model."""
    return [[(7 * k * (row + 3) + 5) % vocab for k in range(n)] for row, n in enumerate(lengths)]


@torch.no_grad()
def reference(hf: Any, rows: Rows) -> list[Float[Tensor, "pos vocab"]]:
    """What a Hugging Face model computes for each input alone: log-probabilities."""
    return [
        hf(input_ids=torch.tensor([list(row)], device=hf.device), use_cache=False)
        .logits[0].float().log_softmax(-1).cpu()
        for row in rows
    ]  # fmt: skip


def gap(found: Float[Tensor, "pos vocab"], expected: Float[Tensor, "pos vocab"]) -> float:
    """The largest difference; infinite where one of the two is no number."""
    value = _differences(found, expected).max().item()
    return value if value == value else float("inf")


def mean_gap(found: Float[Tensor, "pos vocab"], expected: Float[Tensor, "pos vocab"]) -> float:
    """The mean difference, which rounding in half precision leaves small; infinite as ``gap``."""
    value = _differences(found, expected).mean().item()
    return value if value == value else float("inf")


def _differences(found: Tensor, expected: Tensor) -> Tensor:
    n_vocab = min(found.shape[-1], expected.shape[-1])  # some pad the vocabulary
    return (found[..., :n_vocab].cpu() - expected[..., :n_vocab]).abs()


@torch.no_grad()
def plain_gap(
    model: LanguageModel, rows: Rows, expected: Sequence[Tensor], measure: Measure = gap
) -> float:
    """The gap for each input alone, of any model of TransformerLens."""
    device = next(model.parameters()).device
    gaps = []
    for row, want in zip(rows, expected, strict=True):
        ids = torch.tensor([list(row)], device=device)
        logits = model(ids, attention_mask=torch.ones_like(ids))
        gaps.append(measure(logits[0].float().log_softmax(-1), want))
    return max(gaps)


@torch.no_grad()
def own_gaps(model_view: ModelView, measure: Measure = gap) -> Gaps:
    """The gaps of batches and cache to the model's own plain runs."""
    model, n_vocab = model_view.model, int(model_view.model.cfg.d_vocab)
    rows = probe_rows(n_vocab)
    expected = []
    for row in rows:
        ids = torch.tensor([row], device=model_view.device)
        expected.append(model(ids)[0].float().log_softmax(-1).cpu())
    return all_gaps(model_view, rows, expected, measure)


@torch.no_grad()
def all_gaps(
    model_view: ModelView, rows: Rows, expected: Sequence[Tensor], measure: Measure = gap
) -> Gaps:
    """The gaps in every way that this library runs a model."""
    model = model_view.model
    padded = {}
    for side in ("right", "left"):
        width = max(map(len, rows))
        ids = torch.zeros((len(rows), width), dtype=torch.long, device=model_view.device)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            where = slice(width - len(row), width) if side == "left" else slice(len(row))
            ids[i, where], mask[i, where] = torch.tensor(row, device=ids.device), 1
        logits = model(ids, attention_mask=mask).float().log_softmax(-1)
        padded[side] = max(
            measure(logits[i][mask[i].bool()], want) for i, want in enumerate(expected)
        )
    cached = max(
        measure(cached_log_probs(model_view, row), want)
        for row, want in zip(rows, expected, strict=True)
    )
    plain = plain_gap(model, rows, expected, measure)
    return Gaps(plain, padded["right"], padded["left"], cached)


@torch.no_grad()
def cached_log_probs(model_view: ModelView, row: Sequence[int]) -> Float[Tensor, "pos vocab"]:
    """Log-probabilities of an input that is read in pieces, with a cache."""
    cache = KVCache(model_view, 1, trusted=True)
    cuts = [0, 3, 7, *range(8, len(row)), len(row)]
    pieces = []
    for start, end in zip(cuts, cuts[1:], strict=False):
        ids = torch.tensor([row[start:end]], device=model_view.device)
        everywhere = torch.ones_like(ids, dtype=torch.bool)
        pieces.append(cache.extend(ids, everywhere, everywhere))
    return torch.cat(pieces).float().log_softmax(-1)
