r"""Where an answer ends: one decision for training, forced decoding, generation and exact match.

In the plain form an answer ends with a newline, in a chat with what the template writes after an
assistant's turn; in both also with any of the model's end-of-text tokens. A token may carry text
before the newline (Llama-3 and Qwen join ``".\n"``): that text belongs to the answer.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.tasks.tokens import token_ids
from tl_taskneurons.tasks.wording import Prompt, apply_template

_QUESTION, _ANSWER = "a question", "an answer"


@dataclass(frozen=True, eq=False)
class Ending:
    r"""How answers end with one tokenizer and one form of prompt.

    Attributes:
        tokenizer: the tokenizer.
        lead: what stands between the prompt and the answer.
        text: what is written after an answer, ``"\n"`` or e.g. ``"<|im_end|>"``.
        mark: the text that ends an answer wherever it appears; empty where only tokens do.
        eos: ids that end an answer and belong to no text.
    """

    tokenizer: Any
    lead: str
    text: str
    mark: str
    eos: frozenset[int]

    @property
    def stops(self) -> frozenset[int]:
        """Ids that end an answer: ``eos``, and every token that holds the mark."""
        if not self.mark:
            return self.eos
        return self.eos | _holding(self.tokenizer, len(self.tokenizer), self.mark)

    def closes(self, ids: Sequence[int]) -> bool:
        """Whether the last of the generated ids ends the answer."""
        if not ids:
            return False
        if len(self.mark) < 2 or ids[-1] in self.stops:
            return ids[-1] in self.stops
        # A mark of several characters may be spread over as many tokens as it has bytes.
        return self.mark in self._decode(ids[-len(self.mark.encode()) :], skip_special=False)

    def said(self, ids: Sequence[int]) -> str:
        """Return the answer in generated ids: up to its end, without white space around it."""
        return self._said(ids, skip_special=True)

    def judge(self, ids: Sequence[int], accepted: Collection[str]) -> bool | None:
        """Whether generated ids are one of the accepted answers and its end.

        Args:
            ids: what was generated so far.
            accepted: answers; see ``forms``.

        Returns:
            True or False; None where the answer isn't over and could still become one of them.
        """
        # Special tokens count as text only where an accepted answer holds them.
        texts = {self._said(ids, skip_special=skip) for skip in (True, False)}
        if self.closes(ids):
            return not texts.isdisjoint(accepted)
        return None if any(self._open(t, a) for t in texts for a in accepted) else False

    def forms(self, accepted: Iterable[str]) -> frozenset[str]:
        """Return answers as they are written and as they come back from the tokenizer."""
        found: set[str] = set()
        for text in accepted:
            found.add(text)
            ids = token_ids(self.tokenizer, self.lead + text)
            if getattr(self.tokenizer, "unk_token_id", None) not in ids:
                found.add(self._decode(ids, skip_special=False).strip())
        return frozenset(found)

    def require_sayable(self, accepted: Iterable[str], where: str) -> None:
        """Raise ValueError where an answer could never be given, or nothing ends one."""
        if not self.stops and len(self.mark) < 2:
            raise InputError(
                f"{where} asks where an answer ends, but this tokenizer has neither a token with "
                "a newline nor an EOS token; set tokenizer.eos_token."
            )
        texts = list(accepted)
        if self.mark and all(self.mark in text for text in texts):
            raise InputError(
                f"{where} has the answer {texts[0]!r}, which holds {self.mark!r}, the end of an "
                "answer, so it could never be given whole. Write it without, give "
                "another end (Prompt(end=...)), or use Prompt(chat=True)."
            )

    def _said(self, ids: Sequence[int], *, skip_special: bool) -> str:
        body = ids[:-1] if ids and ids[-1] in self.eos else ids
        text = self._decode(body, skip_special=skip_special)
        return (text.split(self.mark, 1)[0] if self.mark else text).strip()

    def _open(self, said: str, answer: str) -> bool:
        """Whether an unfinished text can still become an answer and its end."""
        said = said.rstrip("\ufffd")  # a character of which not all bytes are there
        if answer.startswith(said):
            return True
        rest = said[len(answer) :].lstrip()
        return said.startswith(answer) and self.mark.lstrip().startswith(rest)

    def _decode(self, ids: Sequence[int], *, skip_special: bool) -> str:
        # Cleaning up would take spaces before punctuation away that an answer may have.
        return self.tokenizer.decode(
            list(ids), skip_special_tokens=skip_special, clean_up_tokenization_spaces=False
        )


def ending_of(tokenizer: Any, prompt: Prompt, eos_ids: Collection[int] = ()) -> Ending:
    """Decide where answers end.

    Args:
        tokenizer: a Hugging Face tokenizer.
        prompt: the form of the prompt.
        eos_ids: ids with which the model ends a text, beside the tokenizer's EOS.

    Raises:
        ValueError: a chat prompt for a tokenizer without a template.
    """
    own = getattr(tokenizer, "eos_token_id", None)
    eos = {*eos_ids, *(() if own is None else (own,))}
    lead, mark = prompt.lead, prompt.end
    text = mark or getattr(tokenizer, "eos_token", None) or ""
    if prompt.chat:
        lead, text, token = _turn(tokenizer, repr(getattr(tokenizer, "chat_template", None)))
        eos |= set() if token is None else {token}
        mark = "" if token is not None or not text.strip(" ") else text
        text = text if token is not None or mark else getattr(tokenizer, "eos_token", None) or ""
    return Ending(tokenizer, lead, text, mark, frozenset(eos))


@lru_cache(maxsize=8)
def _turn(tokenizer: Any, template: str) -> tuple[str, str, int | None]:  # noqa: ARG001
    """What a chat template writes before and after an assistant's words, and their last token.

    The text after them goes up to the first token that is no ordinary text; where there is none,
    the whole text ends the turn. ``template`` is there so that another one is not missed.
    """
    turns = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
    opened = apply_template(tokenizer, turns[:1], add_generation_prompt=True)
    whole = apply_template(tokenizer, turns)
    before, found, after = whole.rpartition(_ANSWER)
    lead = before[len(opened) :] if found and before.startswith(opened) else ""
    lead = "" if lead.strip() else lead
    added = {token.content: i for i, token in tokenizer.added_tokens_decoder.items()}
    places = [(after.find(c), -len(c), c) for c in added if c.strip() and c in after]
    if not found or not places:
        return lead, after if found else "", None
    at, _, content = min(places)
    return lead, after[: at + len(content)], added[content]


@lru_cache(maxsize=8)
def _holding(tokenizer: Any, vocabulary: int, mark: str) -> frozenset[int]:  # noqa: ARG001
    """Ids of the tokens whose text holds a mark."""
    ids = sorted(tokenizer.get_vocab().values())
    texts = tokenizer.batch_decode([[i] for i in ids])
    return frozenset(i for i, text in zip(ids, texts, strict=True) if mark in text)
