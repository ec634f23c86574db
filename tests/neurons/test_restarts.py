"""Exact ablation where prompts begin alike: the same numbers as with whole examples."""

from typing import Any

import helpers
import pytest
import torch
from micro import lens

import tl_taskneurons as tn
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons import exact as exact_module
from tl_taskneurons.neurons.capture import BatchPass
from tl_taskneurons.neurons.restarts import Shared, shares
from tl_taskneurons.neurons.scoring import score_batches
from tl_taskneurons.neurons.settings import ScoreSettings
from tl_taskneurons.tasks.batches import Batch, make_batches
from tl_taskneurons.tasks.prompts import Item

COMMON = tuple(range(5, 25))
ITEMS = [
    Item(0, (*COMMON, 40, 41), (50,), (), ((51,),)),
    Item(1, (*COMMON, 60), (51, 52), (), ((53,),)),
    Item(2, (*COMMON, 60, 70, 80, 90), (51,), (), ((54,),)),
]
PAIRS = [(0, 1), (0, 7), (0, 3), (1, 0), (1, 5)]
# One with rotary positions, learned ones, ALiBi, parallel blocks, and windows of attention.
NAMES = ("llama", "gpt2", "bloom", "gpt_neox", "gemma2")
CLASSES = [(name, "bridge") for name in NAMES] + [
    pytest.param(name, "hooked", marks=pytest.mark.needs("hooked"))
    for name in NAMES
    if name in helpers.HOOKED_ARCHITECTURES
]


def effects(model: Any, metric: str = "loss", **asked: Any) -> torch.Tensor:
    some = tn.NeuronSet.from_pairs(model, PAIRS)
    settings = ScoreSettings(metric=metric, signed=True, token_budget=100, **asked)
    return score_batches(
        view(model), list(make_batches(ITEMS)), "exact", neurons=some, settings=settings
    )


def passing(model: Any, batch: Batch) -> BatchPass:
    return BatchPass(view(model), batch, [0, 1], ScoreSettings(), lambda _layer, _values: None)


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the beginning ran apart, each time it was asked."""
    told: list[bool] = []

    def look(run: Any) -> bool:
        told.append(shares(run))
        return told[-1]

    monkeypatch.setattr(exact_module, "shares", look)
    return told


@pytest.mark.parametrize(("name", "kind"), CLASSES)
def test_the_numbers_are_those_of_whole_examples(
    name: str, kind: str, tokenizer: Any, ways: list[bool], monkeypatch: pytest.MonkeyPatch
):
    model = lens(name, kind, tokenizer)
    constants = torch.full(view(model).shape, 0.3)
    questions: list[dict[str, Any]] = [
        {}, {"metric": "logit_diff"}, {"metric": "kl"}, {"ablation": constants},
    ]  # fmt: skip
    found = [effects(model, **question) for question in questions]
    assert all(ways)
    monkeypatch.setattr(exact_module, "shares", lambda _run: False)
    for question, values in zip(questions, found, strict=True):
        whole = effects(model, **question)
        torch.testing.assert_close(values, whole, rtol=1e-4, atol=2e-6)
        assert whole.abs().max() > 1e-4


def test_what_looks_at_places_or_examples_runs_whole(tokenizer: Any, ways: list[bool]):
    model = lens("llama", "bridge", tokenizer)
    plain = effects(model)
    assert ways == [True]
    ways.clear()
    assert not effects(model, positions="answer").equal(plain)
    with tn.scale(model, [(1, 9)], 2.0):
        effects(model)
    seen = {"blocks.0.hook_resid_pre": lambda value, hook: value}
    with model.hooks(fwd_hooks=list(seen.items())):
        effects(model)
    handle = model.blocks[0].register_forward_hook(lambda *_: None)
    effects(model)
    handle.remove()
    assert ways and not any(ways)
    short = [Item(0, (5, 6, 7), (8,), ()), Item(1, (5, 6, 9), (8,), ())]
    for items in (short, ITEMS[:1]):
        (batch,) = make_batches(items)
        assert not shares(passing(model, batch))


def test_the_beginning_runs_once_for_a_neuron(tokenizer: Any):
    """Counted in tokens that a neuron above the lowest block costs."""
    model = lens("gpt2", "bridge", tokenizer)
    counted: list[int] = []

    def count(value: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001
        counted.append(value.shape[0] * value.shape[1])
        return value

    (batch,) = make_batches(ITEMS)
    with torch.no_grad():
        start = Shared(passing(model, batch), [0, 1])
    with torch.no_grad(), model.hooks(fwd_hooks=[("blocks.1.mlp.hook_post", count)]):
        start.effects(1, torch.tensor([4, 5]))
    assert counted == [2 * 20, 2 * 3 * 5]


@pytest.mark.parametrize(
    "kind", ["bridge", pytest.param("hooked", marks=pytest.mark.needs("hooked"))]
)
def test_hooks_of_others_on_blocks_act_once(kind: str, tokenizer: Any):
    model = lens("llama", kind, tokenizer)

    def steer(_block: Any, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] * 1.5, *output[1:])
        return output * 1.5

    def push(_block: Any, args: Any) -> Any:
        return (args[0] + 0.1, *args[1:])

    handles = [
        model.blocks[0].register_forward_hook(steer),
        model.blocks[0].register_forward_pre_hook(push),
    ]
    task = helpers.toy_task()

    def loss() -> float:
        return tn.evaluate(model, task, split="train", metric="loss")["value"].item()

    found = tn.score_neurons(model, task, "exact", neurons=[(1, 5)], signed=True)
    plain = loss()
    with tn.deactivate(model, [(1, 5)]):
        effect = loss() - plain
    assert found[1, 5] == pytest.approx(effect, abs=1e-5) and abs(effect) > 1e-4
    assert loss() == plain
    for handle in handles:
        handle.remove()
