"""One training loop for all that can be trained: neurons, all weights, adapters.

What is trained stands behind ``Trainee``: float32 tensors that AdamW updates, a way to collect
their gradients, and a way to write them into the model. Order of examples, schedule, clipping,
validation, checkpoints and resuming are the same for all, so that comparisons are fair.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import torch
from torch import Tensor

from tl_taskneurons.models.forward import answer_losses, frozen
from tl_taskneurons.models.view import ModelView
from tl_taskneurons.runtime.atomic import require_writable
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.progress import Progress
from tl_taskneurons.runtime.roles import current_role
from tl_taskneurons.tasks.batches import Batch
from tl_taskneurons.tasks.prompts import Item
from tl_taskneurons.training.examples import examples_of, one_batch, split
from tl_taskneurons.training.settings import Training
from tl_taskneurons.training.state import TrainingState

HISTORY = ("step", "loss", "lr", "grad_norm", "validation_loss")


@runtime_checkable
class Trainee(Protocol):
    """What the loop trains.

    Attributes:
        parameters: float32 leaf tensors that the optimiser updates in place.
    """

    parameters: list[Tensor]

    def collecting(self) -> AbstractContextManager[None]:
        """While open, a backward pass through the model adds to the parameters' ``.grad``."""
        ...

    def write(self) -> None:
        """Copy the parameters into the model's weights."""
        ...

    def penalty(self) -> Tensor | None:
        """A term of the parameters that is added to the loss of each update, where there is one."""
        ...


def fit(
    model_view: ModelView,
    trainee: Trainee,
    items: Sequence[Item],
    training: Training,
    *,
    key: str = "",
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    title: str = "training",
) -> pd.DataFrame:
    """Train, and leave the trained weights in the model.

    The loss of a batch is the mean over its examples of the mean cross-entropy of each answer's
    tokens, in nats. The model is in evaluation mode: there is no dropout.

    Args:
        model_view: the model.
        trainee: what is trained.
        items: tokenised examples.
        training: how.
        key: what is trained, in words or as a hash; a checkpoint of something else is refused.
        checkpoint: a file to save to and to resume from, whatever stopped the run. A resumed run
            ends with the same bytes as an unbroken one; a finished one is not trained again.
        progress: whether to show a bar with the loss.
        title: what the bar says.

    Returns:
        One row per update: ``step`` (from 1), ``loss`` of the examples (nats; a penalty takes no
        part), ``lr``, ``grad_norm`` before clipping, and ``validation_loss`` (nats) where the
        held-out part was looked at.

    Raises:
        ValueError: for a loss or gradient that is not finite (naming step and examples; the last
            checkpoint stays), fewer than two examples with ``validation``, or a checkpoint of
            another run (each setting that differs is named).
        FileError: before any work, when nothing can be written where the checkpoint is to be.
    """
    train, held_out = split(items, training)
    per_step = min(training.batch_size * training.accumulate, len(train))
    steps = training.steps or max(1, math.ceil(training.epochs * len(train) / per_step))
    every = training.evaluate_every or math.ceil(len(train) / per_step)
    optimiser = adamw(trainee.parameters, training)
    about = _about(key, training, steps, items, model_view)
    path = None if checkpoint is None else Path(checkpoint)
    state = TrainingState(trainee.parameters, optimiser, about, path)
    team = current_role()
    with team.together():
        if path is not None:
            require_writable(path.parent)
        state.resume()
    team.require_same(
        "fit",
        lambda: {
            "model": model_view.fingerprint, "training": json.dumps(about),
            "the checkpoint's step": state.step,
        },
    )  # fmt: skip
    with frozen(model_view.model), Progress(title, shown=progress) as bar:
        trainee.write()
        for step in bar.steps(state.step, steps):
            if training.patience is not None and state.stale >= training.patience:
                break
            chosen = examples_of(train, training.seed, step, per_step)
            rate = training.rate(step, steps)
            try:
                loss, norm = update(model_view, trainee, optimiser, chosen, training, rate)
                row = {"step": step + 1, "loss": loss, "lr": rate, "grad_norm": norm}
                state.rows.append({**row, "validation_loss": math.nan})
                state.step = step + 1
                if held_out and (state.step % every == 0 or state.step == steps):
                    found = _mean_loss(model_view, held_out, training.batch_size)
                    state.look(found, keep=training.patience is not None)
            except FloatingPointError as error:
                raise InputError(_lost(step, chosen, error)) from error
            bar.say(f"{title}: loss {loss:.3f}")
            if state.step % training.checkpoint_every == 0:
                _save(state)
        _save(state)
        state.keep_best()
        trainee.write()
    return pd.DataFrame(state.rows, columns=list(HISTORY))


def _save(state: TrainingState) -> None:
    """Write a checkpoint, all processes at once: they go on when the first has written it."""
    with current_role().together():
        state.save()


def adamw(parameters: Sequence[Tensor], training: Training) -> torch.optim.AdamW:
    """AdamW with the settings' weight decay; in one pass over memory where PyTorch can."""
    # The fused kernel takes memory as it lies: it would write past a view's elements.
    fused = all(p.device.type in ("cpu", "cuda") and p.is_contiguous() for p in parameters)
    return torch.optim.AdamW(
        parameters, lr=training.lr, betas=training.betas, weight_decay=training.weight_decay,
        fused=fused,
    )  # fmt: skip


def update(
    model_view: ModelView,
    trainee: Trainee,
    optimiser: torch.optim.Optimizer,
    examples: Sequence[Item],
    training: Training,
    rate: float,
) -> tuple[float, float]:
    """Do one update of a model whose parameters are frozen.

    Args:
        model_view: the model.
        trainee: what is trained.
        optimiser: of the trainee's parameters.
        examples: all examples of the update; they run ``training.batch_size`` at a time.
        training: batch size and clipping.
        rate: the learning rate.

    Returns:
        The loss (nats) and the norm of the gradient before clipping.

    Raises:
        FloatingPointError: for a loss or a gradient that is not finite; nothing was updated.
    """
    optimiser.zero_grad(set_to_none=True)
    total = 0.0
    team = current_role()
    own = [examples[i] for i in team.own([len(item) for item in examples])]
    with team.together():
        for first in range(0, len(own), training.batch_size):
            batch = one_batch(own[first : first + training.batch_size], model_view)
            with trainee.collecting(), torch.enable_grad():
                loss = _losses(model_view, batch).sum() / len(examples)
                once = trainee.penalty() if team.leads and not first else None
                (loss if once is None else loss + once).backward()
            total += loss.item()
    total = team.add_up(trainee.parameters, total)
    limit = math.inf if training.clip is None else training.clip
    norm = torch.nn.utils.clip_grad_norm_(trainee.parameters, limit).item()
    if not math.isfinite(norm):
        raise FloatingPointError(f"The gradient's norm is {norm}.")
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()
    trainee.write()
    return total, norm


def _losses(model_view: ModelView, batch: Batch) -> Tensor:
    try:
        return answer_losses(model_view, batch)
    except ValueError as error:
        raise FloatingPointError(str(error)) from error


def _lost(step: int, examples: Sequence[Item], cause: Exception) -> str:
    shown = ", ".join(str(item.index) for item in examples[:8])
    return (
        f"Training stopped at step {step + 1}, with the training examples {shown}"
        f"{', ...' if len(examples) > 8 else ''}. {cause} A lower lr or a smaller clip often "
        "helps; the last checkpoint, where one was asked for, is kept."
    )


@torch.no_grad()
def _mean_loss(model_view: ModelView, items: Sequence[Item], batch_size: int) -> float:
    total = 0.0
    team = current_role()
    own = [items[i] for i in team.own([len(item) for item in items])]
    with team.together():
        for i in range(0, len(own), batch_size):
            batch = one_batch(own[i : i + batch_size], model_view)
            total += _losses(model_view, batch).sum().item()
    return float(team.total(torch.tensor(total, dtype=torch.float64, device="cpu"))) / len(items)


def _about(
    key: str, training: Training, steps: int, items: Sequence[Item], model_view: ModelView
) -> dict[str, Any]:
    """All that decides the result; how often checkpoints are written doesn't."""
    examples = json.dumps([(i.prompt, i.answer, i.end) for i in items])
    settings = {name: v for name, v in asdict(training).items() if name != "checkpoint_every"}
    return {
        **settings, "steps": steps, "trained": key, "dtype": str(model_view.dtype),
        "kind": model_view.kind, "n_examples": len(items),
        "examples": hashlib.sha256(examples.encode()).hexdigest()[:16],
    }  # fmt: skip


def loss_texts(history: pd.DataFrame) -> Iterator[str]:
    """Say in words how a training went, for the command line."""
    if len(history):
        first, last = history.iloc[0], history.iloc[-1]
        yield f"{len(history)} steps, loss {first['loss']:.3f} -> {last['loss']:.3f} nats per token"
        watched = history["validation_loss"].dropna()
        if len(watched):
            yield f"lowest held-out loss {watched.min():.3f} nats per token"
