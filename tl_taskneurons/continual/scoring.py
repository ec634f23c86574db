"""Testing tasks after some stages, every input with the weights that are meant for it."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import pandas as pd

from tl_taskneurons.continual.inference import InputGroup
from tl_taskneurons.continual.learners import History, Setting
from tl_taskneurons.continual.method import Method
from tl_taskneurons.evaluation.evaluate import evaluate_items
from tl_taskneurons.evaluation.tables import summarise


def score_history(
    setting: Setting, method: Method, history: History, names: Sequence[str]
) -> pd.DataFrame:
    """Test tasks after some stages, answered as the method answers them.

    Returns:
        The sequences of ``evaluate``, one per task.
    """
    every = {name: range(len(setting.tasks[name].test)) for name in names}
    base = [InputGroup(nullcontext(), every)]
    groups = method.inference.groups(setting, method.learner, history, names) if history else base
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in names}
    for group in groups:
        with group.state:
            for name, positions in group.inputs.items():
                if len(positions):
                    task = setting.tasks[name]
                    part = replace(task, test=tuple(task.test[i] for i in positions))
                    items = evaluate_items(setting.view.model, part, prompt=setting.prompt)
                    parts[name].append(items.assign(item=list(positions)))
    whole = [_joined(found) for found in parts.values()]
    return summarise(pd.concat(whole, ignore_index=True))


def _joined(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Put the parts of one task's test split together again."""
    n_truncated = sum(int(part["n_truncated"].iloc[0]) for part in parts)
    return pd.concat(parts).sort_values("item").assign(n_truncated=n_truncated)
