"""Token ids of texts as they stand in a prompt."""

from functools import lru_cache
from typing import Any

Ids = tuple[int, ...]


def token_ids(tokenizer: Any, text: str) -> Ids:
    """Return the ids of a text, without special tokens of the tokenizer's own."""
    return _tokenised(tokenizer, len(tokenizer), text) if text else ()


def answer_ids(tokenizer: Any, text: str, answer: str, end: str) -> tuple[Ids, Ids]:
    r"""Tokenise an answer and its end as they follow a prompt.

    Prompt, answer and end are tokenised together, which keeps the answer's first token natural
    with every tokenizer (some put a space of their own before a string); where the prompt's tokens
    would change by it, answer and end are tokenised without the prompt. Some tokenizers join the
    answer's last sign with the end (``".\n"``); then the answer has that token, and no end.

    Returns:
        The ids of the answer and those of its end.
    """
    alone = _after(tokenizer, text, answer)
    closed = _after(tokenizer, text, answer + end) if end else alone
    if closed[: len(alone)] == alone:
        return alone, closed[len(alone) :]
    return closed, ()


def _after(tokenizer: Any, text: str, more: str) -> Ids:
    before, joint = token_ids(tokenizer, text), token_ids(tokenizer, text + more)
    if len(joint) > len(before) and joint[: len(before)] == before:
        return joint[len(before) :]
    return token_ids(tokenizer, more)


# The same examples are encoded for every training and every evaluation.
@lru_cache(maxsize=65_536)
def _tokenised(tokenizer: Any, vocabulary: int, text: str) -> Ids:  # noqa: ARG001
    """Tokenise a text; ``vocabulary`` is there so that added tokens are not missed."""
    # Without special tokens: the tokenizer TransformerLens holds puts a BOS before every string.
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
