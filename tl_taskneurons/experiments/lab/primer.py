"""A base model that knows the labels of tasks in a row, as the paper's models do.

The miniature's base models have never seen topic labels, which cost them 13 nats, so that methods
would be compared by how fast they teach words. All weights are trained briefly on other inputs of
the tasks, with the labels in a phrase and after other instructions than the rows have; the change
is kept as a file. Rows start from there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from tl_taskneurons.continual.orders import order
from tl_taskneurons.experiments.lab import states
from tl_taskneurons.experiments.lab.lab import Lab
from tl_taskneurons.experiments.lab.states import State
from tl_taskneurons.experiments.lab.store import DELTA, Result, Unit
from tl_taskneurons.loading.tasks import load_tasks
from tl_taskneurons.tasks.task import Example, Task, tasks_digest
from tl_taskneurons.training.comparisons import finetune_all
from tl_taskneurons.training.settings import Training

# Instructions and how labels appear; all of words that the miniature's models know.
PHRASES = (("What is it?", "The class is {}."), ("Name it.", "{}."))
SEED = 20_000  # of the inputs; no row has it
EXAMPLES = 300
RATE, BATCH_SIZE = 1e-3, 16


def state(lab: Lab) -> State:
    """The base model with the labels known; as it is where the plan has no primer."""
    if not lab.plan.sequences.primer_steps:
        return states.base(lab)
    result = _result(lab)

    @contextmanager
    def enter() -> Iterator[Any]:
        with lab.store.get(result).applied(lab.base):
            yield lab.base

    return State("primed", {"model": result.digest}, enter)


def units(lab: Lab) -> list[Unit]:
    """The work of training it."""
    steps = lab.plan.sequences.primer_steps
    if not steps:
        return []
    tasks = primer_tasks(lab)
    mean = sum(map(lab.tokens, tasks)) / len(tasks)
    flops = 6 * lab.n_parameters * mean * steps * BATCH_SIZE
    return [lab.store.unit("make labels known", _result(lab), flops)]


def primer_tasks(lab: Lab) -> list[Task]:
    """Each task of the rows in other words: the label is generated in a phrase."""
    names = dict.fromkeys(name for each in lab.plan.sequences.orders for name in order(each))
    tasks = load_tasks(lab.data, tuple(names), seed=SEED)
    return [_phrased(task, k) for task in tasks if task.labels for k in range(len(PHRASES))]


def _phrased(task: Task, k: int) -> Task:
    instruction, phrase = PHRASES[k]
    train, test = (
        tuple(Example(each.input, phrase.format(each.target)) for each in split[:EXAMPLES])
        for split in (task.train, task.test)
    )
    return Task(f"{task.name} in words {k}", train, test, instruction=instruction, metric="rougeL")


def _result(lab: Lab) -> Result[Any]:
    steps = lab.plan.sequences.primer_steps
    training = Training(lr=RATE, steps=steps, batch_size=BATCH_SIZE, schedule="linear")
    tasks = lab.once("primer tasks", lambda: primer_tasks(lab))

    def compute() -> Any:
        return finetune_all(lab.base, tasks, None, training, prompt=lab.plan.prompt)

    key = {
        "model": lab.fingerprint,
        "primed on": lab.once("primer digest", lambda: tasks_digest(tasks)),
        "training": asdict(training),
        "prompt": lab.prompt_key,
    }
    return Result("models", key, compute, DELTA)
