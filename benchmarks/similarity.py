"""What weight similarity costs: seconds for twelve tasks, memory against one layer's weights.

    python benchmarks/similarity.py [--model smollm2-135m] [--tasks 12] [--repeats 3]

The sets are random, 10% of the neurons of each layer: the cost does not depend on which neurons
they are. The model's fingerprint, which every set carries, has been computed before. The plain way,
which copies a layer's matrices masked with each set, stands beside it, and the overlap of the same
sets.
"""

import itertools
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

import measure
import pandas as pd
import torch
from targets import Target

import tl_taskneurons as tn

FRACTION = 0.10
COPIES = "masked, with masked copies"
MOST_LAYERS = 1.05


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
    runs[COPIES] = lambda: dense(model, sets)
    runs["overlap"] = lambda: tn.overlap(sets)
    return runs


def load(given: Namespace) -> tuple[Any, dict[str, tn.NeuronSet]]:
    """Load the model and draw the sets."""
    model = tn.load_model(given.model, device="cpu")
    return model, make_sets(model, given.tasks)


def measure_times(given: Namespace) -> tuple[measure.Times, float]:
    """Times, and the MiB of one layer's weights; call it in a process of its own."""
    model, sets = load(given)
    times = measure.in_turn(contenders(model, sets), given.repeats)
    layer = tn.view(model).layers[0].parameters.values()
    return times, sum(p.parameter.numel() * p.parameter.element_size() for p in layer) / 2**20


def peak_mib(given: Namespace, name: str) -> float:
    """The peak of one contender; call it in a process of its own."""
    model, sets = load(given)
    return measure.peak_of(lambda: contenders(model, sets)[name], runs=1)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table; write it to the results."""
    parser = measure.parser(__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", type=int, default=12)
    given = measure.parse(parser, argv, model="mini-llama", tasks=3)
    times, layer_mib = measure.apart(measure_times, given)
    quick = ("masked", COPIES)
    names = [name for name in times if not given.quick or name in quick]
    memory = {name: measure.apart(peak_mib, given, name) for name in names}
    table = pd.DataFrame(
        {
            "CPU seconds": measure.medians(times),
            "peak MiB": memory,
            "peak / one layer's weights": {name: peak / layer_mib for name, peak in memory.items()},
        }
    ).loc[list(times)]
    targets = [
        Target(f"{name}: peak / one layer's weights", memory[name] / layer_mib, MOST_LAYERS)
        for name in tn.READINGS
        if name in memory
    ]
    targets.append(Target(f"masked / {COPIES}", measure.ratio(times, "masked", COPIES), 1.0))
    size = f"{given.tasks} random sets of {FRACTION:.0%}, one layer's weights {layer_mib:.1f} MiB"
    print(f"{given.model}, {size}")
    measure.write(
        measure.result_name("similarity"), given, table, targets, layer_mib=layer_mib,
        rounds=times,
    )  # fmt: skip


if __name__ == "__main__":
    main()
