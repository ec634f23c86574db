"""Token batches: examples of similar length, padded on the right, with masks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.memory import pieces_in_memory
from tl_taskneurons.tasks.prompts import Item


@dataclass(frozen=True)
class Batch:
    """Right-padded tokens with masks.

    Attributes:
        tokens: token ids.
        attention_mask: True at real tokens.
        answer_mask: True at the tokens of the answer (each is predicted one position earlier).
        index: position of each row's example in the list the batch was made from.
        items: each row's example.
    """

    tokens: Int[Tensor, "batch pos"]
    attention_mask: Bool[Tensor, "batch pos"]
    answer_mask: Bool[Tensor, "batch pos"]
    index: tuple[int, ...]
    items: tuple[Item, ...] = ()

    @cached_property
    def answer_at(self) -> tuple[Int[Tensor, " answer_tokens"], Int[Tensor, " answer_tokens"]]:
        """Rows and columns of the answers' tokens, in order."""
        rows, columns = self.answer_mask.nonzero(as_tuple=True)
        return rows, columns

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on a device."""
        moved = Batch(
            self.tokens.to(device),
            self.attention_mask.to(device),
            self.answer_mask.to(device),
            self.index,
            self.items,
        )
        # Looked up here and not there: on a GPU the processor would wait for the answer.
        vars(moved)["answer_at"] = tuple(places.to(device) for places in self.answer_at)
        return moved


def make_batches(
    items: Sequence[Item],
    *,
    token_budget: int = 2048,
    with_end: bool = False,
) -> Iterator[Batch]:
    """Group items of similar length so that a padded batch has at most ``token_budget`` tokens.

    Args:
        items: tokenised examples.
        token_budget: the most tokens of a batch, padding included; an item longer than that
            makes a batch of its own.
        with_end: append the end-of-answer tokens and count them as answer.

    Yields:
        Batches from short to long; ``index`` refers to ``items``.
    """
    if token_budget < 1:
        raise InputError(f"token_budget is {token_budget}; it must be at least 1 token.")
    rows = [item.prompt + item.answer + (item.end if with_end else ()) for item in items]
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), i))
    group: list[int] = []
    for i in order:
        if group and (len(group) + 1) * len(rows[i]) > token_budget:
            yield _pad(group, rows, items)
            group = []
        group.append(i)
    if group:
        yield _pad(group, rows, items)


def _pad(group: list[int], rows: list[tuple[int, ...]], items: Sequence[Item]) -> Batch:
    # Rows are filled with token 0; the masks make its value irrelevant.
    width = max(len(rows[i]) for i in group)
    tokens = torch.zeros((len(group), width), dtype=torch.long, device="cpu")
    attention = torch.zeros((len(group), width), dtype=torch.bool, device="cpu")
    answer = torch.zeros((len(group), width), dtype=torch.bool, device="cpu")
    for row, i in enumerate(group):
        n = len(rows[i])
        tokens[row, :n] = torch.tensor(rows[i], device="cpu")
        attention[row, :n] = True
        answer[row, len(items[i].prompt) : n] = True
    return Batch(tokens, attention, answer, tuple(group), tuple(items[i] for i in group))


def token_budget_for(device: torch.device, given: int | None = None) -> int:
    """The most tokens to run at once: the given number, or what suits a device.

    A GPU gets large batches; where they don't fit, ``in_memory`` cuts them.
    """
    if given is not None:
        return given
    return 16_384 if device.type == "cuda" else 2048


def in_memory(batches: Iterable[Batch], run: Callable[[Batch], None]) -> None:
    """Run batches one after another; those that are too large for the memory, in halves.

    When the memory runs out in a batch, that batch and every later one as large are cut in two,
    by rows, and a warning says so once for each size.

    Args:
        batches: what to run.
        run: called with each batch; what it leaves behind when it fails must not count.

    Raises:
        torch.OutOfMemoryError: when a single example is too large, with what could help.
    """
    pieces_in_memory(batches, run, lambda batch: (len(batch.index), batch.tokens.shape[1]), halves)


def halves(batch: Batch) -> list[Batch]:
    """Cut a batch of two rows or more in two; columns that are padding in all rows fall away."""
    middle = -(-len(batch.index) // 2)
    parts = []
    for rows in (slice(None, middle), slice(middle, None)):
        width = int(batch.attention_mask[rows].sum(1).max())
        parts.append(
            Batch(
                batch.tokens[rows, :width], batch.attention_mask[rows, :width],
                batch.answer_mask[rows, :width], batch.index[rows], batch.items[rows],
            )
        )  # fmt: skip
    return parts
