"""Hints for training: what the model should know half-way through a comparison.

One label for some thirty tokens is little to learn from. So two small read-outs, thrown away after
training, look at the residual stream on the way: after two blocks, whether the idea of each word in
the second sentence was in the first one, and who acted in a sentence that has just ended; after
three blocks, at the end of the second sentence, the label itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tl_taskneurons.builtin.mini.inference import KINDS
from tl_taskneurons.builtin.mini.lexicon import JOBS, Draft, words
from tl_taskneurons.builtin.mini.paraphrase import ADJECTIVES, NOUNS, SAMENESS, VERBS
from tl_taskneurons.builtin.mini.tokens import split_words

EARLY_BLOCKS, LATE_BLOCKS = 2, 3
_FRAMES = {"way": "How", "place": "Where", "time": "When", "reason": "Why"}
# Words that carry no idea of their own: a comparison may ignore them.
_PLAIN = frozenset(
    words(
        "a an the The is was were are in on by to from than of I one What best can does should "
        ". ? , :"
    )
)


@dataclass(frozen=True)
class Hints:
    """What read-outs learn on one sequence, as words at positions of the text's pieces.

    Attributes:
        early: position and word, after ``EARLY_BLOCKS`` blocks.
        late: position and word, after ``LATE_BLOCKS`` blocks.
    """

    early: tuple[tuple[int, str], ...]
    late: tuple[tuple[int, str], ...]


def _ideas_of_words() -> dict[str, set[str]]:
    known = {word: {idea} for word, idea in _FRAMES.items()}
    for group in (*VERBS, *NOUNS, *ADJECTIVES):
        for word in group:
            known.setdefault(word, set()).add(group[0])
    for kind, members in KINDS.items():
        for word in members:
            known.setdefault(word, {word}).add(kind)
    known |= {f"{job}s": {job} for job in JOBS}
    return known


_IDEAS = _ideas_of_words()


def _ideas(word: str) -> set[str]:
    return _IDEAS.get(word, {word})


def hints(draft: Draft, prompt: str, *, within: bool = False) -> Hints:
    """Find the hints of a comparison.

    Args:
        draft: an item of a paraphrase or inference task, or an exercise for one.
        prompt: its whole prompt, whose pieces (see ``split_words``) are counted.
        within: compare a second sentence before the claim with the first one as well.
    """
    pieces = [piece.strip(" ") for piece in split_words(prompt)]
    start, end = pieces.index("Input:"), len(pieces) - pieces[::-1].index("Output:") - 1
    middle = pieces.index("Second:" if "Second:" in pieces else "Claim:")
    # The last piece before the newline and "Output:" closes the second sentence.
    late = ((end - 2, draft.target),)
    if draft.agents:
        closing = [i for i in range(start, end) if pieces[i] == "."]
        return Hints(tuple(zip(closing, draft.agents, strict=True)), late)
    early = _repeated(pieces, (start + 1, middle), (middle + 1, end))
    if within and "." in pieces[start:middle]:
        stop = pieces.index(".", start)
        early = _repeated(pieces, (start + 1, stop), (stop + 1, middle)) + early
    return Hints(early, late)


def _repeated(
    pieces: Sequence[str], first: tuple[int, int], second: tuple[int, int]
) -> tuple[tuple[int, str], ...]:
    """Say of each word of a second span whether its idea is in the first one."""
    said: set[str] = set().union(*(_ideas(word) for word in pieces[first[0] : first[1]]))
    return tuple(
        (i, SAMENESS[0] if _ideas(pieces[i]) & said else SAMENESS[1])
        for i in range(*second)
        if pieces[i].strip() and pieces[i] not in _PLAIN
    )


def as_positions(found: Sequence[tuple[int, str]], token_of: dict[str, int]) -> tuple[tuple, ...]:
    """Turn hints into positions of token ids (the BOS comes first) and the ids to read out."""
    return tuple((place + 1, token_of[f" {word}"]) for place, word in found)
