"""Mini tasks by name: a seed makes the items, a hash of their content decides the side.

An item belongs to the test side when the hash of its key (premise, lead sentence, set of fields)
falls into one tenth; so no seed and no size can bring a test combination into training.
"""

import random
import zlib
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice

from tl_taskneurons.builtin.mini.lexicon import Draft
from tl_taskneurons.builtin.mini.recipes import RECIPES, Recipe
from tl_taskneurons.runtime.errors import InputError, did_you_mean
from tl_taskneurons.tasks.task import Example, Task

_PATIENCE = 400  # draws without a new item before the grammar counts as exhausted


def mini_names() -> tuple[str, ...]:
    """Return the names of all mini tasks: the twelve, then the four topic tasks."""
    return tuple(RECIPES)


def recipe(name: str) -> Recipe:
    """Return the recipe of a mini task.

    Raises:
        ValueError: If no mini task has this name; the message lists the names.
    """
    if name not in RECIPES:
        raise InputError(f"No mini task is called {name!r}{did_you_mean(name, tuple(RECIPES))}")
    return RECIPES[name]


def is_test(draft: Draft) -> bool:
    """Whether a draft belongs to the test side, whatever the seed."""
    return zlib.crc32(draft.key.encode()) % 10 == 0


def drafts(recipe: Recipe, rng: random.Random, *, test: bool) -> Iterator[tuple[Draft, str | None]]:
    """Yield new items of one side for ever, the labels in turn, each with its label.

    The iterator ends when the grammar brings nothing new for a long while.
    """
    seen: set[str] = set()
    turn = 0
    while True:
        label = recipe.labels[turn % len(recipe.labels)] if recipe.labels else None
        for _ in range(_PATIENCE):
            draft = recipe.make(rng, label)
            if is_test(draft) == test and draft.input not in seen:
                break
        else:
            return
        seen.add(draft.input)
        turn += 1
        yield draft, label


def _examples(recipe: Recipe, count: int, seed: int, *, test: bool) -> tuple[Example, ...]:
    side = "test" if test else "train"
    rng = random.Random(f"{recipe.name}/{side}/{seed}")
    stream = drafts(recipe, rng, test=test)
    made = [
        Example(draft.input, draft.target, label, draft.references)
        for draft, label in islice(stream, count)
    ]
    if len(made) < count:
        raise InputError(
            f"{recipe.name} has no more than {len(made)} {side} items with seed {seed}, "
            f"{count} were asked for; ask for fewer"
        )
    rng.shuffle(made)
    return tuple(made)


@lru_cache(maxsize=128)  # rows of tasks in several orders ask for the same ones
def mini_task(name: str, *, n_train: int = 2000, n_test: int = 200, seed: int = 0) -> Task:
    """Make one mini task.

    Args:
        name: One of `mini_names()`.
        n_train: Number of training items.
        n_test: Number of test items. Their combinations never occur in training, with any seed.
        seed: The same seed gives the same items, everywhere.

    Returns:
        The task; its labels come equally often (to within one).

    Raises:
        ValueError: If the name is unknown, a number is negative, or the grammar has fewer items.
    """
    made = recipe(name)
    if n_train < 0 or n_test < 0:
        raise InputError(f"n_train and n_test must be 0 or more, got {n_train} and {n_test}")
    return Task(
        name=made.name,
        train=_examples(made, n_train, seed, test=False),
        test=_examples(made, n_test, seed, test=True),
        instruction=made.instruction,
        labels=made.labels,
        metric=made.metric,
        family=made.family,
    )
