"""The model after training on all tasks together, in which the paper's Table 1 silences neurons.

It is another model by name, the base model itself, or the base model with a change that is trained
here once and kept as a file, so that reruns start from it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from tl_taskneurons.experiments.lab import states
from tl_taskneurons.experiments.lab.lab import Lab
from tl_taskneurons.experiments.lab.rates import ALL_WEIGHTS, Kind, chosen
from tl_taskneurons.experiments.lab.states import State
from tl_taskneurons.experiments.lab.store import DELTA, Result, Unit
from tl_taskneurons.training.comparisons import finetune_all, finetune_lora
from tl_taskneurons.training.settings import Training

BASE = "base"
_TRAINERS = {"all": finetune_all, "lora": finetune_lora}
MADE_OF_BASE = tuple(_TRAINERS)


def state(lab: Lab) -> State:
    """The tuned model as it is."""
    if not isinstance(lab.tuned, str):
        return states.given(lab, lab.tuned)
    return _together(lab) if lab.tuned in MADE_OF_BASE else states.base(lab)


def rate_kinds(lab: Lab) -> list[Kind]:
    """What its learning rate is chosen as, where it is: adapters take that of tasks' neurons."""
    if lab.tuned not in MADE_OF_BASE or lab.plan.tuned_rate is not None:
        return []
    return [Kind(ALL_WEIGHTS) if lab.tuned == "all" else Kind("task", lab.plan.fraction)]


def units(lab: Lab) -> list[Unit]:
    """The work of training it, where it is made of the base model."""
    if lab.tuned not in MADE_OF_BASE:
        return []
    training = _training(lab)
    examples = training.batch_size * (training.steps or 0)
    flops = lab.training_flops(lab.silenced, examples)
    return [lab.store.unit("train on all tasks", _result(lab), flops)]


def _together(lab: Lab) -> State:
    result = _result(lab)

    @contextmanager
    def enter() -> Iterator[Any]:
        with lab.store.get(result).applied(lab.base):
            yield lab.base

    return State("plain", {"model": result.digest}, enter)


def _training(lab: Lab) -> Training:
    lr = lab.plan.tuned_rate
    for kind in rate_kinds(lab):
        lr = chosen(lab, kind)
    assert lr is not None, f"{lab.tuned!r} is not trained here"
    training = lab.plan.training(lr, 0)
    return replace(training, steps=lab.plan.tuned_steps * len(lab.silenced), schedule="linear")


def _result(lab: Lab) -> Result[Any]:
    training = _training(lab)

    def compute() -> Any:
        options: dict[str, Any] = {"prompt": lab.plan.prompt, "limit": lab.plan.n_train}
        tasks = [lab.tasks[name] for name in lab.silenced]
        return _TRAINERS[lab.tuned](lab.base, tasks, None, training, **options)

    key = {
        "model": lab.fingerprint,
        "trained": lab.tuned,
        "on": [lab.examples(name, n_train=lab.plan.n_train) for name in lab.silenced],
        "training": asdict(training),
        "prompt": lab.prompt_key,
    }
    return Result("models", key, compute, DELTA)
