"""A sequence of three tiny tasks, for tests of learning tasks one after another."""

from typing import Any

import torch

from tl_taskneurons.continual.learners import Setting
from tl_taskneurons.models.view import view
from tl_taskneurons.tasks.task import Example, Task, Tasks
from tl_taskneurons.training.settings import Training

TRAINING = Training(lr=1e-2, steps=2, batch_size=4)
NAMES = ("one", "two", "three")


def letters(name: str, labels: tuple[str, str], n: int = 8) -> Task:
    examples = tuple(Example(f"{name[0]}{i}", labels[i % 2], labels[i % 2]) for i in range(n))
    return Task(name, examples, examples[:4], instruction=name, labels=labels)


def three_tasks() -> Tasks:
    return Tasks(
        letters(name, labels)
        for name, labels in zip(NAMES, (("p", "q"), ("r", "s"), ("t", "u")), strict=True)
    )


def mlp_weights(model: Any) -> dict[str, torch.Tensor]:
    """Every part of every layer's neurons, neurons first."""
    found = {}
    for layer in view(model).layers:
        for name, part in layer.parameters.items():
            weight = part.oriented.clone()
            found[f"{layer.index}/{name}"] = weight.mT if name in ("W_in", "W_gate") else weight
    return found


def learnt(model: Any, learner: Any, *, private: bool = False) -> tuple[Setting, list[Any]]:
    tasks = three_tasks()
    setting = Setting(view(model), tasks, TRAINING)
    history: list[Any] = []
    for task in tasks:
        history.append(learner.learn(setting, () if private else tuple(history), task))
    return setting, history
