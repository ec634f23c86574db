"""Greedy generation from token ids: batched, with a KV cache, hooks active at every step."""

from collections.abc import Callable, Sequence

import torch

from tl_taskneurons.models.kvcache import KVCache
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import ModelView
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.memory import pieces_in_memory


def generate(
    model_view: ModelView,
    prompts: Sequence[Sequence[int]],
    *,
    closes: Callable[[Sequence[int]], bool],
    max_new_tokens: int = 64,
    token_budget: int = 4096,
    examples: Sequence[int] = (),
) -> list[list[int]]:
    """Continue prompts greedily until their answers end.

    Prompts are padded on the left with a mask of our own, which is right in both model classes;
    their own ``generate`` reads the mask off the padding token, wrongly where that token also
    occurs in prompts.

    Args:
        model_view: the model.
        prompts: token ids, one list per prompt.
        closes: whether the last of the ids generated for a prompt ends its answer; that id is
            part of the result.
        max_new_tokens: the most tokens to generate for a prompt.
        token_budget: the most tokens (prompt and answer, padding included) in a batch.
        examples: the numbers of the prompts' examples in their split, where these are known, for
            interventions that differ by example.

    Returns:
        The generated ids of each prompt, in the order of the prompts.

    Raises:
        ValueError: when ``max_new_tokens`` is below 1 or a prompt leaves no room in the context.
    """
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {max_new_tokens}; it must be at least 1.")
    longest = max((len(prompt) for prompt in prompts), default=0)
    if model_view.n_ctx is not None and longest + max_new_tokens > model_view.n_ctx:
        raise InputError(
            f"A prompt of {longest} tokens and {max_new_tokens} new ones exceed the context of "
            f"{model_view.n_ctx} tokens of {model_view.name}; shorten one of them."
        )
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    results: list[list[int]] = [[] for _ in prompts]
    groups, start = [], 0
    while start < len(order):
        end = start + 1
        while end < len(order):
            width = len(prompts[order[end]]) + max_new_tokens
            if (end + 1 - start) * width > token_budget:
                break
            end += 1
        groups.append(order[start:end])
        start = end

    def run(group: list[int]) -> None:
        own = tuple(examples[i] for i in group) if examples else ()
        cache = KVCache(model_view, len(group), examples=own)
        rows = _generate_batch(
            cache, [prompts[i] for i in group], closes, max_new_tokens, model_view.device
        )
        for i, row in zip(group, rows, strict=True):
            results[i] = row

    pieces_in_memory(
        groups, run, lambda group: (len(group), len(prompts[group[-1]]) + max_new_tokens),
        lambda group: (group[: len(group) // 2], group[len(group) // 2 :]),
    )  # fmt: skip
    return results


@torch.no_grad()
def _generate_batch(
    cache: KVCache,
    prompts: Sequence[Sequence[int]],
    closes: Callable[[Sequence[int]], bool],
    max_new_tokens: int,
    device: torch.device,
) -> list[list[int]]:
    width = max(len(prompt) for prompt in prompts)
    tokens = torch.zeros((len(prompts), width), dtype=torch.long, device="cpu")
    mask = torch.zeros((len(prompts), width), dtype=torch.bool, device="cpu")
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :] = torch.tensor(list(prompt), device="cpu")
        mask[row, width - len(prompt) :] = True
    tokens, mask = tokens.to(device), mask.to(device)
    new = mask
    results: list[list[int]] = [[] for _ in prompts]
    open_rows = set(range(len(prompts)))
    for _ in range(max_new_tokens):
        last = torch.zeros_like(new)
        last[:, -1] = True
        chosen = cache.extend(tokens, new, last).argmax(-1)
        for row, token in enumerate(chosen.tolist()):
            if row in open_rows:
                results[row].append(token)
                if closes(results[row]):
                    open_rows.discard(row)
        if not open_rows:
            break
        tokens = chosen[:, None].to(tokens.device)
        new = torch.ones_like(tokens, dtype=torch.bool)
    return results


def eos_ids(model: LanguageModel) -> frozenset[int]:
    """Return the ids with which a model's generation config ends a text; empty without one."""
    config = getattr(model, "generation_config", None)
    found = getattr(config, "eos_token_id", None)
    return frozenset(() if found is None else [found] if isinstance(found, int) else found)
