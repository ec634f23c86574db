"""Testing tasks after some stages, every input with the weights that are meant for it."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial

import pandas as pd

from tl_taskneurons.continual.inference import InputGroup
from tl_taskneurons.continual.learners import History, Setting
from tl_taskneurons.continual.method import Method
from tl_taskneurons.continual.storage import StageStore
from tl_taskneurons.evaluation.evaluate import evaluate_items
from tl_taskneurons.evaluation.tables import summarise
from tl_taskneurons.tasks.task import Task


def score_history(
    setting: Setting,
    method: Method,
    history: History,
    names: Sequence[str],
    store: StageStore | None = None,
) -> pd.DataFrame:
    """Test tasks after some stages, answered as the method answers them.

    Args:
        setting: the model and the tasks.
        method: says in which state each input is answered.
        history: the stages.
        names: of the tasks.
        store: has the answers that another method, or an earlier stage, gave in the same state.

    Returns:
        The sequences of ``evaluate``, one per task.
    """
    every = {name: range(len(setting.tasks[name].test)) for name in names}
    base = [InputGroup.after(setting, method.learner, (), every)]
    groups = method.inference.groups(setting, method.learner, history, names) if history else base
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in names}
    for group in groups:
        with ExitStack() as stack:
            enter = cache(partial(stack.enter_context, group.state))  # once, where it is needed
            for name, positions in group.inputs.items():
                if not len(positions):
                    continue
                task = setting.tasks[name]
                part = replace(task, test=tuple(task.test[i] for i in positions))
                answer = partial(_answer, setting, part, enter)
                if store is None or group.name is None:
                    items = answer()
                else:
                    items = store.answers(setting, group.name, part, answer)
                parts[name].append(items.assign(item=list(positions)))
    whole = [_joined(found) for found in parts.values()]
    return summarise(pd.concat(whole, ignore_index=True))


def _answer(setting: Setting, task: Task, enter: Callable[[], object]) -> pd.DataFrame:
    enter()
    return evaluate_items(setting.view.model, task, prompt=setting.prompt)


def _joined(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Put the parts of one task's test split together again."""
    n_truncated = sum(int(part["n_truncated"].iloc[0]) for part in parts)
    return pd.concat(parts).sort_values("item").assign(n_truncated=n_truncated)
