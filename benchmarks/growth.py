"""How the cost of scoring grows: with tokens, layers, neurons per layer and tasks.

    python benchmarks/growth.py [--doublings 3] [--repeats 3]

Random models of two shapes are made from a config: a gated one (Llama) and a plain one (GPT-2).
One size doubles at a time. The exponent is the slope of log cost over log size: 1 is linear, less
says that a fixed part still weighs. Attention itself grows faster with the length of an example,
so there a forward pass stands beside the scores as the yardstick, and, to tell attention's backward
pass from our work, a backward pass to the first layer's neurons that computes no scores.
"""

import math
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import measure
import numpy as np
import pandas as pd
import torch
from attribution import floor, forward
from rivals import Work
from targets import Target

import tl_taskneurons as tn
from tl_taskneurons.neurons.scoring import score_batches
from tl_taskneurons.tasks.batches import Batch

VOCAB, D_MODEL, HEADS, N_ANSWER = 512, 128, 4, 4
SHAPES = ("gated", "plain")
AXES = {
    "rows": "tokens, in one batch",
    "n_batches": "tokens, in more batches",
    "length": "tokens of an example",
    "layers": "layers",
    "d_mlp": "neurons per layer",
    "tasks": "tasks",
}
# Axes along which memory should stay as it is.
FLAT = ("n_batches", "tasks")
MOST_EXPONENT, MOST_FLAT = 1.1, 0.2


@dataclass(frozen=True)
class Size:
    """One point of measurement; each axis of ``AXES`` is a field."""

    shape: str
    rows: int = 8
    n_batches: int = 1
    length: int = 64
    layers: int = 4
    d_mlp: int = 512
    tasks: int = 1

    def along(self, axis: str, factor: int) -> "Size":
        """Return this size with one axis multiplied."""
        return replace(self, **{axis: getattr(self, axis) * factor})


def make_model(size: Size) -> Any:
    """A random model; every parameter is drawn, none is loaded."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    context = 4096
    if size.shape == "gated":
        hf = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCAB, hidden_size=D_MODEL, intermediate_size=size.d_mlp,
                num_hidden_layers=size.layers, num_attention_heads=HEADS,
                num_key_value_heads=HEADS, max_position_embeddings=context,
            )
        )  # fmt: skip
    else:
        hf = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=VOCAB, n_embd=D_MODEL, n_inner=size.d_mlp, n_layer=size.layers,
                n_head=HEADS, n_positions=context, bos_token_id=0, eos_token_id=0,
            )
        )  # fmt: skip
    return tn.load_model(hf, device="cpu")


def make_batches(size: Size) -> list[Batch]:
    """Random tokens of equal length; the last few are the answer."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(size.n_batches):
        tokens = torch.randint(1, VOCAB, (size.rows, size.length), generator=generator)
        answer = torch.zeros_like(tokens, dtype=torch.bool)
        answer[:, -N_ANSWER:] = True
        batches.append(Batch(tokens, torch.ones_like(answer), answer, tuple(range(size.rows))))
    return batches


def contender(size: Size, work: str = "scores") -> Callable[[], object]:
    """Make the function whose cost is measured; the scores of all tasks are kept."""
    view = tn.view(make_model(size))
    batches = make_batches(size)

    def score() -> list[torch.Tensor]:
        return [score_batches(view, batches, "grad_act") for _ in range(size.tasks)]

    yardsticks = {"forward": forward, "backward": floor}
    return score if work == "scores" else lambda: yardsticks[work](Work(view), batches)


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return the slope of log cost over log size, by least squares."""
    if any(not cost > 0 for cost in costs):
        return math.nan
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def measure_times(given: Namespace, shape: str, axis: str) -> dict[str, list[float]]:
    """Median seconds at each size, of scores and of the yardsticks, taken in turn."""
    factors = [2**k for k in range(given.doublings + 1)]
    sizes = [base(given, shape).along(axis, factor) for factor in factors]
    works = ("scores", "forward", "backward") if axis == "length" else ("scores",)
    runs = {f"{work} {k}": contender(s, work) for work in works for k, s in enumerate(sizes)}
    times = measure.medians(measure.in_turn(runs, given.repeats))
    return {work: [times[f"{work} {k}"] for k in range(len(factors))] for work in works}


def peak_mib(size: Size) -> float:
    """The peak above a loaded model; call it in a process of its own."""
    run = contender(size)
    return measure.peak_of(lambda: run, runs=1)


def base(given: Namespace, shape: str) -> Size:
    """The size from which every axis grows."""
    return Size(shape, rows=2, length=16, d_mlp=64) if given.quick else Size(shape)


def row_of(given: Namespace, shape: str, axis: str) -> dict[str, Any]:
    """Measure one axis of one shape."""
    factors = [2**k for k in range(given.doublings + 1)]
    times = measure.apart(measure_times, given, shape, axis)
    sizes = [base(given, shape).along(axis, factor) for factor in factors]
    none = [math.nan] * len(factors)
    peaks = [measure.apart(peak_mib, size) for size in sizes]
    return {
        "from": getattr(sizes[0], axis),
        "to": getattr(sizes[-1], axis),
        "seconds": times["scores"],
        "time exponent": exponent(factors, times["scores"]),
        "worst doubling": max(
            b / a for a, b in zip(times["scores"], times["scores"][1:], strict=False)
        ),
        "forward exponent": exponent(factors, times.get("forward", none)),
        "backward exponent": exponent(factors, times.get("backward", none)),
        "peak MiB": peaks,
        "memory exponent": exponent(factors, peaks),
    }


def targets_of(shape: str, axis: str, row: dict[str, Any]) -> list[Target]:
    """Linear in time and memory; memory flat where it can be; no faster than attention's growth."""
    forward = row["forward exponent"]
    time_limit = MOST_EXPONENT if math.isnan(forward) else max(1.0, forward) + 0.1
    memory_limit = MOST_FLAT if axis in FLAT else MOST_EXPONENT
    if axis == "length":
        # Attention scores are kept for the backward pass, one number per pair of tokens.
        memory_limit = 2.0
    what = f"{shape}: exponent with {AXES[axis]}"
    return [
        Target(f"{what}, time", row["time exponent"], round(time_limit, 2)),
        Target(f"{what}, memory", row["memory exponent"], memory_limit),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table; write it to the results."""
    parser = measure.parser(__doc__)
    parser.add_argument("--doublings", type=int, default=3)
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES))
    given = measure.parse(parser, argv, doublings=1, axes=["rows"])
    rows, targets = {}, []
    for shape in SHAPES:
        for axis in given.axes:
            print(f"  {shape}: {AXES[axis]}", flush=True)
            row = row_of(given, shape, axis)
            rows[f"{shape}: {AXES[axis]}"] = row
            targets += targets_of(shape, axis, row)
    table = pd.DataFrame.from_dict(rows, orient="index")
    plain = table.drop(columns=["seconds", "peak MiB"])
    print(f"random models, d_model {D_MODEL}, from {base(given, 'gated or plain')}")
    measure.write(
        measure.result_name("growth"), given, plain, targets,
        series={name: {k: row[k] for k in ("seconds", "peak MiB")} for name, row in rows.items()},
    )  # fmt: skip


if __name__ == "__main__":
    main()
