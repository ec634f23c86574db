"""What a model reads of a task, in words and in tokens."""

from typing import Any

from tl_taskneurons.runtime.errors import InputTypeError
from tl_taskneurons.runtime.options import require_number
from tl_taskneurons.tasks.prompts import Item, encode
from tl_taskneurons.tasks.task import Task
from tl_taskneurons.tasks.wording import Prompt


def shown(task: Task, model: Any, n: int, split: str, prompt: Prompt) -> str:
    """Write the first examples of a split as the model reads them; see ``Task.show``."""
    tokenizer = getattr(model, "tokenizer", model)
    if not hasattr(tokenizer, "decode"):
        raise InputTypeError(
            f"Expected a model with a tokenizer, got {model!r}; load_model gives one."
        )
    if not isinstance(prompt, Prompt):
        raise InputTypeError(f"prompt is {prompt!r}; give Prompt(shots=..., template=...).")
    require_number("n", n, whole=True, least=1)
    n_ctx = getattr(getattr(model, "cfg", None), "n_ctx", None)
    items = encode(
        task, tokenizer, split=split, prompt=prompt, limit=n, max_length=n_ctx or None
    ).items
    return "\n\n".join(_shown(task, item, split, tokenizer) for item in items)


def _shown(task: Task, item: Item, split: str, tokenizer: Any) -> str:
    def text(ids: tuple[int, ...]) -> str:
        whole = tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
        return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in whole)

    def tokens(ids: tuple[int, ...]) -> str:
        return " ".join(repr(tokenizer.decode([i])) for i in ids)

    before = text(item.prompt)
    everything = text(item.prompt + item.answer)
    answer = everything[len(before) :] if everything.startswith(before) else text(item.answer)
    size = len(item) + len(item.end)
    # A label is ranked and learnt without its end, unless that tells labels apart.
    what = "not scored" if task.is_classification else "expected after the answer, and learnt"
    end = f"\nend:    {tokens(item.end)} ({what})" if item.end else ""
    return (
        f"Example {item.index} of the {split} split of {task.name!r}: {size} tokens, of which "
        f"{len(item.answer)} between the brackets are scored.\n"
        f"{before}⟦{answer}⟧\n"
        f"tokens: {tokens(item.prompt)} ⟦{tokens(item.answer)}⟧{end}"
    )
