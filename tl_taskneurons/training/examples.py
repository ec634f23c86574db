"""Which examples training sees, and when: tokenised, split, put in order, made into batches."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from tl_taskneurons.models.inputs import Data, read_inputs
from tl_taskneurons.models.view import ModelView
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.tasks.batches import Batch, make_batches
from tl_taskneurons.tasks.prompts import Item, Prompt
from tl_taskneurons.tasks.task import Task
from tl_taskneurons.training.settings import Training


def training_items(
    model_view: ModelView, tasks: Sequence[Task], prompt: Prompt, limit: int | None = None
) -> list[Item]:
    """Tokenise the train splits of tasks, one after another; ``index`` counts through all of them.

    A generated answer is learnt with its end (a newline, or the end of the turn), so that the
    model knows where to stop; a label is learnt alone, because it is ranked.

    Raises:
        ValueError: when there is no task, or a train split is empty.
    """
    if not tasks:
        raise InputError("There is no task to train on; give at least one.")
    items: list[Item] = []
    for task in tasks:
        data = Data("train", prompt, limit)
        for item in read_inputs(model_view, task, data).items:
            end = () if task.is_classification else item.end
            items.append(replace(item, index=len(items), end=end))
    return items


def split(items: Sequence[Item], training: Training) -> tuple[list[Item], list[Item]]:
    """Hold out a share of the items, drawn by the seed."""
    if not items:
        raise InputError("There are no examples to train on.")
    if not training.validation:
        return list(items), []
    if len(items) < 2:
        raise InputError("validation needs at least two training examples, one to hold out.")
    order = list(range(len(items)))
    Random(f"validation/{training.seed}").shuffle(order)
    count = min(len(items) - 1, max(1, round(training.validation * len(items))))
    held = set(order[:count])
    return (
        [item for i, item in enumerate(items) if i not in held],
        [items[i] for i in sorted(held)],
    )


def examples_of(train: Sequence[Item], seed: int, step: int, per_step: int) -> list[Item]:
    """Return the examples of one update: every epoch has an order of its own, from the seed."""
    chosen: list[Item] = []
    orders: dict[int, list[int]] = {}
    for place in range(step * per_step, (step + 1) * per_step):
        epoch, i = divmod(place, len(train))
        if epoch not in orders:
            orders[epoch] = list(range(len(train)))
            Random(f"epoch/{seed}/{epoch}").shuffle(orders[epoch])
        chosen.append(train[orders[epoch][i]])
    return chosen


def one_batch(items: Sequence[Item], model_view: ModelView) -> Batch:
    """Return all items as one batch, whose ``index`` holds the items' own."""
    budget = len(items) * max(len(item) + len(item.end) for item in items)
    (batch,) = make_batches(items, token_budget=budget, with_end=True)
    index = tuple(items[i].index for i in batch.index)
    return replace(batch, index=index).to(model_view.device)
