"""Data to text: fields and values become sentences, for restaurants and for people.

The fields come in any order and some are missing; the text always has one order. A second
reference accepts the same facts with the sentence begun differently.
"""

import random

from tl_taskneurons.builtin.mini.lexicon import (
    JOBS,
    NAMES,
    NUMBERS,
    TOWNS,
    Draft,
    a,
    capital,
    words,
)

SIGNS = ("Blue", "Golden", "Silver", "Red", "Green", "Happy", "Hungry", "Lucky")
TABLEWARE = ("Spoon", "Fork", "Plate", "Kettle", "Goose", "Lantern", "Anchor", "Barrel")
MEALS = words("soup pasta pizza curry fish steak salad pancakes dumplings noodles")
PRICES = ("cheap", "costly", "fair")

PETS = words("cat dog parrot rabbit goat pony")
HOBBIES = words("chess football dancing fishing cooking painting singing running")


def _shuffled(rng: random.Random, fields: dict[str, str]) -> str:
    pairs = [f"{key}: {value}" for key, value in fields.items()]
    rng.shuffle(pairs)
    return "; ".join(pairs) + "."


def restaurants(rng: random.Random, _label: str | None = None) -> Draft:
    """Draw the fields of a restaurant and the text that tells them."""
    name = f"{rng.choice(SIGNS)} {rng.choice(TABLEWARE)}"
    fields = {
        "price": rng.choice(PRICES), "town": rng.choice(TOWNS),
        "food": rng.choice(MEALS), "stars": rng.choice(NUMBERS[:5]),
    }  # fmt: skip
    for key in rng.sample(tuple(fields), rng.choice((0, 0, 1, 1, 2))):
        del fields[key]
    place = f"{a(fields['price'])} restaurant" if "price" in fields else "a restaurant"
    where = f" in {fields['town']}" if "town" in fields else ""
    food = f" that serves {fields['food']}" if "food" in fields else ""
    text = f"{name} is {place}{where}{food}."
    other = f"{capital(place)}{where}{food} is {name}."
    if "stars" in fields:
        stars = f" It has {fields['stars']} {'star' if fields['stars'] == 'one' else 'stars'}."
        text, other = text + stars, other + stars
    key = " ".join(sorted(f"{k} {v}" for k, v in fields.items())) + name
    return Draft(_shuffled(rng, {"name": name, **fields}), text, key, (text, other))


def people(rng: random.Random, _label: str | None = None) -> Draft:
    """Draw the fields of a person and the text that tells them."""
    name = rng.choice(NAMES)
    fields = {
        "job": rng.choice(JOBS), "town": rng.choice(TOWNS),
        "pet": rng.choice(PETS), "hobby": rng.choice(HOBBIES),
    }  # fmt: skip
    for key in rng.sample(tuple(fields), rng.choice((0, 0, 1, 1, 2))):
        del fields[key]
    who = a(fields["job"]) if "job" in fields else ""
    town = f" from {fields['town']}" if "town" in fields else ""
    pet = f"has {a(fields['pet'])}" if "pet" in fields else ""
    hobby = f"likes {fields['hobby']}" if "hobby" in fields else ""
    does = " and ".join(part for part in (pet, hobby) if part)
    if not does:
        text, other = f"{name} is {who}{town}.", f"This is {name}, {who}{town}."
    elif who:
        text, other = f"{name} is {who}{town} who {does}.", f"{name}, {who}{town}, {does}."
    else:
        text, other = f"{name}{town} {does}.", f"This is {name}{town}, who {does}."
    key = " ".join(sorted(f"{k} {v}" for k, v in fields.items())) + name
    return Draft(_shuffled(rng, {"name": name, **fields}), text, key, (text, other))
