"""Words that several of the little world's tasks share, and the helpers to draw them.

Every word is one token of the mini tokenizers, so a list here costs one embedding row a word.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass


def words(text: str) -> tuple[str, ...]:
    """Return the words of a text, to write lists without quotes."""
    return tuple(text.split())


NAMES = words(
    "Anna Ben Clara David Emma Felix Grace Henry Iris Jack Kate Leo Maria Noah Olga Paul "
    "Rosa Sam Tess Vera Walter Zoe Hugo Lena"
)
TOWNS = words(
    "Alder Brimley Corve Dunholt Elmsea Farrow Gilden Harrowby Inchley Kestrel Lorn Marrick "
    "Norwold Osney Pellham Quarry"
)
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
NUMBERS = words("one two three four five six seven eight nine")
COLOURS = words("red blue green yellow black white brown grey")
JOBS = words(
    "baker teacher doctor farmer painter sailor miller tailor gardener singer writer plumber"
)
THINGS = words("bike lamp book coat clock guitar kite chair boat map ring drum")


@dataclass(frozen=True)
class Draft:
    """One item as a grammar makes it.

    Attributes:
        input: The content the model reads, without the instruction.
        target: The text to produce.
        key: What must not be seen on both sides of the split: two drafts with one key always
            land on the same side, so test items ask about combinations that training never showed.
        references: Every accepted target; empty means only ``target``.
        agents: Who acts in each of the sentences, where that is what the item asks about.
    """

    input: str
    target: str
    key: str
    references: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()


def a(words: str) -> str:
    """Return the words with ``a`` or ``an`` before them, by the first letter."""
    return f"{'an' if words[0].lower() in 'aeiou' else 'a'} {words}"


def capital(sentence: str) -> str:
    """Return the sentence with its first letter in upper case."""
    return sentence[0].upper() + sentence[1:]


def other(rng: random.Random, items: Sequence[str], *not_these: str) -> str:
    """Draw one of ``items`` that is none of ``not_these``."""
    return rng.choice([item for item in items if item not in not_these])
