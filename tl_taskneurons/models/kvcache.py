"""A key-value cache over both model classes, for generation and for shared prompt openings."""

import copy
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_taskneurons.models.forward import logits_only_at
from tl_taskneurons.models.view import ModelView


class KVCache:
    """The keys and values of the tokens a model has seen so far.

    Args:
        model_view: the model.
        n_rows: batch size.
    """

    def __init__(self, model_view: ModelView, n_rows: int) -> None:
        self._view = model_view
        self._cache: Any = None
        self._mask = torch.zeros((n_rows, 0), dtype=torch.bool, device=model_view.device)
        if not model_view.is_bridge:
            # TransformerLens 4 has neither HookedTransformer nor its cache.
            from transformer_lens import TransformerLensKeyValueCache

            self._cache = TransformerLensKeyValueCache.init_cache(
                model_view.model.cfg, model_view.device, n_rows
            )

    def extend(
        self,
        tokens: Int[Tensor, "batch new"],
        mask: Bool[Tensor, "batch new"],
        positions: Bool[Tensor, "batch new"],
    ) -> Float[Tensor, "n vocab"]:
        """Run new tokens after those seen, remember them, and return the logits at positions.

        Args:
            tokens: token ids.
            mask: True at real tokens.
            positions: where logits are wanted.
        """
        model = self._view.model
        self._mask = torch.cat([self._mask, mask], dim=1)
        with logits_only_at(self._view, positions):
            if self._view.is_bridge:
                logits, self._cache = model(
                    tokens,
                    attention_mask=self._mask.long(),
                    past_key_values=self._cache,
                    use_cache=True,
                    return_type="logits_and_cache",
                )
            else:
                logits = model(tokens, attention_mask=mask.long(), past_kv_cache=self._cache)
        return logits.squeeze(0)

    def repeat(self, n: int) -> "KVCache":
        """Return a copy of a one-row cache with ``n`` equal rows."""
        other = copy.copy(self)
        other._mask = self._mask.expand(n, -1)
        other._cache = copy.deepcopy(self._cache)
        if self._view.is_bridge:
            other._cache.batch_repeat_interleave(n)
        else:
            for entry in other._cache.entries:
                entry.past_keys = entry.past_keys.expand(n, -1, -1, -1)
                entry.past_values = entry.past_values.expand(n, -1, -1, -1)
            previous = other._cache.previous_attention_mask
            other._cache.previous_attention_mask = previous.expand(n, -1)
        return other
