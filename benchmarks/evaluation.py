"""What deactivation adds to an evaluation.

    python benchmarks/evaluation.py [--model smollm2-135m] [--limit 16] [--repeats 3]

The same examples are evaluated plainly and with random neurons silenced, the same share of every
layer, so that every layer pays for its hook.
"""

from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import measure
import pandas as pd
from targets import Target

import tl_taskneurons as tn

PLAIN, TASK = "plain", "present_past"
SHARES = {"1%": 0.01, "10%": 0.1, "100%": 1.0}
MOST = 1.05


def contenders(model: Any, limit: int) -> dict[str, Callable[[], object]]:
    """The functions that are compared, all on the same examples."""
    task = measure.real_task(model, TASK)
    run = partial(tn.evaluate_items, model, task, limit=limit)

    def silenced(neurons: tn.NeuronSet) -> None:
        with tn.deactivate(model, neurons):
            run()

    runs: dict[str, Callable[[], object]] = {PLAIN: run}
    scores = tn.score_neurons(model, task, "random")
    for share, fraction in SHARES.items():
        neurons = scores.top(fraction=fraction, per_layer=True)
        runs[f"{share} of neurons silenced"] = partial(silenced, neurons)
    return runs


def measure_times(given: Namespace) -> measure.Times:
    """Time the contenders in turn; call it in a process of its own."""
    model = tn.load_model(given.model, device="cpu")
    return measure.in_turn(contenders(model, given.limit), given.repeats)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table; write it to the results."""
    parser = measure.parser(__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--limit", type=int, default=16)
    given = measure.parse(parser, argv, model="mini-llama", limit=4)
    times = measure.apart(measure_times, given)
    table = pd.DataFrame(
        {"seconds": measure.medians(times), "time / plain": measure.ratios(times, PLAIN)}
    )
    targets = [
        Target(f"{name} / plain", measure.ratio(times, name, PLAIN), MOST)
        for name in times
        if name != PLAIN
    ]
    print(f"{given.model}: {given.limit} examples of {TASK}")
    measure.write(measure.result_name("evaluation"), given, table, targets, rounds=times)


if __name__ == "__main__":
    main()
