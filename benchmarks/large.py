"""Detection and training at scale, and whether ``tl-taskneurons plan`` foresees their cost.

    python benchmarks/large.py                                  # SmolLM2's shape, here
    python benchmarks/large.py --shape llama-2-7b --dtype bfloat16 --device cuda \
        --token-budget 8192

A model of the shape gets random weights, so nothing is downloaded. Evaluation (forward), detection
(grad_act) and training (an update of 10% of the neurons) run on batches of random tokens whose
last 4 are the answer; each is measured and compared with what was planned before from a few of
its layers. Seconds are the clock's, the fastest of the rounds; the machine should be idle. Memory
is that of tensors above the weights; on a GPU the allocator's figure. The share of the device's
peak counts 2 operations for each weight that a token passes forwards, 2 more where a gradient
passes it, and 2 for each weight that is trained.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import measure
import pandas as pd
import torch
from targets import Target

from tl_taskneurons.experiments import costs
from tl_taskneurons.models.view import view
from tl_taskneurons.runtime.memory import peak_of_tensors
from tl_taskneurons.tasks.prompts import Item

# Llama-2-7b as published (arXiv 2307.09288); the others are for machines without a large GPU.
SHAPES: dict[str, dict[str, int]] = {
    "llama-2-7b": {
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32_000,
    },
    "smollm2-135m": {
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49_152,
    },
    "mini": {
        "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 8,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 512,
    },
}  # fmt: skip
# Dense bfloat16 operations per second of tensor cores, from NVIDIA's data sheets.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
FRACTION = 0.10
TOLERANCE = 0.2


def config_of(shape: str) -> Any:
    """Return the Hugging Face config of a shape."""
    from transformers import LlamaConfig

    tied = shape == "smollm2-135m"
    return LlamaConfig(**SHAPES[shape], tie_word_embeddings=tied, max_position_embeddings=4096)


def items_of(config: Any, n: int, length: int) -> list[Item]:
    """Random tokens; the last 4 are the answer."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(3, config.vocab_size, (n, length), generator=generator).tolist()
    return [Item(i, tuple(row[:-4]), tuple(row[-4:]), ()) for i, row in enumerate(rows)]


def operations(config: Any, job: str) -> float:
    """Operations for a token, without attention's scores."""
    size, mlp = config.hidden_size, config.intermediate_size
    groups = config.num_key_value_heads / config.num_attention_heads
    a_layer = size * size * (2 + 2 * groups) + 3 * size * mlp
    weights = a_layer * config.num_hidden_layers
    if job == "evaluation":
        return 2 * weights
    trained = FRACTION * 3 * size * mlp * config.num_hidden_layers
    return 4 * weights + (2 * trained if job == "training" else 0)


def peak_speed(device: torch.device) -> float:
    """Operations per second at most; not a number where it isn't known."""
    if device.type != "cuda":
        return float("nan")
    name = torch.cuda.get_device_name(device)
    return next((speed for part, speed in PEAKS.items() if part in name), float("nan"))


def measured(
    model_view: Any, jobs: dict[str, costs.Job], repeats: int
) -> dict[str, tuple[float, int]]:
    """Return the seconds and the peak of each job's largest piece in the whole model."""
    found = {}
    for name, job in jobs.items():
        run = job.runner(model_view)
        with peak_of_tensors(model_view.device) as peak:
            run()
            run()
        found[name] = (min(_timed(run, model_view.device) for _ in range(repeats)), peak.bytes)
    return found


def _timed(run: Callable[[], object], device: torch.device) -> float:
    for last in (False, True):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if not last:
            start = time.perf_counter()
            run()
    return time.perf_counter() - start


def main(argv: Sequence[str] | None = None) -> None:
    """Plan, measure, print a table and write it to benchmarks/results."""
    parser = measure.parser(__doc__)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="smollm2-135m")
    parser.add_argument("--layers", type=int, help="fewer or more layers than the shape has")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device")
    parser.add_argument("--examples", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an example")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--token-budget", type=int, default=1024)
    given = measure.parse(parser, argv, shape="mini", examples=8, tokens=16)
    config = config_of(given.shape)
    if given.layers is not None:
        config = costs.with_layers(config, given.layers)
    items = items_of(config, given.examples, given.tokens)
    load = costs.Load(given.token_budget, given.batch_size, steps=1, fraction=FRACTION)
    planned = costs.plan(
        config, items, load, dtype=given.dtype, device=given.device, repeats=given.repeats
    )
    device = torch.device(given.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = costs.random_model(config, given.dtype, device)
    model_view = view(model)
    jobs = {name: costs.Job(name, items, load) for name in costs.JOBS}
    found = measured(model_view, jobs, given.repeats)
    speed = peak_speed(model_view.device)
    rows = {}
    for cost in planned:
        job, (seconds, peak) = jobs[cost.job], found[cost.job]
        done = job.largest * operations(config, cost.job)
        total = seconds * job.n_tokens / job.largest
        rows[cost.job] = {
            "tokens": job.largest, "seconds": seconds, "tokens / s": job.largest / seconds,
            "TFLOP / s": done / seconds / 1e12, "share of peak": done / seconds / speed,
            "peak GiB": peak / 2**30, "weights GiB": cost.weights / 2**30,
            "planned / measured seconds": cost.seconds / total,
            "planned / measured peak": cost.peak / peak,
        }  # fmt: skip
    table = pd.DataFrame.from_dict(rows, orient="index")
    print(f"{given.shape}, {config.num_hidden_layers} layers, {given.dtype}, {model_view.device}")
    print(table.round(3).to_string())
    goals = [
        Target(f"{what} of {name}, planned against measured, off by",
               abs(row[f"planned / measured {what}"] - 1), TOLERANCE)
        for name, row in rows.items() for what in ("seconds", "peak")
    ]  # fmt: skip
    measure.write("large", given, table, goals)


if __name__ == "__main__":
    main()
