"""What answering by each input's own mixture of tasks costs beside a plain evaluation.

    python benchmarks/sequences.py [--models mini-llama mini-bloom smollm2-135m] [--repeats 5]

Some tasks are trained in 10% of the neurons each, hardly changed; then all of their test inputs are
answered: plainly by the base model, by W-NCFT (a mixture for each task), routed (a mixture for each
input, by its features) and by the nearest task's neurons. Features of the inputs are computed once
for all stages of a sequence, so they are timed apart.
"""

from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial

import measure
import pandas as pd
from targets import Target

import tl_taskneurons as tn
from tl_taskneurons.continual.features import input_features
from tl_taskneurons.continual.learners import Setting
from tl_taskneurons.continual.method import find_method
from tl_taskneurons.continual.scoring import score_history

PLAIN, FEATURES = "plain", "features, once for all stages"
METHODS = ("w-ncft", "routed", "epi-neurons")
TASKS = ("present_past", "country_capital", "singular_plural", "country_demonym")
MINI_TASKS = ("mini_things14", "mini_stars5", "mini_forum10", "mini_press4", "mini_people")
MOST = 1.3


def contenders(name: str, limit: int) -> dict[str, Callable[[], object]]:
    """The functions that are compared, all on the same inputs."""
    model = tn.load_model(name, device="cpu")
    mini = name.startswith("mini")
    tasks = tn.load_tasks("mini" if mini else "builtin", MINI_TASKS if mini else TASKS)
    # So little that all give the base model's answers: after more, other words are generated, and
    # not as many.
    training = tn.Training(lr=1e-7, steps=2, batch_size=4)
    setting = Setting(tn.view(model), tn.Tasks(t.limit(48, limit) for t in tasks), training)
    learner = find_method("routed").learner
    history = [learner.learn(setting, (), task) for task in setting.tasks]

    def features() -> None:
        for task in setting.tasks:
            input_features(model, task, split="test")

    def answered(method: str) -> object:
        return score_history(setting, find_method(method), history, setting.tasks.names)

    runs: dict[str, Callable[[], object]] = {
        PLAIN: partial(tn.evaluate, model, setting.tasks),
        FEATURES: features,
    }
    return runs | {method: partial(answered, method) for method in METHODS}


def measure_times(name: str, given: Namespace) -> measure.Times:
    """Time the contenders in turn; call it in a process of its own."""
    limit = given.limit if name.startswith("mini") else min(given.limit, 16)
    return measure.in_turn(contenders(name, limit), given.repeats)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table; write it to the results."""
    parser = measure.parser(__doc__)
    parser.add_argument("--models", nargs="+", default=["mini-llama", "mini-bloom", "smollm2-135m"])
    parser.add_argument("--limit", type=int, default=100, help="test inputs of each task, at most")
    given = measure.parse(parser, argv, models=["mini-llama"], limit=8)
    tables, targets, rounds = [], [], {}
    for name in given.models:
        times = measure.apart(measure_times, name, given)
        table = {"seconds": measure.medians(times), "time / plain": measure.ratios(times, PLAIN)}
        tables.append(pd.DataFrame(table).rename(index=lambda row, of=name: f"{of}: {row}"))
        targets += [
            Target(f"{name}: {method} / plain", measure.ratio(times, method, PLAIN), MOST)
            for method in METHODS
        ]
        rounds[name] = times
    measure.write(
        measure.result_name("sequences"), given, pd.concat(tables), targets, rounds=rounds
    )


if __name__ == "__main__":
    main()
