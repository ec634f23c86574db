"""What weight similarity costs: seconds for twelve tasks, memory against one layer's weights.

    python benchmarks/similarity.py [--model smollm2-135m] [--tasks 12] [--repeats 5]

The sets are random, 10% of the neurons of each layer: the cost does not depend on which neurons
they are. Times are medians of CPU seconds on one thread, in turn in one process: what an idle
machine takes, also when others work on it. Memory is the peak of a process of its own above what it
held before the call, that is, beyond the model and the sets (Linux only). The model's fingerprint,
which every set carries, has been computed then. The plain way, which copies a layer's matrices
masked with each set, stands beside it, and the overlap of the same sets.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import tl_taskneurons as tn
from tl_taskneurons.results import provenance

FRACTION = 0.10


def make_sets(model: Any, n_tasks: int) -> dict[str, tn.NeuronSet]:
    """Random sets; making the first computes the model's fingerprint, which is not measured."""
    view = tn.view(model)
    first = torch.zeros(view.shape, dtype=torch.bool)
    first[:, : round(FRACTION * view.d_mlp)] = True
    seed_set = tn.NeuronSet(first, view.fingerprint)
    return {f"task {k}": seed_set.random_like(seed=k) for k in range(n_tasks)}


def dense(model: Any, sets: dict[str, tn.NeuronSet]) -> float:
    """The masked reading of all weights with masked copies; returns the last cosine."""
    cosine = 0.0
    for layer in tn.view(model).layers:
        weights = [
            part.parameter.detach().movedim(part.axis, 0)
            for name, part in layer.parameters.items()
            if name.startswith("W_")
        ]
        whole = torch.cat(weights, dim=1)
        masked = [whole * s.mask[layer.index, :, None] for s in sets.values()]
        flat = [each.flatten() / each.norm() for each in masked]
        for x, y in itertools.combinations(flat, 2):
            cosine = float(x @ y)
    return cosine


def contenders(model: Any, sets: dict[str, tn.NeuronSet]) -> dict[str, Callable[[], object]]:
    """The functions that are compared, all on the same sets."""
    runs: dict[str, Callable[[], object]] = {
        reading: lambda reading=reading: tn.weight_similarity(model, sets, reading=reading)
        for reading in tn.READINGS
    }
    runs["masked, with masked copies"] = lambda: dense(model, sets)
    runs["overlap"] = lambda: tn.overlap(sets)
    return runs


def peak_mib(arguments: argparse.Namespace, name: str) -> float:
    """Run one contender in a fresh process; its peak above what was there before."""
    command = [sys.executable, __file__, "--only", name, "--model", arguments.model]
    command += ["--tasks", str(arguments.tasks)]
    # Every larger block is given back when it is freed, so none that loading left hides a peak.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure and print a table; write it to benchmarks/results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = tn.load_model(given.model)
    sets = make_sets(model, given.tasks)
    runs = contenders(model, sets)
    if given.only:
        # The peak of loading must not hide what follows.
        Path("/proc/self/clear_refs").write_text("5")
        before = _status_kib("VmRSS")
        runs[given.only]()
        print(json.dumps((_status_kib("VmHWM") - before) / 1024))
        return
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(given.repeats):
        for name, run in runs.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    layer = tn.view(model).layers[0].parameters.values()
    layer_mib = sum(p.parameter.numel() * p.parameter.element_size() for p in layer) / 2**20
    memory = {name: peak_mib(given, name) for name in runs}
    table = pd.DataFrame(
        {
            "CPU seconds": {name: statistics.median(times) for name, times in seconds.items()},
            "peak MiB": memory,
            "peak / one layer's weights": {name: peak / layer_mib for name, peak in memory.items()},
        }
    )
    size = f"{given.tasks} random sets of {FRACTION:.0%}, one layer's weights {layer_mib:.1f} MiB"
    print(f"{given.model}, {size}")
    print(table.round(3).to_string())
    out = Path(__file__).parent / "results" / "similarity.json"
    out.parent.mkdir(exist_ok=True)
    facts = {key: value for key, value in provenance().items() if key != "time"}
    arguments = {key: value for key, value in vars(given).items() if key != "only"}
    content = {
        "arguments": arguments, "machine": facts, "layer_mib": layer_mib,
        "table": table.to_dict("index"),
    }  # fmt: skip
    out.write_text(json.dumps(content, indent=2) + "\n")


def _status_kib(field: str) -> float:
    """A line of the kernel's report on this process (Linux only)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
