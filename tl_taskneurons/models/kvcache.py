"""A key-value cache over both model classes, for generation and for shared prompt openings."""

import copy
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import einops
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_taskneurons.models.forward import as_loaded, logits_only_at, run_without_cache
from tl_taskneurons.models.positions import Places, running
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import ModelView

# Models that compute something else with a cache than without.
_wrong: "weakref.WeakSet[LanguageModel]" = weakref.WeakSet()


def distrust_cache(model: LanguageModel) -> None:
    """Run a model without its cache from now on: every token again at each step."""
    _wrong.add(model)


class KVCache:
    """The keys and values of the tokens a model has seen so far.

    For a model whose cache is known to be wrong it keeps the tokens instead, and reads them again.

    Args:
        model_view: the model.
        n_rows: batch size.
        trusted: use the model's cache whatever is known of it.
        examples: the numbers of the rows' examples in their split, where these are known.
    """

    def __init__(
        self,
        model_view: ModelView,
        n_rows: int,
        *,
        trusted: bool = False,
        examples: tuple[int, ...] = (),
    ) -> None:
        self._view = model_view
        self._examples = examples
        self._cache: Any = None
        self._mask = torch.zeros((n_rows, 0), dtype=torch.bool, device=model_view.device)
        self._predicts = self._opens = self._mask
        self._tokens: Tensor | None = None
        if model_view.model in _wrong and not trusted:
            self._tokens = torch.zeros_like(self._mask, dtype=torch.long)
        elif not model_view.is_bridge:
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
        *,
        stage: Literal["prefix", "rest", "step"] = "step",
    ) -> Float[Tensor, "n vocab"]:
        """Run new tokens after those seen, remember them, and return the logits at positions.

        Args:
            tokens: token ids.
            mask: True at real tokens.
            positions: where logits are wanted.
            stage: a ``"prefix"`` of prompts, the ``"rest"`` of prompts with their answers, or the
                prompts and then a ``"step"`` of answers that are being generated.
        """
        model = self._view.model
        predicts = torch.zeros_like(positions) if stage == "prefix" else positions
        opens = predicts & (predicts.long().cumsum(1) == 1)
        if stage == "step" and self._mask.shape[1]:  # an answer goes on
            opens = torch.zeros_like(predicts)
        self._mask = torch.cat([self._mask, mask], dim=1)
        self._predicts = torch.cat([self._predicts, predicts], dim=1)
        self._opens = torch.cat([self._opens, opens], dim=1)

        def places(run: Tensor) -> Places:
            total, n = self._mask.long(), run.shape[1]
            return Places(
                run, self._mask[:, -n:], self._predicts[:, -n:], self._opens[:, -n:],
                total.cumsum(1)[:, -n:] - 1, total.sum(1) if stage == "rest" else None,
            )  # fmt: skip

        if self._tokens is not None:
            old = torch.zeros_like(self._tokens, dtype=torch.bool)
            self._tokens = seen = torch.cat([self._tokens, tokens], dim=1)
            wanted = torch.cat([old, positions], dim=1)
            with self._running(lambda: places(seen), wanted):
                logits = run_without_cache(self._view, seen, self._mask)
            return logits.squeeze(0)
        with self._running(lambda: places(tokens), positions):
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

    @property
    def reuses(self) -> bool:
        """Whether keys and values are kept, and not tokens to be read again."""
        return self._tokens is None

    def borrow(self, other: "KVCache", n_layers: int) -> None:
        """Take another cache's keys and values of the lowest layers, whose blocks don't run.

        A model sees by its first layer how many tokens ran before.

        Args:
            other: a cache of as many tokens, of one row.
            n_layers: how many layers.
        """
        for layer in range(n_layers):
            if self._view.is_bridge:
                self._cache.layers[layer] = other._cache.layers[layer]
            else:
                entry, own = other._cache.entries[layer], self._cache.entries[layer]
                n_rows = len(self._mask)
                own.past_keys = entry.past_keys.expand(n_rows, -1, -1, -1)
                own.past_values = entry.past_values.expand(n_rows, -1, -1, -1)

    @contextmanager
    def _running(self, places: Callable[[], Places], wanted: Tensor) -> Iterator[None]:
        with (
            as_loaded(),
            running(places, self._examples),
            logits_only_at(self._view, wanted),
        ):
            yield

    def repeat(self, n: int) -> "KVCache":
        """Return a copy in which each row stands ``n`` times, one after another."""
        other = copy.copy(self)
        other._examples = tuple(each for each in self._examples for _ in range(n))
        other._mask = einops.repeat(self._mask, "row pos -> (row n) pos", n=n)
        other._predicts = einops.repeat(self._predicts, "row pos -> (row n) pos", n=n)
        other._opens = einops.repeat(self._opens, "row pos -> (row n) pos", n=n)
        if self._tokens is not None:
            other._tokens = einops.repeat(self._tokens, "row pos -> (row n) pos", n=n)
            return other
        other._cache = copy.deepcopy(self._cache)
        if self._view.is_bridge:
            other._cache.batch_repeat_interleave(n)
        else:
            for entry in other._cache.entries:
                entry.past_keys = einops.repeat(
                    entry.past_keys, "row pos head d -> (row n) pos head d", n=n
                )
                entry.past_values = einops.repeat(
                    entry.past_values, "row pos head d -> (row n) pos head d", n=n
                )
            previous = other._cache.previous_attention_mask
            other._cache.previous_attention_mask = einops.repeat(
                previous, "row pos -> (row n) pos", n=n
            )
        return other
