import helpers
import pytest
import torch

from tl_taskneurons.models.generation import generate
from tl_taskneurons.models.kvcache import KVCache
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.interventions import deactivate
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.tasks.prompts import Item, shared_prefix

PROMPTS = [[5, 6, 7, 8], [9, 3], [4, 5, 6, 7, 8, 9, 10], [20]]


def never(_ids) -> bool:
    return False


def slow_greedy(model, prompt: list[int], n: int, stops: set[int]) -> list[int]:
    """One prompt, no cache, no padding: the definition of greedy decoding."""
    ids = list(prompt)
    for _ in range(n):
        tokens = torch.tensor([ids])
        with torch.no_grad():
            logits = model(tokens, attention_mask=torch.ones_like(tokens))
        best = int(logits[0, -1].argmax())
        ids.append(best)
        if best in stops:
            break
    return ids[len(prompt) :]


def all_classes(name: str, tokenizer) -> list:
    if name in helpers.HOOKED_ARCHITECTURES:
        return list(helpers.both_classes(helpers.tiny_hf(name), tokenizer).values())
    return [helpers.tiny_lens(name, tokenizer=tokenizer)]


@pytest.mark.parametrize("name", helpers.ARCHITECTURES)
def test_batched_cached_generation_is_greedy_decoding(name, tokenizer):
    for model in all_classes(name, tokenizer):
        expected = [slow_greedy(model, prompt, 6, set()) for prompt in PROMPTS]
        found = generate(view(model), PROMPTS, closes=never, max_new_tokens=6)
        assert found == expected, type(model)
        one_by_one = generate(view(model), PROMPTS, closes=never, max_new_tokens=6, token_budget=1)
        assert one_by_one == expected, type(model)


def test_generation_stops_at_stop_tokens_and_keeps_order(tokenizer):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    free = generate(view(model), PROMPTS, closes=never, max_new_tokens=8)
    stops = {free[0][3]}

    def closes(ids) -> bool:
        return ids[-1] in stops

    expected = [slow_greedy(model, prompt, 8, stops) for prompt in PROMPTS]
    assert generate(view(model), PROMPTS, closes=closes, max_new_tokens=8) == expected
    assert len(expected[0]) <= 4


def test_hooks_are_active_at_every_step(tokenizer):
    model = helpers.tiny_lens("llama", tokenizer=tokenizer)
    neurons = NeuronSet(torch.rand(view(model).shape) < 0.5, view(model).fingerprint)
    plain = generate(view(model), PROMPTS, closes=never, max_new_tokens=6)
    with deactivate(model, neurons):
        expected = [slow_greedy(model, prompt, 6, set()) for prompt in PROMPTS]
        silenced = generate(view(model), PROMPTS, closes=never, max_new_tokens=6)
    assert silenced == expected
    assert silenced != plain


def test_bad_lengths_name_the_value(tokenizer):
    model_view = view(helpers.tiny_lens("gpt2", tokenizer=tokenizer, n_positions=16))
    with pytest.raises(ValueError, match="max_new_tokens is 0"):
        generate(model_view, PROMPTS, closes=never, max_new_tokens=0)
    with pytest.raises(ValueError, match="7 tokens and 10 new ones exceed the context of 16"):
        generate(model_view, PROMPTS, closes=never, max_new_tokens=10)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "gpt_neox"])
def test_a_repeated_cache_continues_like_the_whole_sequence(name, tokenizer):
    for model in helpers.both_classes(helpers.tiny_hf(name), tokenizer).values():
        model_view = view(model)
        prefix, rest = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[9, 10, 11], [12, 13, 14]])
        real = torch.tensor([[True, True, True], [True, True, False]])
        whole = torch.cat([prefix.expand(2, -1), rest], dim=1)
        with torch.no_grad():
            expected = model(whole, attention_mask=torch.ones_like(whole))[:, 4:][real]
            cache = KVCache(model_view, 1)
            cache.extend(prefix, torch.ones_like(prefix) > 0, torch.ones_like(prefix) > 0)
            for _ in range(2):  # the one-row cache stays fit for use
                found = cache.repeat(2).extend(rest, real, real)
                torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_shared_prefix_stops_before_the_last_token_of_any_prompt():
    def item(*prompt: int) -> Item:
        return Item(0, prompt, (1,), (2,))

    common = tuple(range(10, 20))
    assert shared_prefix([item(*common, 1), item(*common, 2, 3)]) == common
    assert shared_prefix([item(*common), item(*common, 2, 3)]) == common[:-1]
    assert shared_prefix([item(*common, 1)]) == ()
    assert shared_prefix([item(1, 2, 3), item(1, 2, 4)]) == ()
