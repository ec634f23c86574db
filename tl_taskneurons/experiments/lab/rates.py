"""Learning rates, one for each kind of set and share, chosen on held-out training examples.

Each rate is tried on the first classification and the first generation task, each trained alone
with a quarter of its examples held out, at a seed that no reported training has.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import pandas as pd

from tl_taskneurons.experiments.lab import states
from tl_taskneurons.experiments.lab.detection import scores
from tl_taskneurons.experiments.lab.lab import Lab, control, name_of
from tl_taskneurons.experiments.lab.search import RateSearch, stand_in
from tl_taskneurons.experiments.lab.store import Result
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.training.comparisons import finetune_all
from tl_taskneurons.training.finetune import finetune

HELD_OUT = 0.25
SEED = 10_000
ALL_WEIGHTS = "all weights"


@dataclass(frozen=True)
class Kind:
    """What a rate is chosen for.

    Attributes:
        neurons: ``"task"``, ``"total"`` or ``"layer"`` (random neurons, see ``lab.control``), or
            ``"all weights"``.
        fraction: share of the neurons.
    """

    neurons: str
    fraction: float = 1.0


def chosen(lab: Lab, kind: Kind) -> float:
    """The learning rate for a kind of set."""
    return lab.once(("rate", kind), search(lab, kind).best)


def search(lab: Lab, kind: Kind) -> RateSearch:
    """The choice for a kind of set; all weights take a third of the plan's rates."""
    scale = 1 / 3 if kind.neurons == ALL_WEIGHTS else 1.0
    grid = tuple(rate * scale for rate in lab.plan.rates)
    examples = lab.plan.steps * lab.plan.batch_size

    def results(lr: float) -> list[tuple[Result[pd.DataFrame], float]]:
        return [
            (_result(lab, kind, name, lr, grid), lab.training_flops([name], examples))
            for name in _tasks(lab)
        ]

    return RateSearch(lab.store, grid, results)


def rate_table(lab: Lab, kinds: Sequence[Kind]) -> pd.DataFrame:
    """Held-out losses in nats per token: ``neurons, fraction, lr, loss, chosen, at_edge``."""
    rows = [{**asdict(kind), **row} for kind in kinds for row in search(lab, kind).rows()]
    return pd.DataFrame(rows, columns=["neurons", "fraction", "lr", "loss", "chosen", "at_edge"])


def _tasks(lab: Lab) -> list[str]:
    """The first classification and the first generation task."""
    firsts = {task.is_classification: task.name for task in reversed(list(lab.tasks))}
    return [firsts[kind] for kind in (True, False) if kind in firsts]


def _neurons(lab: Lab, kind: Kind, name: str) -> NeuronSet | None:
    if kind.neurons == ALL_WEIGHTS:
        return None
    own = scores(lab, states.base(lab))[name].top(fraction=kind.fraction)
    return own if kind.neurons == "task" else control(own, name, kind.neurons, SEED)


def _result(
    lab: Lab, kind: Kind, name: str, lr: float, grid: Sequence[float]
) -> Result[pd.DataFrame]:
    training = replace(
        lab.plan.training(lr, SEED), validation=HELD_OUT, evaluate_every=lab.plan.steps
    )
    neurons = lab.once(("rate neurons", kind, name), partial(_neurons, lab, kind, name))

    def compute() -> pd.DataFrame:
        options: dict[str, Any] = {"prompt": lab.plan.prompt, "limit": lab.plan.n_train}
        task = lab.tasks[name]
        if neurons is None:
            delta = finetune_all(lab.base, task, None, training, **options)
        else:
            delta = finetune(lab.base, task, neurons, training, **options)
        return pd.DataFrame({"loss": [float(delta.history["validation_loss"].iloc[-1])]})

    key = {
        "model": lab.fingerprint,
        "neurons": ALL_WEIGHTS if neurons is None else name_of(neurons),
        "on": lab.examples(name, n_train=lab.plan.n_train),
        "training": asdict(training),
        "asked": lab.prompt_key,
    }
    return Result("rates", key, compute, stand_in=partial(stand_in, grid, lr))
