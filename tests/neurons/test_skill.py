"""Predictivity of skill neurons, by hand and against plain TransformerLens."""

from dataclasses import replace
from typing import Any

import micro
import pytest
import torch
from micro import item, lens, words

import tl_taskneurons as tn
from tl_taskneurons.builtin.planted import planted_model
from tl_taskneurons.tasks.prompts import encode
from tl_taskneurons.tasks.task import Example, Task

HOOKED = pytest.param("hooked", marks=pytest.mark.needs("hooked"))


def labelled(labels: tuple[str, ...] = ("yes", "no"), n: int = 9) -> Task:
    examples = tuple(Example("abcdefghi"[: 1 + i % 5] + str(i), labels[i % len(labels)])
                     for i in range(n))  # fmt: skip
    return Task("labelled", examples, examples, labels=labels)


def test_predictivity_on_paper():
    """Neurons read the last token: 1, 2 and 0 at token 0, 2, 4 and .5 at token 1."""
    right = [item((1, 0), (0,)), item((0,), (0,), 1), item((0, 1), (1,), 2), item((1,), (1,), 3)]
    assert tn.score_items(micro.one_layer(), right, "skill").tolist() == [[1.0, 1.0, 1.0]]
    # Of answer 0 two of three examples end in token 0, of answer 1 one of two ends in token 1.
    mixed = [*right[:2], item((1,), (0,), 2), item((1,), (1,), 3), item((0,), (1,), 4)]
    found = tn.score_items(micro.one_layer(), mixed, "skill")
    expected = (2 / 3 + 1 / 2) / 2
    torch.testing.assert_close(found, torch.full((1, 3), expected))
    # Read at the first token instead; the rest of the answer is never read.
    first = tn.score_items(micro.one_layer(), right, "skill", positions=slice(0, 1))
    torch.testing.assert_close(first, torch.full((1, 3), 0.5))


@pytest.mark.parametrize("kind", ["bridge", HOOKED])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("labels", [("yes", "no"), ("red", "blue", "ivory")])
def test_predictivity_is_that_of_plain_transformerlens(
    labels: tuple[str, ...], name: str, kind: str, tokenizer: Any
):
    model, task = lens(name, kind, tokenizer), labelled(labels)
    found = tn.score_neurons(model, task, "skill", token_budget=60)
    assert found.info["positions"] == "last_prompt" and found.info["unit"] == "share of examples"
    items = encode(task, tokenizer, split="train").items
    hooks = [layer.hook for layer in tn.view(model).layers]
    rows = []
    for one in items:
        _, cache = model.run_with_cache(torch.tensor([list(one.prompt)]))
        rows.append(torch.stack([cache[hook][0, -1] for hook in hooks]))
    activations = torch.stack(rows).detach()
    fires = activations > activations.mean(0)
    best = torch.zeros_like(found.values)
    for label in labels:
        own = torch.tensor([example.target == label for example in task.train])
        right = (fires[own].float().mean(0) + 1 - fires[~own].float().mean(0)) / 2
        best = torch.maximum(best, torch.maximum(right, 1 - right))
    # A neuron at its threshold may fall on either side by rounding.
    assert ((found.values - best).abs() < 1e-5).float().mean() > 0.97
    together = tn.score_tasks(model, [task, replace(task, name="again")], "skill")
    torch.testing.assert_close(together["again"].values, found.values)


def test_planted_neurons_have_the_skill():
    """With a plain MLP each planted neuron fires for one of two answers."""
    made = planted_model(2, 6, gated=False, n_layers=2, d_mlp=24, distractors=8)
    model = tn.load_model(made.model, tokenizer=made.tokenizer, device="cpu")
    for task in made.tasks:
        scores = tn.score_neurons(model, task, "skill")
        assert scores.values[made.truth[task.name]].min() == 1.0


def test_tasks_without_classes_and_bad_questions_are_refused(tokenizer: Any):
    model = lens("gpt2", "bridge", tokenizer)
    with pytest.raises(ValueError, match="'skill' tells classes apart, and 2 examples have 2"):
        tn.score_neurons(model, words(6), "skill", limit=2)
    with pytest.raises(ValueError, match="have 1 different answers: .*use 'grad_act'"):
        tn.score_neurons(model, labelled(n=1), "skill")
    with pytest.raises(ValueError, match="no example has a score of its own"):
        tn.score_neurons(model, labelled(), "skill", per_example=True)
    with pytest.raises(ValueError, match="it is no effect on a metric"):
        tn.score_neurons(model, labelled(), "skill", metric="prob")
