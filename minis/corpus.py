"""The base corpus: what the little world says, with tasks only in passing.

A document is one or a few sentences. Most are plain sentences and facts; some say one thing twice
in other words, so that a model meets the skills before it meets the tasks; a few are tasks in the
form of prompts. Only the training side of every grammar is used.
"""

import random
from collections.abc import Callable, Iterator

from tl_taskneurons.builtin.mini import (
    data2text,
    inference,
    lexicon,
    paraphrase,
    questions,
    sentiment,
)
from tl_taskneurons.builtin.mini.lexicon import Draft, a, capital
from tl_taskneurons.builtin.mini.recipes import RECIPES, TOPICS, TWELVE
from tl_taskneurons.builtin.mini.tasks import is_test

PASSING = 0.06  # share of documents that are tasks in prompt form


def prompt_text(instruction: str, text: str) -> str:
    """Return the zero-shot prompt of the library; the answer follows after a space."""
    return f"{instruction}\nInput: {text}\nOutput:"


def _draw(rng: random.Random, name: str, label: str | None = None) -> Draft:
    """Draw from the training side of one task."""
    while is_test(draft := RECIPES[name].make(rng, label)):
        pass
    return draft


def world_facts(seed: int = 0) -> dict[str, dict[str, str]]:
    """Return what is always true of each person: job, town, pet and hobby."""
    rng = random.Random(f"world/{seed}")
    return {
        name: {
            "job": rng.choice(lexicon.JOBS),
            "town": rng.choice(lexicon.TOWNS),
            "pet": rng.choice(data2text.PETS),
            "hobby": rng.choice(data2text.HOBBIES),
        }
        for name in lexicon.NAMES
    }


_FACTS = world_facts()


def _fact(rng: random.Random) -> str:
    name = rng.choice(lexicon.NAMES)
    known = _FACTS[name]
    job, town, pet = known["job"], known["town"], known["pet"]
    return " ".join(
        rng.sample(
            (
                f"{name} is {a(job)}.",
                f"{name} lives in {town}.",
                f"{name} has {a(pet)}.",
                f"{name} likes {known['hobby']}.",
                f"The {job} {name} is from {town}.",
            ),
            2,
        )
    )


def _meaning(rng: random.Random) -> str:
    kind = rng.randrange(6)
    if kind == 0:
        pool = rng.choice((paraphrase.VERBS, paraphrase.NOUNS, paraphrase.ADJECTIVES))
        one, two = rng.sample(rng.choice(pool), 2)
        return f"{capital(one)} means the same as {two}."
    if kind == 1:
        one, two = rng.sample(rng.choice((*paraphrase.COMPARED, *inference.TRAITS)), 2)
        return f"{capital(one)} is the opposite of {two}."
    if kind == 2:
        group = rng.choice(tuple(inference.KINDS))
        return f"{capital(rng.choice(inference.KINDS[group]))} are {group}."
    if kind == 3:
        words = rng.choice((sentiment.FOOD_WORDS, sentiment.FILM_WORDS))
        label = rng.choice(sentiment.POLARITY)
        one, two = rng.sample(words[label], 2)
        return f"{capital(one)} is a {label} word and {two} is too."
    if kind == 4:
        did, do = rng.choice(questions.DEEDS)
        return f"Those who {did} can {do} again."
    does, do = rng.choice(questions.HABITS)
    return f"One animal {does} and two animals {do}."


def _echo(rng: random.Random) -> str:
    """One sentence said twice: the plainest reason to look back and copy."""
    one, two = rng.sample(lexicon.NAMES, 2)
    said = _draw(rng, rng.choice(TWELVE + TOPICS)).input
    return f"{one} says: {said} {two} says: {said}"


def _plain(rng: random.Random) -> str:
    return _draw(rng, rng.choice(TWELVE + TOPICS)).input


def _in_other_words(rng: random.Random) -> str:
    """A skill without its task: the same or the opposite said in other words."""
    name = rng.choice(TWELVE)
    recipe = RECIPES[name]
    label = rng.choice(recipe.labels) if recipe.labels else None
    draft = _draw(rng, name, label)
    if recipe.family == "sentiment":
        return f"{draft.input} I was {'glad' if label == 'positive' else 'unhappy'}."
    if recipe.family == "paraphrase":
        link = "In other words:" if label == "same" else "Something else:"
        return draft.input.replace("First: ", "").replace("Second:", link)
    if recipe.family == "inference":
        link = {"yes": "So", "no": "It is false:", "maybe": "Nobody knows:"}[str(label)]
        return draft.input.replace("Claim:", link)
    if recipe.family == "summaries":
        return f"News: {draft.target} {draft.input}"
    if recipe.family == "questions":
        text, answer = draft.input.split(" Answer: ")
        return f"{text} {draft.target} {answer}"
    return f"{draft.target} In short: {draft.input}"


def _passing(rng: random.Random) -> str:
    name = rng.choice(TWELVE)
    recipe = RECIPES[name]
    draft = _draw(rng, name, rng.choice(recipe.labels) if recipe.labels else None)
    return f"{prompt_text(recipe.instruction, draft.input)} {draft.target}"


_MIX: tuple[tuple[float, Callable[[random.Random], str]], ...] = (
    (0.10, _fact), (0.10, _meaning), (0.14, _echo), (0.20, _plain),
    (0.40, _in_other_words), (PASSING, _passing),
)  # fmt: skip


def documents(seed: int) -> Iterator[str]:
    """Yield documents of the base corpus for ever, each closed by a newline."""
    rng = random.Random(f"corpus/{seed}")
    weights, makers = [w for w, _ in _MIX], [make for _, make in _MIX]
    while True:
        yield rng.choices(makers, weights)[0](rng) + "\n"


def vocabulary_texts() -> Iterator[str]:
    """Yield texts that together hold every word of the tasks.

    A few words that only the corpus has, and only with a capital, stay out: about one document in
    a hundred teaches the unknown token.
    """
    for recipe in RECIPES.values():
        rng = random.Random(f"vocabulary/{recipe.name}")
        for turn in range(1500):
            label = recipe.labels[turn % len(recipe.labels)] if recipe.labels else None
            draft = recipe.make(rng, label)
            for target in draft.references or (draft.target,):
                yield f"{prompt_text(recipe.instruction, draft.input)} {target}\n"
    stream = documents(0)
    for _ in range(3000):
        yield next(stream)
