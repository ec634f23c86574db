"""Question generation: a sentence and an answer are given, the question is wanted.

``nature`` is about animals and their habits (present tense), ``posts`` about what people write of
their day (past tense, first person turned into third).
"""

import random

from tl_taskneurons.builtin.mini.lexicon import (
    COLOURS,
    DAYS,
    NAMES,
    THINGS,
    TOWNS,
    Draft,
    a,
    capital,
    words,
)

ANIMALS = words("owl fox otter heron badger eagle lizard frog hawk weasel crow stork")
HABITS = (("hunts", "hunt"), ("eats", "eat"), ("catches", "catch"), ("hides", "hide"))
PREY = words("mice worms snails eggs berries beetles fish nuts")
PLACES = words("forest river meadow cave swamp valley desert garden")
TIMES = ("at night", "at noon", "in winter", "in summer", "in spring", "at dawn")

DEEDS = (
    ("bought", "buy"), ("sold", "sell"), ("found", "find"), ("lost", "lose"),
    ("painted", "paint"), ("broke", "break"), ("saw", "see"),
)  # fmt: skip


def nature(rng: random.Random, _label: str | None = None) -> Draft:
    """Draw a sentence about an animal, one of its parts as the answer, and the question."""
    animal, prey, place = rng.choice(ANIMALS), rng.choice(PREY), rng.choice(PLACES)
    time, (does, do) = rng.choice(TIMES), rng.choice(HABITS)
    text = f"The {animal} {does} {prey} in the {place} {time}."
    answer, question = rng.choice(
        (
            (f"the {animal}", f"What {does} {prey} in the {place} {time}?"),
            (prey, f"What does the {animal} {do} in the {place} {time}?"),
            (f"in the {place}", f"Where does the {animal} {do} {prey} {time}?"),
            (time, f"When does the {animal} {do} {prey} in the {place}?"),
        )
    )
    return Draft(f"{text} Answer: {capital(answer)}.", question, text)


def posts(rng: random.Random, _label: str | None = None) -> Draft:
    """Draw a short post, one of its parts as the answer, and the question."""
    name, town, day = rng.choice(NAMES), rng.choice(TOWNS), rng.choice(DAYS)
    thing = f"{a(rng.choice(COLOURS))} {rng.choice(THINGS)}"
    did, do = rng.choice(DEEDS)
    text = f"{name} writes: On {day} I {did} {thing} in {town}!"
    answer, question = rng.choice(
        (
            (name, f"Who {did} {thing} in {town}?"),
            (thing, f"What did {name} {do} in {town}?"),
            (f"in {town}", f"Where did {name} {do} {thing}?"),
            (f"on {day}", f"When did {name} {do} {thing}?"),
        )
    )
    return Draft(f"{text} Answer: {capital(answer)}.", question, text)
