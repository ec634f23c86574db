"""What other metrics, positions and methods cost beside plain attribution, and exact ablation.

    python benchmarks/methods_cost.py [--model smollm2-135m] [--limit 8] [--repeats 3]

The same examples are scored by each. Single neurons, spread over all layers, are silenced by
``"exact"`` and, for comparison, by a whole run of the model for each.
"""

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import measure
import pandas as pd
import torch
from targets import Target

import tl_taskneurons as tn

PLAIN, EXACT, WHOLE = "grad_act of the loss", "exact", "a whole run a neuron"
TASK = "present_past"
METRIC_MOST, RELP_MOST, EXACT_MOST = 1.05, 1.15, 0.2


def contenders(model: Any, limit: int) -> dict[str, Callable[[], object]]:
    """The ways of scoring that are compared, all on the same examples."""
    task = measure.real_task(model, TASK)
    some = task.train[:limit]
    answers = [example.target for example in some]
    others = [next(answer for answer in answers if answer != own) for own in answers]
    task = replace(task, train=tuple(
        replace(example, wrong=(other,)) for example, other in zip(some, others, strict=True)
    ))  # fmt: skip
    score = partial(tn.score_neurons, model, task)
    return {
        PLAIN: score,
        "logit_diff at the answer": partial(score, metric="logit_diff", positions="answer"),
        "prob at the last token of the prompt": partial(
            score, metric="prob", positions="last_prompt"
        ),
        "relp": partial(score, "relp"),
    }


def one_by_one(model: Any, task: tn.Task, neurons: tn.NeuronSet) -> torch.Tensor:
    """The mean size of the change of the loss, by silencing in whole runs."""
    items = partial(tn.evaluate_items, model, task, split="train", metric="loss")
    before, found = items()["loss"], torch.zeros(neurons.mask.shape)
    for layer, j in neurons:
        with tn.deactivate(model, [(layer, j)]):
            found[layer, j] = float((items()["loss"] - before).abs().mean())
    return found


def measured(given: Namespace) -> tuple[measure.Times, measure.Times, float]:
    """Time all in turn; also the largest difference of the two ways to silence, in nats."""
    model = tn.load_model(given.model, device="cpu")
    times = measure.in_turn(contenders(model, given.limit), given.repeats)
    task = measure.real_task(model, TASK)
    task = replace(task, train=task.train[: given.exact_limit])
    neurons = tn.score_neurons(model, task, "random").top(n=given.neurons)
    found: dict[str, torch.Tensor] = {}

    def keep(name: str, run: Callable[[], torch.Tensor]) -> None:
        found[name] = run()

    ways = {
        EXACT: lambda: tn.score_neurons(model, task, "exact", neurons=neurons).values,
        WHOLE: lambda: one_by_one(model, task, neurons),
    }
    runs = {name: partial(keep, name, run) for name, run in ways.items()}
    exact = measure.in_turn(runs, 1, warm_up=0)
    return times, exact, float((found[EXACT] - found[WHOLE]).abs().max())


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table; write it to the results."""
    parser = measure.parser(__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--exact-limit", type=int, default=8)
    parser.add_argument("--neurons", type=int, default=240)
    given = measure.parse(parser, argv, model="mini-llama", limit=4, exact_limit=2, neurons=6)
    times, exact, difference = measure.apart(measured, given)
    table = pd.DataFrame({"seconds": measure.medians(times), "ratio": measure.ratios(times, PLAIN)})
    of_exact = pd.DataFrame(
        {"seconds": measure.medians(exact), "ratio": measure.ratios(exact, WHOLE)}
    )
    targets = [
        Target(f"{name} / {PLAIN}", measure.ratio(times, name, PLAIN),
               RELP_MOST if name == "relp" else METRIC_MOST)
        for name in times
        if name != PLAIN
    ]  # fmt: skip
    targets.append(Target(f"{EXACT} / {WHOLE}", measure.ratio(exact, EXACT, WHOLE), EXACT_MOST))
    print(f"{given.model}: {given.limit} examples of {TASK}; {given.neurons} neurons")
    measure.write(
        measure.result_name("methods_cost"), given, pd.concat([table, of_exact]), targets,
        rounds=times, difference=difference,
    )  # fmt: skip


if __name__ == "__main__":
    main()
