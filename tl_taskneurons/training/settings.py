"""How to train: rates, steps, validation."""

import math
from dataclasses import dataclass

from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.options import check_types, plain, require_seed


@dataclass(frozen=True)
class Training:
    """How to train.

    Attributes:
        lr: the highest learning rate of AdamW.
        steps: number of updates; None takes ``epochs``.
        epochs: passes over the examples, where ``steps`` is None.
        batch_size: examples of one forward pass.
        accumulate: forward passes of one update; their gradients are averaged over examples.
        schedule: how the rate falls after the warm-up: ``"cosine"`` or ``"linear"`` to zero, or
            ``"constant"``.
        warmup: share of the steps in which the rate rises linearly.
        weight_decay: AdamW's decoupled weight decay, on what is trained alone.
        betas: AdamW's running means.
        clip: the largest norm of the gradient of all that is trained; None doesn't clip.
        seed: order of the examples, and which are held out.
        validation: share of the training examples held out to watch the loss; never the test
            split.
        evaluate_every: steps between two looks at the held-out part; None looks once an epoch.
        patience: stop after so many looks without a new lowest loss; the lowest is kept. None
            trains to the end and keeps the end.
        checkpoint_every: steps between two checkpoints; one more is written at the end.

    Raises:
        ValueError: for a value out of its range, naming it.
    """

    lr: float = 1e-3
    steps: int | None = None
    epochs: float | int = 1
    batch_size: int = 16
    accumulate: int = 1
    schedule: str = "cosine"
    warmup: float = 0.1
    weight_decay: float | int = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | int | None = 1.0
    seed: int = 0
    validation: float = 0.0
    evaluate_every: int | None = None
    patience: int | None = None
    checkpoint_every: int = 50

    def __post_init__(self) -> None:
        check_types(Training, vars(self))
        vars(self).update(plain(vars(self)))  # frozen, so not by assignment
        require_seed(self.seed)
        for name in ("lr", "epochs", "clip"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} is {value}; it must be a positive number.")
        for name in (
            "steps", "batch_size", "accumulate", "evaluate_every", "patience", "checkpoint_every",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; it must be at least 1.")
        for name in ("warmup", "validation"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise InputError(f"{name} is {value}; it is a share, from 0 to below 1.")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise InputError(f"weight_decay is {self.weight_decay}; it must be 0 or more.")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"betas is {self.betas}; there must be two, each from 0 to below 1.")
        if self.schedule not in ("cosine", "linear", "constant"):
            raise InputError(
                f"schedule is {self.schedule!r}; use 'cosine', 'linear' or 'constant'."
            )
        if self.patience is not None and not self.validation:
            raise InputError(
                f"patience is {self.patience}, but nothing is held out to watch; set validation "
                "(0.1, say)."
            )

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step (counted from 0) out of ``steps``."""
        rising = math.ceil(self.warmup * steps)
        if step < rising:
            return self.lr * (step + 1) / rising
        if self.schedule == "constant":
            return self.lr
        done = (step - rising) / max(1, steps - rising)
        falling = 1 - done if self.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
        return self.lr * falling
