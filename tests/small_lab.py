"""A lab of four tasks and a tiny model, with the smallest plan of all experiments."""

from pathlib import Path
from typing import Any

from helpers import tiny_lens

from tl_taskneurons.experiments.lab.lab import Lab
from tl_taskneurons.experiments.lab.plan import MapSizes, Plan, SequenceSizes
from tl_taskneurons.experiments.lab.store import Store
from tl_taskneurons.tasks.task import Example, Task, Tasks


def classification(name: str, family: str) -> Task:
    examples = tuple(
        Example(f"{name[0]}{i}", "yes" if i % 2 else "no", "yes" if i % 2 else "no")
        for i in range(8)
    )
    return Task(name, examples, examples[:3], labels=("yes", "no"), family=family)


def generation(name: str, family: str) -> Task:
    examples = tuple(Example(f"{name[0]}{i}", "ab"[i % 2]) for i in range(8))
    return Task(name, examples, examples[:3], metric="exact_match", family=family)


TASKS = Tasks(
    [
        classification("food", "sentiment"), classification("film", "sentiment"),
        generation("past", "verbs"), generation("plural", "verbs"),
    ]
)  # fmt: skip
PLAN = Plan(
    seeds=(0, 1), steps=2, transfer_steps=1, batch_size=2, n_detect=4, n_train=6, n_test=3,
    shares=(0.1, 1.0), fixed_shares=(0.1, 0.3), overlaps=(0.2, 1.0), rates=(1e-2,),
    detections=2, silenced_samples=2, controls=2, fractions=(0.1,), speed_steps=1, max_new_tokens=2,
    map=MapSizes(tasks=("food", "past"), fractions=(0.1,), rates=(1e-3, 1e-2), updates=(1, 2)),
    sequences=SequenceSizes(("food,film",), ("ncft",), 2, 2, 6, 2, (1e-3,)),
)  # fmt: skip


def small_lab(tokenizer: Any, folder: Path) -> Lab:
    model = tiny_lens("llama", tokenizer=tokenizer)
    return Lab(model, "base", TASKS, PLAN, Store(folder), "")
