"""For the tests of the training loop: a short run, the same weights, and an interruption."""

from typing import Any

import helpers
import pytest
import torch

from tl_taskneurons.training import loop as training_loop
from tl_taskneurons.training.finetune import finetune
from tl_taskneurons.training.settings import Training


def trained(model: Any, neurons: Any, training: Training, **options: Any):
    """Masters after training, and the history; the model is put back."""
    delta = finetune(model, helpers.toy_task(12), neurons, training, **options)
    return delta.trained, delta.history


def same(first: Any, second: Any) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Make the given update (from 1) end as by Ctrl-C."""
    real, calls = training_loop.update, []

    def update(*arguments: Any):
        calls.append(None)
        if len(calls) == step:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(training_loop, "update", update)
