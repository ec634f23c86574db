"""How an example is worded: instruction, demonstrations and input, up to its answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.tasks.task import Example, Task


@dataclass(frozen=True)
class Prompt:
    r"""How an example becomes text.

    The plain form is ``{instruction}\nInput: {input}\nOutput:`` followed by a space, the answer
    and a newline, the demonstrations of a few-shot prompt standing before it in the same form.

    Attributes:
        shots: demonstrations taken from the train split (never the example itself).
        instruction: whether the task's instruction opens the prompt.
        chat: use the tokenizer's chat template instead of the plain form.
        bos: put the tokenizer's BOS first, as TransformerLens does (the plain form only).
        seed: which demonstrations are drawn.
    """

    shots: int = 0
    instruction: bool = True
    chat: bool = False
    bos: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise InputError(f"shots is {self.shots}; it must be 0 or more.")


def prompt_text(
    task: Task, example: Example, shots: Sequence[Example], tokenizer: Any, prompt: Prompt
) -> str:
    """Write everything up to the answer."""
    instruction = task.instruction if prompt.instruction else ""
    if prompt.chat:
        turns = []
        for shot in (*shots, example):
            content = f"{instruction}\n{shot.input}" if instruction else shot.input
            turns.append({"role": "user", "content": content})
            turns.append({"role": "assistant", "content": shot.target})
        return apply_template(tokenizer, turns[:-1], add_generation_prompt=True)
    if not example.input and not shots and not instruction:
        return ""
    parts = [f"{instruction}\n"] if instruction else []
    parts += [f"Input: {shot.input}\nOutput: {shot.target}\n" for shot in shots]
    return "".join(parts) + f"Input: {example.input}\nOutput:"


def apply_template(tokenizer: Any, turns: list[dict[str, str]], **options: Any) -> str:
    """Write a conversation as the tokenizer's chat template does.

    Raises:
        ValueError: the tokenizer has none.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise InputError("This tokenizer has no chat template; use Prompt(chat=False).")
    return tokenizer.apply_chat_template(turns, tokenize=False, **options)
