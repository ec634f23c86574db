"""Easy items of the comparing tasks, for training only.

Two sentences that must be compared word by word give one bit for some thirty tokens, and a small
model finds no foothold there. Exercises compare single words, short phrases and sentences of one
form; they come in the tasks' own prompt.
"""

import random

from tl_taskneurons.builtin.mini.lexicon import COLOURS, NAMES, NUMBERS, TOWNS, Draft, a, other
from tl_taskneurons.builtin.mini.paraphrase import ADJECTIVES, NOUNS, SAMENESS, VERBS, event


def reword(rng: random.Random, label: str | None) -> Draft:
    """Draw two words or short phrases with the same meaning or with one idea changed."""
    label = label or rng.choice(SAMENESS)
    pools = rng.choice(
        ((VERBS,), (ADJECTIVES,), (NOUNS,), (ADJECTIVES, NOUNS), (VERBS, NOUNS),
         (VERBS, ADJECTIVES, NOUNS))
    )  # fmt: skip
    ideas = [rng.randrange(len(pool)) for pool in pools]
    second = list(ideas)
    if label == "different":
        slot = rng.randrange(len(pools))
        second[slot] = rng.choice([i for i in range(len(pools[slot])) if i != ideas[slot]])
    phrases = []
    for chosen in (ideas, second):
        words = [rng.choice(pool[i]) for pool, i in zip(pools, chosen, strict=True)]
        if pools[0] is VERBS and len(pools) > 1:
            phrases.append(f"{words[0]} {a(' '.join(words[1:]))}")
        else:
            phrases.append(a(" ".join(words)) if len(pools) > 1 else words[0])
    return Draft(f"First: {phrases[0]}. Second: {phrases[1]}.", label, phrases[0])


def roles(rng: random.Random, label: str | None) -> Draft:
    """Draw one sentence twice, or once more with the roles swapped, in the same form."""
    label = label or rng.choice(SAMENESS)
    who, whom = rng.sample(NAMES, 2)
    true, swapped = event(rng, who, whom)
    form = rng.randrange(len(true))
    second, agent = (true[form], who) if label == "same" else (swapped[form], whom)
    return Draft(f"First: {true[form]} Second: {second}", label, true[form], agents=(who, agent))


def equal(rng: random.Random, label: str | None) -> Draft:
    """Draw one or two names, towns, colours or numbers, the same again or with one changed."""
    label = label or rng.choice(SAMENESS)
    pools = rng.sample((NAMES, TOWNS, COLOURS, NUMBERS), rng.choice((1, 2)))
    first = [rng.choice(pool) for pool in pools]
    second = list(first)
    if label == "different":
        slot = rng.randrange(len(pools))
        second[slot] = other(rng, pools[slot], first[slot])
    text = " ".join(first)
    return Draft(f"First: {text}. Second: {' '.join(second)}.", label, text)


EXERCISES = (
    ("mini_reword", reword), ("mini_roles", roles), ("mini_roles", equal),
)  # fmt: skip
