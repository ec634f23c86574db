"""Summaries: short local news as a headline, and reports of matches and races as one result.

A headline keeps the event and the town of the first sentence, in the present tense, and drops the
rest. A result needs a comparison: who scored more, who was faster.
"""

import random

from tl_taskneurons.builtin.mini.lexicon import (
    DAYS,
    JOBS,
    NAMES,
    NUMBERS,
    TOWNS,
    Draft,
    a,
    capital,
    words,
)

BUILDINGS = words("bakery school library bridge station market museum theatre hotel mill")
HARM = (("damaged", "damages"), ("destroyed", "destroys"), ("closed", "closes"))
CAUSES = words("fire storm flood")
WORKS = (("opened", "opens"), ("planned", "plans"), ("sold", "sells"))
RUNAWAYS = words("lion bear monkey snake wolf camel")
LOOT = words("painting ring statue crown clock guitar")

SCORES = NUMBERS[:7]
DISTANCES = ("race", "swim", "climb")


def _details(rng: random.Random) -> list[str]:
    """One or two sentences that no headline needs."""
    name, job, number = rng.choice(NAMES), rng.choice(JOBS), rng.choice(NUMBERS[1:])
    return rng.sample(
        (
            "Nobody was hurt.",
            f"{name}, {a(job)}, saw it.",
            f"The work will take {number} weeks.",
            f"About {number} people watched.",
            f"{name} was very surprised.",
        ),
        rng.randint(1, 2),
    )


def news(rng: random.Random, _label: str | None = None) -> Draft:
    """Draw one news item of two or three sentences, with its headline."""
    town, day, building = rng.choice(TOWNS), rng.choice(DAYS), rng.choice(BUILDINGS)
    kind = rng.randrange(4)
    if kind == 0:
        cause, (was, now) = rng.choice(CAUSES), rng.choice(HARM)
        lead = f"{a(cause)} {was} the {building} in {town} on {day}."
        title = f"{cause} {now} {building} in {town}."
    elif kind == 1:
        was, now = rng.choice(WORKS)
        lead = f"The mayor of {town} {was} a new {building} on {day}."
        title = f"mayor of {town} {now} new {building}."
    elif kind == 2:
        animal = rng.choice(RUNAWAYS)
        lead = f"{a(animal)} escaped from the zoo in {town} on {day}."
        title = f"{animal} escapes from zoo in {town}."
    else:
        loot = rng.choice(LOOT)
        lead = f"On {day}, a thief stole {a(loot)} from the {building} in {town}."
        title = f"thief steals {loot} from {building} in {town}."
    text = " ".join([capital(lead), *_details(rng)])
    return Draft(text, capital(title), text)


def sport(rng: random.Random, _label: str | None = None) -> Draft:
    """Draw one report of a match or a race, with its result in one sentence."""
    day = rng.choice(DAYS)
    if rng.random() < 0.5:
        first, second = rng.sample(TOWNS, 2)
        here, there = rng.sample(range(len(SCORES)), 2)
        text = (
            f"{first} met {second} on {day}. {first} scored {SCORES[here]} "
            f"{'goal' if here == 0 else 'goals'} "
            f"and {second} scored {SCORES[there]}."
        )
        if here < there:
            first, second, here, there = second, first, there, here
        target = f"{first} beat {second} {SCORES[here]} to {SCORES[there]}."
        return Draft(text, target, text)
    first, second = rng.sample(NAMES, 2)
    distance, town = rng.choice(DISTANCES), rng.choice(TOWNS)
    here, there = rng.sample(range(1, len(NUMBERS)), 2)
    text = (
        f"{first} finished the {distance} in {town} after {NUMBERS[here]} minutes. "
        f"{second} needed {NUMBERS[there]}."
    )
    if here > there:
        first, second = second, first
    return Draft(text, f"{first} beat {second} in the {town} {distance}.", text)
