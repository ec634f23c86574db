"""From a task to what a model runs: the one road to encoded examples and their batches."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypedDict
from weakref import WeakKeyDictionary

from tl_taskneurons.models.forward import NOTHING, Added, adding
from tl_taskneurons.models.view import ModelView, view
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.options import require_number
from tl_taskneurons.tasks.batches import Batch, make_batches, token_budget_for
from tl_taskneurons.tasks.prompts import Encoded, Item, Prompt, encode
from tl_taskneurons.tasks.task import Task


class DataOptions(TypedDict, total=False):
    """The fields of ``Data``, as keyword arguments."""

    split: str
    prompt: Prompt
    limit: int | None
    token_budget: int | None


@dataclass(frozen=True)
class Data:
    """Which examples of a task, and how they become text and batches.

    Attributes:
        split: ``"train"`` or ``"test"``.
        prompt: how examples become text.
        limit: at most the first ``limit`` examples; None takes all.
        token_budget: the most tokens in a batch, padding included; None suits the device. Where
            memory runs out, batches are cut in halves, with a warning.
    """

    split: str = "train"
    prompt: Prompt = Prompt()
    limit: int | None = None
    token_budget: int | None = None

    def __post_init__(self) -> None:
        require_number("limit", self.limit, whole=True, least=1)
        require_number("token_budget", self.token_budget, whole=True, least=1)


class CutInputWarning(UserWarning):
    """Examples were cut to fit the model's context; the message says how many."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """The tokenised examples of a task, and the size of batches that suits a model's device.

    Attributes:
        items: one per example, in the order of the split.
        n_truncated: examples whose input was shortened to fit the context.
        n_fewer_shots: examples that lost demonstrations to fit the context.
        token_budget: the most tokens in a batch.
    """

    items: tuple[Item, ...]
    n_truncated: int
    n_fewer_shots: int
    token_budget: int

    def batches(
        self, items: Sequence[Item] | None = None, *, with_end: bool = False
    ) -> Iterator[Batch]:
        """Yield batches, on the CPU, of all examples or of items made from them."""
        chosen = self.items if items is None else items
        return make_batches(chosen, token_budget=self.token_budget, with_end=with_end)


# What open interventions do to examples that are read, e.g. to give them counterfactual prompts.
_CHANGING: ContextVar[Added[Callable[[tuple[Item, ...]], tuple[Item, ...]]]] = ContextVar(
    "changing", default=NOTHING
)


# What each model's users were told of inputs that were cut.
_TOLD: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()


@contextmanager
def changing_items(change: Callable[[tuple[Item, ...]], tuple[Item, ...]]) -> Iterator[None]:
    """Change the examples that ``read_inputs`` gives while the context is open."""
    with adding(_CHANGING, change):
        yield


def read_inputs(
    model: ModelView | Any, task: Task, data: Data, *, room: int = 0, contrast: bool = False
) -> Inputs:
    """Tokenise a task's examples for a model.

    Args:
        model: the model or its view.
        task: the task.
        data: which examples, and how.
        room: tokens of the context that are left free, for answers to be generated.
        contrast: tokenise the examples' wrong answers and counterfactual inputs as well.

    Warns:
        CutInputWarning: for inputs or demonstrations that the context has no room for.

    Raises:
        ValueError: as ``tasks.prompts.encode`` does, and for a token budget below 1.
    """
    model_view = view(model)
    changes = _CHANGING.get().values()
    encoded = encode(
        task, getattr(model_view.model, "tokenizer", None), split=data.split, prompt=data.prompt,
        limit=data.limit,
        max_length=None if model_view.n_ctx is None else model_view.n_ctx - room,
        contrast=contrast or bool(changes),
    )  # fmt: skip
    _tell_cut(encoded, task, data, model_view, room)
    budget = token_budget_for(model_view.device, data.token_budget)
    items = encoded.items
    for change in changes:
        items = change(items)
    require_counterfactuals_fit(model_view, items)
    return Inputs(items, encoded.n_truncated, encoded.n_fewer_shots, budget)


def _tell_cut(encoded: Encoded, task: Task, data: Data, model_view: ModelView, room: int) -> None:
    """Warn of what was cut, once for each model: searches read the same inputs many times."""
    cut = {
        "the ends of their inputs": encoded.n_truncated,
        "demonstrations": encoded.n_fewer_shots,
    }
    lost = " and ".join(f"{n} lost {what}" for what, n in cut.items() if n)
    free = f", less {room} for the answer" if room else ""
    text = (
        f"Of {len(encoded.items)} {data.split} examples of task {task.name!r}, {lost}, since "
        f"{model_view.name} reads {model_view.n_ctx} tokens{free}. Shorten them, use fewer "
        f"demonstrations (shots is {data.prompt.shots}), or take a model of longer context."
    )
    told = _TOLD.setdefault(model_view.model, set())
    if lost and text not in told:
        warnings.warn(text, CutInputWarning, stacklevel=3)
        told.add(text)


def require_counterfactuals_fit(model_view: ModelView, items: Sequence[Item]) -> None:
    """Raise ValueError naming an example whose counterfactual prompt and answer are too long."""
    n_ctx = model_view.n_ctx or math.inf
    for item in items:
        n_tokens = len(item.counterfactual) + len(item.answer)
        if item.counterfactual and n_tokens > n_ctx:
            raise InputError(
                f"The counterfactual prompt of example {item.index} and the example's answer have "
                f"{n_tokens} tokens, more than the context of {n_ctx} tokens of "
                f"{model_view.name}; shorten the inputs (Task.shorter leaves long ones out) or "
                "use another ablation."
            )


def require_fitting(model_view: ModelView, items: Sequence[Item]) -> None:
    """Raise ValueError naming an item that a model can't read: too long, or of unknown ids."""
    n_ctx = model_view.n_ctx
    n_ids = getattr(model_view.model.cfg, "d_vocab", None)
    for item in items:
        ids = item.prompt + item.answer
        if n_ctx is not None and len(ids) > n_ctx:
            raise InputError(
                f"Item {item.index} has {len(ids)} tokens, more than the context of {n_ctx} tokens "
                f"of {model_view.name}; shorten its prompt."
            )
        if not n_ids:
            continue
        every = chain(ids, *item.wrong, item.counterfactual)
        bad = next((i for i in every if not 0 <= i < n_ids), None)
        if bad is not None:
            raise InputError(
                f"Item {item.index} has the token id {bad}, but {model_view.name} has the ids 0 to "
                f"{n_ids - 1}; use the model's own tokenizer."
            )
