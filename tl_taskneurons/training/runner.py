"""The one way to train: examples, loop, and what training left, whatever is trained."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any, Protocol, TypeVar, runtime_checkable

import pandas as pd
import torch

from tl_taskneurons.models.view import ModelView, pinned_fingerprint
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.options import require_kind
from tl_taskneurons.tasks.task import Task, Tasks, one_task
from tl_taskneurons.training.deltas import Delta
from tl_taskneurons.training.examples import training_items
from tl_taskneurons.training.loop import Trainee, fit
from tl_taskneurons.training.options import Run
from tl_taskneurons.training.settings import Training

D = TypeVar("D", bound=Delta, covariant=True)


@runtime_checkable
class Trainable(Trainee, Protocol[D]):
    """Something in a model that can be trained, taken out again and kept as a delta."""

    @property
    def key(self) -> str:
        """What is trained, in words or as a hash; a checkpoint of something else is refused."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What is trained, for the delta's ``info``."""
        ...

    def attached(self) -> AbstractContextManager[None]:
        """Make the model ready to be trained; at the end it is as before, bit by bit."""
        ...

    def delta(self, name: str, info: Mapping[str, Any], history: pd.DataFrame) -> D:
        """Return what was trained, while attached."""
        ...


@torch.inference_mode(False)
def train(
    model_view: ModelView,
    trainee: Trainable[D],
    tasks: Task | Sequence[Task],
    training: Training,
    run: Run,
) -> D:
    """Train on the train split of one or more tasks; the model is as it was afterwards.

    Args:
        model_view: the model.
        trainee: what is trained.
        tasks: what to train on; several tasks are mixed.
        training: learning rate, steps and so on.
        run: prompt, limit, checkpoint and progress.

    Raises:
        ValueError: for folded weights, no training examples, a checkpoint of another run, or a
            loss that is not finite (naming the batch; the last checkpoint stays).
    """
    require_raw(model_view)
    require_kind("training", training, Training, "give Training(lr=...)")
    several: Any = tasks if isinstance(tasks, Sequence) and not isinstance(tasks, str) else [tasks]
    tasks = Tasks(one_task(task) for task in several)
    items = training_items(model_view, tasks, run.prompt, run.limit)
    name = "+".join(task.name for task in tasks)
    # Pinned first: adapters are part of what a model is.
    with pinned_fingerprint(model_view), trainee.attached():
        history = fit(
            model_view, trainee, items, training, key=trainee.key, checkpoint=run.checkpoint,
            progress=run.progress, title=f"training {name}",
        )  # fmt: skip
        info = {
            **trainee.facts, "tasks": [task.name for task in tasks], "examples": len(items),
            "steps": len(history), "training": asdict(training), "prompt": asdict(run.prompt),
            "model": model_view.name,
        }  # fmt: skip
        return trainee.delta(name, info, history)


def require_raw(model_view: ModelView) -> None:
    """Raise ValueError when a model's weights were processed (layer norm folded in and the like).

    Raises:
        ValueError: naming the reason.
    """
    model = model_view.model
    norm = str(getattr(model.cfg, "normalization_type", "") or "")
    if model_view.is_bridge:
        # Compatibility mode alone (no_processing=True) leaves the weights as they are.
        folded = getattr(model, "_weights_processed", getattr(model, "compatibility_mode", False))
        how = "by enable_compatibility_mode"
    else:
        folded, how = norm.endswith("Pre"), f"normalization_type {norm!r}"
    if folded:
        raise InputError(
            f"{model_view.name} has processed weights ({how}): layer norms are folded into the "
            "MLP's matrices, so what is trained there would not fit the model that was loaded. "
            "Load it raw, with tl_taskneurons.load_model, from_pretrained_no_processing or "
            "without enable_compatibility_mode."
        )
