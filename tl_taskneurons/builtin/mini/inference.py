"""Inference: does the claim follow from the text? ``yes``, ``no`` or ``maybe``.

``scenes`` asks about one event (kinds of things, numbers, colours, who and where). ``groups`` asks
about all, most, some or none of a group, and about single members.
"""

import random

from tl_taskneurons.builtin.mini.lexicon import (
    COLOURS,
    JOBS,
    NAMES,
    NUMBERS,
    TOWNS,
    Draft,
    a,
    other,
    words,
)

TRUTH = ("yes", "no", "maybe")

KINDS = {
    "fruit": ("apples", "pears", "plums", "lemons"),
    "animals": ("dogs", "cats", "horses", "goats"),
    "clothes": ("coats", "hats", "shirts", "socks"),
    "furniture": ("chairs", "tables", "beds", "shelves"),
    "flowers": ("roses", "tulips", "lilies", "daisies"),
    "tools": ("hammers", "saws", "spades", "axes"),
}
ACTS = words("bought sold found lost painted counted")
QUALITIES = words("new cheap clean heavy lovely old")

TRAITS = (
    ("tall", "short"), ("rich", "poor"), ("happy", "sad"), ("young", "aged"),
    ("loud", "quiet"), ("brave", "timid"),
)  # fmt: skip


def scenes(rng: random.Random, label: str | None) -> Draft:
    """Draw one event and a claim about it."""
    label = label or rng.choice(TRUTH)
    who, somebody = rng.sample(NAMES, 2)
    act, kind = rng.choice(ACTS), rng.choice(tuple(KINDS))
    thing, number, colour = rng.choice(KINDS[kind]), rng.choice(NUMBERS[1:]), rng.choice(COLOURS)
    town = rng.choice(TOWNS)
    text = f"{who} {act} {number} {colour} {thing} in {town}."
    claims = {
        "yes": (
            f"{who} {act} some {kind}.",
            f"{who} {act} {number} {thing}.",
            f"The {thing} were {colour}.",
            f"{who} was in {town}.",
        ),
        "no": (
            f"{who} {act} no {rng.choice((kind, thing))}.",
            f"{who} {act} {other(rng, NUMBERS[1:], number)} {thing}.",
            f"The {thing} were {other(rng, COLOURS, colour)}.",
            f"{who} was never in {town}.",
        ),
        "maybe": (
            f"{who} {act} some {other(rng, tuple(KINDS), kind)}.",
            f"{somebody} {act} {rng.choice((f'some {kind}', f'{number} {thing}'))}.",
            f"The {thing} were {rng.choice(QUALITIES)}.",
            f"{somebody} was in {town}.",
        ),
    }
    claim = rng.choice(claims[label])
    return Draft(f"{text} Claim: {claim}", label, text)


# What a quantifier in the text says about the same group and trait under another quantifier.
_FOLLOWS = {
    ("All", "Some"): "yes", ("All", "Most"): "yes", ("Most", "Some"): "yes",
    ("All", "No"): "no", ("No", "All"): "no", ("No", "Some"): "no", ("Some", "No"): "no",
    ("No", "Most"): "no", ("Most", "No"): "no",
    ("Some", "All"): "maybe", ("Most", "All"): "maybe", ("Some", "Most"): "maybe",
}  # fmt: skip
_MEMBER = {"All": "yes", "No": "no", "Some": "maybe", "Most": "maybe"}


def groups(rng: random.Random, label: str | None) -> Draft:
    """Draw a statement about a group and a claim about the group or about one member."""
    label = label or rng.choice(TRUTH)
    job, pair = rng.choice(JOBS), rng.choice(TRAITS)
    trait, contrary = rng.sample(pair, 2)
    unrelated = rng.choice(rng.choice([p for p in TRAITS if p != pair]))
    town, name = rng.choice(TOWNS), rng.choice(NAMES)
    if rng.random() < 0.5:
        known, asked = rng.choice([pair for pair, truth in _FOLLOWS.items() if truth == label])
        if label == "maybe" and rng.random() < 0.5:
            known, asked = rng.choice(tuple(_FOLLOWS))
            claim = f"{asked} {job}s in {town} are {unrelated}."
        else:
            claim = f"{asked} {job}s in {town} are {trait}."
        text = f"{known} {job}s in {town} are {trait}."
        return Draft(f"{text} Claim: {claim}", label, f"{text} {asked}")
    known = rng.choice([q for q, truth in _MEMBER.items() if truth == label])
    said, home = trait, town
    if label == "no" and rng.random() < 0.5:
        known, said = "All", contrary
    elif label == "maybe" and rng.random() < 0.6:
        known = rng.choice(("All", "No"))
        if rng.random() < 0.5:
            said = unrelated
        else:
            home = other(rng, TOWNS, town)
    text = f"{known} {job}s in {town} are {trait}. {name} is {a(job)} in {home}."
    return Draft(f"{text} Claim: {name} is {said}.", label, text)
