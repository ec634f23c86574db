"""The training loop of the mini models: Muon and AdamW on batches of similar length."""

import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tl_taskneurons.atomic import write_atomically
from tl_taskneurons.builtin.mini.muon import Muon


@dataclass(frozen=True)
class Row:
    """One training sequence.

    Attributes:
        ids: Token ids.
        start: Position of the first token that is learnt.
        first: Weight of that token in the loss; the others weigh 1.
    """

    ids: tuple[int, ...]
    start: int = 1
    first: float = 1.0


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn.

    Attributes:
        steps: Number of updates.
        muon: Peak learning rate of the blocks' matrices (Muon); all rates rise over ``warmup``
            steps and fall as a cosine to 2%.
        adam: Peak learning rate of embeddings, norms and biases (AdamW).
        tokens: Tokens of a batch, padding included.
        warmup: Steps of linear rise.
        seed: Order of the batches.
    """

    steps: int
    muon: float = 0.02
    adam: float = 0.005
    tokens: int = 3072
    warmup: int = 50
    seed: int = 0


def batches(rows: Sequence[Row], tokens: int, seed: int) -> Iterator[list[Row]]:
    """Yield batches of rows of similar length for ever, in a random order each time round."""
    rng = random.Random(seed)
    while True:
        order = sorted(rows, key=lambda row: (len(row.ids), rng.random()))
        groups: list[list[Row]] = [[]]
        for row in order:
            if groups[-1] and (len(groups[-1]) + 1) * len(row.ids) > tokens:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        yield from groups


def answer_loss(model: Any, batch: Sequence[Row]) -> Tensor:
    """Weighted mean cross-entropy in nats of the learnt tokens; only their logits are computed."""
    width = max(len(row.ids) for row in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    weights = torch.zeros(len(batch), width)
    for i, row in enumerate(batch):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        weights[i, row.start : len(row.ids)] = 1.0
        weights[i, row.start] = row.first
    # No attention mask: padding is on the right, where a causal model never looks.
    hidden = model.base_model(input_ids=ids[:, :-1], use_cache=False)[0]
    learnt = weights[:, 1:] > 0
    head = model.get_output_embeddings()
    assert head is not None
    losses = torch.nn.functional.cross_entropy(
        head(hidden[learnt]), ids[:, 1:][learnt], reduction="none"
    )
    kept = weights[:, 1:][learnt]
    return (losses * kept).sum() / kept.sum()


def _rate(schedule: Schedule, step: int) -> float:
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    done = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def _optimisers(model: Any, schedule: Schedule) -> list[torch.optim.Optimizer]:
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        inner = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
        (matrices if inner else others).append(parameter)
    return [
        Muon(matrices, lr=schedule.muon),
        torch.optim.AdamW(others, lr=schedule.adam, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def _save(path: Path, model: Any, optimisers: Sequence[torch.optim.Optimizer], step: int) -> None:
    """Write weights and optimiser state as safetensors, atomically."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    tensors = {f"weight/{name}": p.detach().clone() for name, p in model.named_parameters()}
    for optimiser in optimisers:
        for parameter, state in optimiser.state.items():
            for key, value in state.items():
                tensors[f"{key}/{names[id(parameter)]}"] = torch.as_tensor(value).clone()
    write_atomically(path, lambda part: save_file(tensors, part, metadata={"step": str(step)}))


def _resume(path: Path, model: Any, optimisers: Sequence[torch.optim.Optimizer]) -> int:
    """Load what `_save` wrote; return the number of steps that are done."""
    tensors = load_file(path)
    named = dict(model.named_parameters())
    owner = {id(p): o for o in optimisers for group in o.param_groups for p in group["params"]}
    for entry, value in tensors.items():
        key, name = entry.split("/", 1)
        if key == "weight":
            named[name].data.copy_(value)
        else:
            owner[id(named[name])].state[named[name]][key] = value
    with safe_open(path, "pt") as file:
        return int(file.metadata()["step"])


def fit(
    model: Any, rows: Sequence[Row], schedule: Schedule, *, name: str,
    checkpoint: Path | None = None,
) -> float:  # fmt: skip
    """Train a model in place.

    Args:
        model: A causal Hugging Face model in float32.
        rows: The training sequences.
        schedule: How long and how fast.
        name: What the progress lines on standard error say.
        checkpoint: A file to save to every 100 steps and to resume from; None saves nothing.

    Returns:
        Seconds spent in this call.
    """
    optimisers = _optimisers(model, schedule)
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]
    first = 0
    if checkpoint is not None and checkpoint.exists():
        first = _resume(checkpoint, model, optimisers)
    source = batches(rows, schedule.tokens, schedule.seed)
    for _ in range(first):
        next(source)
    model.train()
    began, running = time.perf_counter(), []
    for step in range(first, schedule.steps):
        loss = answer_loss(model, next(source))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * _rate(schedule, step)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        running.append(loss.item())
        if (step + 1) % 50 == 0 or step + 1 == schedule.steps:
            seconds = time.perf_counter() - began
            mean = sum(running) / len(running)
            sys.stderr.write(
                f"{name} {step + 1}/{schedule.steps} loss {mean:.4f} {seconds:.0f} s\n"
            )
            sys.stderr.flush()
            running = []
        if checkpoint is not None and (step + 1) % 100 == 0:
            _save(checkpoint, model, optimisers, step + 1)
    model.eval()
    return time.perf_counter() - began
