"""What all ways to train take beside the model, the tasks, the neurons and the settings."""

import os
from dataclasses import dataclass
from typing import TypedDict

from tl_taskneurons.tasks.prompts import Prompt


class RunOptions(TypedDict, total=False):
    """Keyword arguments of every ``finetune`` function.

    Attributes:
        prompt: the form of the prompt.
        limit: at most so many training examples of each task.
        checkpoint: a file to save to now and then and to resume from; a resumed run ends with the
            same bytes as an unbroken one.
        progress: whether to show a bar with the loss.
    """

    prompt: Prompt
    limit: int | None
    checkpoint: str | os.PathLike[str] | None
    progress: bool | None


@dataclass(frozen=True)
class Run:
    """The values of ``RunOptions``, with their defaults."""

    prompt: Prompt = Prompt()
    limit: int | None = None
    checkpoint: str | os.PathLike[str] | None = None
    progress: bool | None = None
