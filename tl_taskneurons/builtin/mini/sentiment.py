"""Sentiment: food reviews and film reviews, ``positive`` or ``negative``.

The judgement is in the last clause, and most sentences also hold a word of the opposite colour
(a negation, an expectation, somebody else's opinion), so counting words is not enough.
"""

import random

from tl_taskneurons.builtin.mini.lexicon import DAYS, NAMES, Draft, a, words

POLARITY = ("positive", "negative")

DISHES = words("soup bread salad cake pasta rice fish steak pizza pie coffee stew curry cheese")
FOOD_WORDS = {
    "positive": words("fresh tasty delicious crisp tender juicy perfect wonderful hot sweet"),
    "negative": words("stale bland cold burnt soggy bitter greasy dry awful sour"),
}
FILM_PARTS = words("plot story finale song ending script cast dialogue hero opening")
FILM_WORDS = {
    "positive": words("thrilling moving clever funny gripping brilliant charming lively"),
    "negative": words("dull boring slow silly tedious clumsy weak noisy"),
}
STRENGTH = ("very", "really", "quite", "so")


def _opposite(label: str) -> str:
    return POLARITY[1 - POLARITY.index(label)]


def food(rng: random.Random, label: str | None) -> Draft:
    """Draw one food review that has the given label."""
    label = label or rng.choice(POLARITY)
    right, wrong = FOOD_WORDS[label], FOOD_WORDS[_opposite(label)]
    adj, adj2 = rng.sample(right, 2)
    opp = rng.choice(wrong)
    dish, dish2 = rng.sample(DISHES, 2)
    often = "gladly" if label == "positive" else "never"
    review = rng.choice(
        (
            f"The {dish} was {rng.choice(STRENGTH)} {adj}.",
            f"The {dish} was not {opp} at all.",
            f"The {dish} looked {opp}, but it tasted {adj}.",
            f"{rng.choice(NAMES)} called the {dish} {opp}, but I found it {adj}.",
            f"The {dish} was {adj} and the {dish2} was {adj2}.",
            f"I will {often} order the {dish} or the {dish2} again.",
        )
    )
    if rng.random() < 0.5:
        review = f"We ate there on {rng.choice(DAYS)} with {rng.choice(NAMES)}. {review}"
    return Draft(review, label, review)


def film(rng: random.Random, label: str | None) -> Draft:
    """Draw one film review that has the given label."""
    label = label or rng.choice(POLARITY)
    right, wrong = FILM_WORDS[label], FILM_WORDS[_opposite(label)]
    adj, adj2 = rng.sample(right, 2)
    opp = rng.choice(wrong)
    part, part2 = rng.sample(FILM_PARTS, 2)
    name = rng.choice(NAMES)
    review = rng.choice(
        (
            f"The {part} of this film by {name} is {adj} and {adj2}.",
            f"Nothing about the {part} or the {part2} is {opp}.",
            f"Critics called the {part} {opp}, yet it is {adj}.",
            f"Despite {a(opp)} {part}, the film by {name} is {adj}.",
            f"Far from {opp}, the {part} is {adj}.",
            f"{name} gives us {a(adj)} {part} and {a(adj2)} {part2}.",
        )
    )
    return Draft(review, label, review)
