"""Settings of training, and the rates, steps and examples that follow from them."""

import math
from dataclasses import replace
from typing import Any

import helpers
import pytest
from training_runs import trained

from tl_taskneurons.models.view import view
from tl_taskneurons.tasks.prompts import Item, Prompt
from tl_taskneurons.training import examples
from tl_taskneurons.training.examples import training_items
from tl_taskneurons.training.settings import Training


@pytest.fixture
def model(tokenizer: Any) -> Any:
    return helpers.tiny_lens("llama", tokenizer=tokenizer)


# Settings


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"epochs": -1.0}, "epochs is -1.0"),
        ({"clip": 0.0}, "clip is 0.0"),
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"warmup": 1.0}, "warmup is 1.0"),
        ({"validation": -0.1}, r"validation is -0\.1"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"weight_decay": math.inf}, "weight_decay is inf"),
        ({"betas": (0.9, 1.0)}, r"betas is \(0\.9, 1\.0\)"),
        ({"schedule": "step"}, "schedule is 'step'"),
        ({"patience": 2}, "patience is 2, but nothing is held out"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
    ],
)
def test_bad_settings_name_the_value(change: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        Training(**change)


def test_the_rate_rises_and_falls_as_computed_by_hand():
    rates = [Training(lr=2.0, warmup=0.4, schedule="linear").rate(i, 10) for i in range(10)]
    assert rates == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 5 / 3, 4 / 3, 1.0, 2 / 3, 1 / 3])
    cosine = Training(lr=1.0, warmup=0.0, schedule="cosine")
    assert [cosine.rate(i, 4) for i in range(4)] == pytest.approx(
        [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    )
    constant = Training(lr=3.0, warmup=0.25, schedule="constant")
    assert [constant.rate(i, 8) for i in range(8)] == [1.5, *[3.0] * 7]
    assert Training(lr=1.0, warmup=0.1).rate(0, 1) == 1.0


# Order of examples


def items_of(n: int) -> list[Item]:
    return [Item(i, (1, 2, 3), (4,), ()) for i in range(n)]


def seen(n: int, per_step: int, steps: int, seed: int = 0) -> list[list[int]]:
    return [
        [item.index for item in examples.examples_of(items_of(n), seed, step, per_step)]
        for step in range(steps)
    ]


def test_every_epoch_shows_each_example_once_in_an_order_of_its_own():
    steps = [i for chosen in seen(6, 4, 3) for i in chosen]
    assert sorted(steps[:6]) == sorted(steps[6:]) == list(range(6))
    assert steps[:6] != steps[6:]
    assert seen(6, 4, 3) == seen(6, 4, 3) != seen(6, 4, 3, seed=1)


def test_the_held_out_part_is_a_share_drawn_by_the_seed():
    train, held = examples.split(items_of(20), Training(validation=0.2))
    assert len(held) == 4
    assert sorted(i.index for i in (*train, *held)) == list(range(20))
    other = examples.split(items_of(20), Training(validation=0.2, seed=1))[1]
    assert held != other
    assert len(examples.split(items_of(2), Training(validation=0.9))[0]) == 1
    with pytest.raises(ValueError, match="at least two"):
        examples.split(items_of(1), Training(validation=0.5))
    with pytest.raises(ValueError, match="no examples"):
        examples.split([], Training())


@pytest.mark.parametrize(
    ("training", "steps"),
    [
        (Training(batch_size=4), 3),
        (Training(batch_size=5), 3),
        (Training(batch_size=100, epochs=3), 3),
        (Training(batch_size=3, accumulate=2, epochs=0.5), 1),
        (Training(batch_size=4, steps=5), 5),
    ],
)
def test_steps_follow_epochs(model: Any, neurons: Any, training: Training, steps: int):
    _, history = trained(model, neurons, training)
    assert list(history["step"]) == list(range(1, steps + 1))
    assert list(history["lr"]) == [training.rate(i, steps) for i in range(steps)]


def test_a_generated_answer_is_learnt_with_its_end_and_a_label_without(model: Any):
    label = helpers.toy_task(3)
    free = replace(label, labels=(), metric="exact_match")
    items = training_items(view(model), [label, free], Prompt())
    assert [item.index for item in items] == list(range(6))
    assert [item.end for item in items] == [()] * 3 + [(10,)] * 3
    with pytest.raises(ValueError, match="no task"):
        training_items(view(model), [], Prompt())
