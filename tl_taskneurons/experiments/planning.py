"""What a reproduction will take: pieces of work, what is there already, time and memory."""

import time
from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import pandas as pd
import torch

from tl_taskneurons.experiments.lab.lab import Lab
from tl_taskneurons.experiments.lab.store import DryStore, Unit
from tl_taskneurons.experiments.reproduce import Job, open_lab, preparations
from tl_taskneurons.models.forward import answer_logits, frozen
from tl_taskneurons.models.inputs import Data, read_inputs
from tl_taskneurons.models.view import view

PASSES = 4  # forward passes that are timed; the fastest counts


@dataclass(frozen=True)
class Line:
    """One part of the work.

    Attributes:
        title: which.
        n_units: its pieces.
        n_done: those that are there.
        planned: seconds for all pieces, foreseen from the speed of the model now.
        spent: seconds that those which are there took.
        seconds: foreseen for the rest.
    """

    title: str
    n_units: int
    n_done: int
    planned: float
    spent: float
    seconds: float

    def with_later(self, line: "Line") -> "Line":
        """Count a later phase of the same work in."""
        numbers = zip(astuple(self)[1:], astuple(line)[1:], strict=True)
        return Line(self.title, *map(sum, numbers))


@dataclass(frozen=True)
class Estimate:
    """What a reproduction will take.

    Attributes:
        title: what it is an estimate of.
        lines: the parts of the work.
        seconds: for what is left, with all processes at work.
        memory: bytes that a process needs, weights included.
    """

    title: str
    lines: tuple[Line, ...]
    seconds: float
    memory: float


def estimate(job: Job, workers: int = 1) -> Estimate:
    """Say what a job will do and about how long it takes; models are loaded, nothing is run."""
    real = open_lab(job)
    lab = replace(real, store=DryStore(real.store.folder))
    work = list(preparations(lab, job.experiments))
    work += [(experiment.name, experiment.units(lab)) for experiment in job.experiments]
    speed = _speed(lab)
    lines, known = dict[str, Line](), set[str]()
    for title, units in work:
        new = _pieces(unit for unit in units if unit.lock not in known)
        known |= new.keys()
        left = [unit for piece in new.values() for unit in piece if unit.missing()]
        planned, seconds = (
            sum(max(unit.flops for unit in piece) for piece in pieces.values()) / speed
            for pieces in (new, _pieces(left))
        )
        spent = sum((unit.spent() for piece in new.values() for unit in piece), 0.0)
        n_done = len(new) - len(_pieces(left))
        line = Line(title, len(new), n_done, planned, spent, seconds)
        lines[title] = lines[title].with_later(line) if title in lines else line
    total = sum(line.seconds for line in lines.values()) / workers
    title = f"{job.subject.base}, preset {job.plan.preset}, {len(lab.tasks)} tasks"
    return Estimate(title, tuple(lines.values()), total, _memory(lab))


def _pieces(units: Iterable[Unit]) -> dict[str, list[Unit]]:
    """Units by their lock: those of one piece share the work, of which the largest is counted."""
    found: dict[str, dict[tuple[Path, ...], Unit]] = {}
    for unit in units:
        found.setdefault(unit.lock, {})[unit.files] = unit
    return {lock: list(own.values()) for lock, own in found.items()}


def minutes(found: Estimate) -> pd.DataFrame:
    """Return what was planned beside what it took.

    Returns:
        ``work, pieces, done, planned, taken``, the last two in minutes of one process.
    """
    rows = [
        (line.title, line.n_units, line.n_done, line.planned / 60, line.spent / 60)
        for line in found.lines
    ]
    return pd.DataFrame(rows, columns=["work", "pieces", "done", "planned", "taken"]).round(3)


def _speed(lab: Lab) -> float:
    """Operations per second to expect, from forward passes of the model on one of its tasks.

    The experiments are about as fast: for Table 1 on SmolLM2-135M this foresees 1,540 s of a core,
    and it took 1,930 s on a busy one.
    """
    model_view, task = view(lab.base), lab.tasks[lab.tasks.names[0]]
    inputs = read_inputs(model_view, task, Data(prompt=lab.plan.prompt, limit=lab.plan.batch_size))
    batches = [batch.to(model_view.device) for batch in inputs.batches()]
    n_tokens = sum(batch.tokens.numel() for batch in batches)
    seconds = []
    with torch.no_grad(), frozen(lab.base):
        for _ in range(PASSES):
            start = time.perf_counter()
            logits = [answer_logits(model_view, batch) for batch in batches]
            logits[-1][0, 0].item()  # waits for a GPU
            seconds.append(time.perf_counter() - start)
    return 2 * lab.n_parameters * n_tokens / min(seconds)


def _memory(lab: Lab) -> float:
    """Bytes for weights, AdamW's state for what is trained, and activations of a batch."""
    model_view = view(lab.base)
    n_weights = lab.n_parameters
    size = next(model_view.model.parameters()).element_size()
    models = 2 if not isinstance(lab.tuned, str) else 1
    # Gradient and two moments; and masters where weights are smaller than float32.
    state = n_weights * (12 + (4 if size < 4 else 0))
    tokens = max(map(lab.tokens, lab.tasks)) * lab.plan.batch_size
    layers, d_mlp = model_view.shape
    d_model = model_view.layers[0].d_model
    # About 16 vectors of d_model and 4 of d_mlp a layer are kept for the backward pass.
    activations = tokens * layers * (16 * d_model + 4 * d_mlp) * size
    logits = tokens * len(lab.base.tokenizer) * 8
    return n_weights * size * models + state + activations + logits
