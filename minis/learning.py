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

from minis.hints import EARLY_BLOCKS, LATE_BLOCKS
from tl_taskneurons.runtime.atomic import write_atomically


@dataclass(frozen=True)
class Row:
    """One training sequence.

    Attributes:
        ids: Token ids.
        start: Position of the first token that is learnt.
        first: Weight of that token in the loss; the others weigh 1.
        early: Positions and the token ids to read out there half-way (see ``hints``).
        late: The same, one block later.
    """

    ids: tuple[int, ...]
    start: int = 1
    first: float = 1.0
    early: tuple[tuple[int, int], ...] = ()
    late: tuple[tuple[int, int], ...] = ()


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


def answer_loss(
    model: Any, batch: Sequence[Row], readouts: torch.nn.ModuleDict | None = None
) -> Tensor:
    """Weighted mean cross-entropy in nats of the learnt tokens; only their logits are computed.

    With ``readouts`` the mean cross-entropies of the rows' hints are added.
    """
    width = max(len(row.ids) for row in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    weights = torch.zeros(len(batch), width)
    for i, row in enumerate(batch):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        weights[i, row.start : len(row.ids)] = 1.0
        weights[i, row.start] = row.first
    # No attention mask: padding is on the right, where a causal model never looks.
    made = model.base_model(
        input_ids=ids[:, :-1], use_cache=False, output_hidden_states=readouts is not None
    )
    hidden = made[0]
    learnt = weights[:, 1:] > 0
    head = model.get_output_embeddings()
    assert head is not None
    losses = torch.nn.functional.cross_entropy(
        head(hidden[learnt]), ids[:, 1:][learnt], reduction="none"
    )
    kept = weights[:, 1:][learnt]
    loss = (losses * kept).sum() / kept.sum()
    if readouts is not None:
        stream = made.hidden_states
        loss = loss + _hint_loss(readouts["early"], stream[EARLY_BLOCKS], [r.early for r in batch])
        loss = loss + _hint_loss(readouts["late"], stream[LATE_BLOCKS], [r.late for r in batch])
    return loss


def _hint_loss(
    readout: torch.nn.Module, stream: Tensor, hinted: Sequence[Sequence[tuple[int, int]]]
) -> Tensor:
    """Mean cross-entropy in nats of the words that a read-out should find in the stream."""
    at = [(i, place, word) for i, pairs in enumerate(hinted) for place, word in pairs]
    if not at:
        return stream.new_zeros(())
    rows, places, found = torch.tensor(at).T
    values = torch.nn.functional.rms_norm(stream[rows, places], stream.shape[-1:])
    return torch.nn.functional.cross_entropy(readout(values), found)


def _rate(schedule: Schedule, step: int) -> float:
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    done = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def _named(model: Any, readouts: torch.nn.ModuleDict | None) -> dict[str, torch.nn.Parameter]:
    """All that is trained, by name."""
    named = dict(model.named_parameters())
    if readouts is not None:
        named |= {f"readouts.{name}": p for name, p in readouts.named_parameters()}
    return named


def _optimisers(
    named: dict[str, torch.nn.Parameter], schedule: Schedule
) -> list[torch.optim.Optimizer]:
    matrices, others = [], []
    for name, parameter in named.items():
        outer = "embed" in name or "lm_head" in name or name.startswith("readouts")
        inner = parameter.ndim == 2 and not outer
        (matrices if inner else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=schedule.muon, weight_decay=0.0),
        torch.optim.AdamW(others, lr=schedule.adam, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def _save(
    path: Path,
    named: dict[str, torch.nn.Parameter],
    optimisers: Sequence[torch.optim.Optimizer],
    step: int,
) -> None:
    """Write weights and optimiser state as safetensors, atomically."""
    names = {id(parameter): name for name, parameter in named.items()}
    tensors = {f"weight/{name}": p.detach().clone() for name, p in named.items()}
    for optimiser in optimisers:
        for parameter, state in optimiser.state.items():
            for key, value in state.items():
                tensors[f"{key}/{names[id(parameter)]}"] = torch.as_tensor(value).clone()
    write_atomically(path, lambda part: save_file(tensors, part, metadata={"step": str(step)}))


def _resume(
    path: Path,
    named: dict[str, torch.nn.Parameter],
    optimisers: Sequence[torch.optim.Optimizer],
) -> int:
    """Load what `_save` wrote; return the number of steps that are done."""
    tensors = load_file(path)
    owner = {id(p): o for o in optimisers for group in o.param_groups for p in group["params"]}
    for entry, value in tensors.items():
        key, name = entry.split("/", 1)
        if name not in named:
            continue  # a read-out of a finished round, which nothing needs any more
        if key == "weight":
            named[name].data.copy_(value)
        else:
            owner[id(named[name])].state[named[name]][key] = value
    return steps_done(path)


def steps_done(path: Path | None) -> int:
    """Number of steps that a checkpoint has behind it; 0 without one."""
    if path is None or not path.exists():
        return 0
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
    readouts = None
    if any(row.early or row.late for row in rows):
        width, vocabulary = model.get_input_embeddings().weight.shape[::-1]
        torch.manual_seed(schedule.seed)
        readouts = torch.nn.ModuleDict(
            {name: torch.nn.Linear(width, vocabulary, bias=False) for name in ("early", "late")}
        )
    named = _named(model, readouts)
    optimisers = _optimisers(named, schedule)
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]
    first = 0
    if checkpoint is not None and checkpoint.exists():
        first = _resume(checkpoint, named, optimisers)
    source = batches(rows, schedule.tokens, schedule.seed)
    for _ in range(first):
        next(source)
    model.train()
    began, running = time.perf_counter(), []
    for step in range(first, schedule.steps):
        loss = answer_loss(model, next(source), readouts)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(named.values(), 1.0)
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
            _save(checkpoint, named, optimisers, step + 1)
    model.eval()
    return time.perf_counter() - began
