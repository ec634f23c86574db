"""Which positions of a run are meant: all, those that predict the answer, a slice, a rule."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tl_taskneurons.runtime.cleanup import setting
from tl_taskneurons.runtime.errors import InputError, InputTypeError, StateError, did_you_mean
from tl_taskneurons.tasks.batches import Batch

NAMES = ("all", "answer", "last_prompt")


@dataclass(frozen=True, eq=False)
class Places:
    """The positions of the tokens that a model runs at once.

    Attributes:
        tokens: token ids.
        real: False at padding.
        predicts: True where a token of the answer is predicted: from the last token of the prompt
            to the last but one of the answer.
        last_prompt: True at the last token of the prompt.
        index: number of each token in its example, from 0; a BOS counts.
        length: tokens of each example; None while an answer is generated, and for a prefix that
            runs once for all prompts (``share_prefix``).
        examples: the examples' numbers in their split, for messages.
    """

    tokens: Int[Tensor, "batch pos"]
    real: Bool[Tensor, "batch pos"]
    predicts: Bool[Tensor, "batch pos"]
    last_prompt: Bool[Tensor, "batch pos"]
    index: Int[Tensor, "batch pos"]
    length: Int[Tensor, " batch"] | None
    examples: tuple[int, ...] = ()


Positions = str | slice | Callable[[Places], Bool[Tensor, "batch pos"]]

_RUNNING: ContextVar[Callable[[], Places] | None] = ContextVar("running", default=None)
_EXAMPLES: ContextVar[tuple[int, ...]] = ContextVar("examples", default=())


def examples_of(batch: Batch) -> tuple[int, ...]:
    """Return the examples' numbers in their split, row by row."""
    return tuple(item.index for item in batch.items) or batch.index


def places_of(batch: Batch, before: int = 0) -> Places:
    """Return the places of a batch, whose rows follow ``before`` tokens that ran already."""
    real, answer = batch.attention_mask, batch.answer_mask
    predicts = torch.cat([answer[:, 1:], torch.zeros_like(answer[:, :1])], dim=1)
    index = real.long().cumsum(1) - 1 + before
    return Places(
        batch.tokens, real, predicts, predicts & (predicts.long().cumsum(1) == 1), index,
        real.sum(1) + before, examples_of(batch),
    )  # fmt: skip


def chosen(positions: Positions, places: Places) -> Bool[Tensor, "batch pos"] | None:
    """Return where the positions are; None stands for everywhere.

    Args:
        positions: ``"all"``; ``"answer"``: where a token of the answer is predicted; its last
            token, which predicts none of it, is not among them; ``"last_prompt"``: the last token
            of the prompt, which predicts the answer's first; a slice of each example's tokens
            (BOS, prompt and answer), counted from its end where negative; or a function of
            ``Places``.
        places: what runs.

    Raises:
        ValueError: for an unknown name, a mask of another shape, or a slice that counts from the
            end while an answer is generated.
        TypeError: for something else.
    """
    check_positions(positions)
    if isinstance(positions, str):
        if positions == "all":
            return None
        return places.predicts if positions == "answer" else places.last_prompt
    if isinstance(positions, slice):
        return _sliced(positions, places)
    mask = positions(places)
    if mask.shape != places.tokens.shape or mask.dtype != torch.bool:
        raise InputError(
            f"positions returned {mask.dtype} of shape {tuple(mask.shape)}; it must return a "
            f"boolean mask of shape {tuple(places.tokens.shape)}: [batch, pos]."
        )
    return mask.to(places.tokens.device) & places.real


def check_positions(positions: Positions) -> None:
    """Raise ValueError or TypeError for what can't be positions."""
    if isinstance(positions, str):
        if positions not in NAMES:
            raise InputError(f"Unknown positions {positions!r}{did_you_mean(positions, NAMES)}")
    elif not (isinstance(positions, slice) or callable(positions)):
        raise InputTypeError(
            f"positions is {positions!r}; use one of {NAMES}, a slice or a function of Places."
        )


def named(positions: Positions) -> str:
    """Return a name for tables and files."""
    if isinstance(positions, slice):
        return f"{positions.start}:{positions.stop}:{positions.step}".replace("None", "")
    return positions if isinstance(positions, str) else getattr(positions, "__name__", "own")


def _sliced(positions: slice, places: Places) -> Bool[Tensor, "batch pos"]:
    if places.length is None:
        if min(positions.start or 0, positions.stop or 0, positions.step or 1) < 0:
            raise InputError(
                f"positions={positions} counts from the end, which isn't known while an answer is "
                "generated or with share_prefix; count from the start, or use 'answer' or "
                "'last_prompt'."
            )
        last = int(places.index.max()) + 1
        lengths = [last] * len(places.tokens)
    else:
        lengths = places.length.tolist()
    most = max(lengths)
    wanted = torch.zeros(len(lengths), most, dtype=torch.bool, device="cpu")
    for row, length in enumerate(lengths):
        wanted[row, list(range(length))[positions]] = True
    found = wanted.to(places.index.device).gather(1, places.index.clamp(0, most - 1))
    return found & places.real


@contextmanager
def running(places: Callable[[], Places], examples: tuple[int, ...] = ()) -> Iterator[None]:
    """Say what the model runs while the context is open.

    Args:
        places: made only where someone asks.
        examples: the numbers of the rows' examples in their split, where these are known.
    """
    with setting(_RUNNING, places), setting(_EXAMPLES, examples):
        yield


def current_examples() -> tuple[int, ...]:
    """Return the numbers of the examples that run now, row by row; empty where not known."""
    return _EXAMPLES.get()


def current_places(positions: Positions, tokens: Int[Tensor, "batch pos"]) -> Places:
    """Return the places of the run that goes on, for interventions.

    Args:
        positions: what is asked for, for the message.
        tokens: anything of the shape of what runs, for runs that this library didn't start: of
            these every token is taken for real, and slices can be asked for.

    Raises:
        RuntimeError: when positions of an answer are asked for in a run that has none.
    """
    found = _RUNNING.get()
    if found is not None:
        return found()
    if isinstance(positions, str):
        raise StateError(
            f"positions={positions!r} needs to know where the answer is; run the model by "
            "evaluate, score_neurons or generate, or give a slice or a function of Places."
        )
    none = torch.zeros_like(tokens, dtype=torch.bool)
    index = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    length = torch.full((len(tokens),), tokens.shape[1], device=tokens.device, dtype=torch.long)
    return Places(tokens, ~none, none, none, index, length)
