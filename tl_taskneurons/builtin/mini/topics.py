"""Topics: four tasks with 4, 5, 10 and 14 labels for continual learning in miniature.

They mirror the shape of a well-known series (press topics, stars, forum questions, descriptions of
things). No mini model is fine-tuned on them, but all their words are in the vocabulary and their
sentences in the base corpus.
"""

import random

from tl_taskneurons.builtin.mini.lexicon import COLOURS, DAYS, NAMES, THINGS, TOWNS, Draft, a, other

PRESS = {
    "world": (("minister", "president", "king", "envoy"), ("treaty", "law", "border", "vote")),
    "sport": (("striker", "keeper", "coach", "runner"), ("cup", "medal", "final", "trophy")),
    "business": (("bank", "firm", "trader", "factory"), ("profit", "loan", "wage", "share")),
    "science": (
        ("chemist", "doctor", "biologist", "laboratory"),
        ("planet", "virus", "fossil", "atom"),
    ),
}  # fmt: skip
PRESS_FRAMES = (
    "The {who} in {town} talks about the {what} on {day}.",
    "On {day} the {who} of {town} explained the {what}.",
    "{name} asked the {who} about the {what} in {town}.",
    "A {what} surprised the {who} in {town} on {day}.",
)

STARS = {
    "terrible": ("useless", "horrible", "dreadful", "dangerous"),
    "poor": ("flimsy", "disappointing", "wobbly", "shabby"),
    "fair": ("average", "ordinary", "acceptable", "plain"),
    "good": ("solid", "handy", "pleasant", "useful"),
    "great": ("superb", "flawless", "outstanding", "excellent"),
}
STARS_FRAMES = (
    "I bought this {colour} {thing} in {town} and it is {adj}.",
    "The {colour} {thing} that {name} gave me is {adj} and {adj2}.",
    "My {thing} from {town} is {adj}, says {name}.",
    "{name} found the {colour} {thing} {adj} and {adj2}.",
)

FORUM = {
    "health": ("fever", "cough", "headache", "pill"),
    "school": ("homework", "exam", "lesson", "pupil"),
    "music": ("violin", "melody", "choir", "piano"),
    "sport": ("ball", "goal", "team", "racket"),
    "travel": ("train", "ticket", "suitcase", "passport"),
    "food": ("recipe", "oven", "sauce", "dough"),
    "money": ("loan", "budget", "coin", "wage"),
    "family": ("uncle", "sister", "wedding", "baby"),
    "computers": ("keyboard", "printer", "password", "screen"),
    "garden": ("hedge", "lawn", "seed", "spade"),
}
FORUM_FRAMES = (
    "What is the best {word} in {town}?",
    "How does one choose {word} for {name}?",
    "Why is the {word} of {name} so old?",
    "Where can {name} find {word} and {word2} on {day}?",
    "Who in {town} knows about {word} or {word2}?",
)

THINGS14 = {
    "company": (
        "sells shoes abroad", "makes steel and glass",
        "employs many clerks", "trades in wool",
    ),
    "school": ("teaches young pupils", "has six classrooms", "trains nurses", "gives lessons"),
    "artist": ("carves wooden masks", "draws portraits", "shows sculptures", "paints landscapes"),
    "athlete": ("throws the javelin", "jumps hurdles", "won a medal", "runs marathons"),
    "politician": ("leads a party", "won an election", "sits in parliament", "voted for a law"),
    "vehicle": (
        "has four wheels", "runs on diesel",
        "carries ten passengers", "has a strong engine",
    ),
    "building": ("has a tall tower", "has marble walls", "has a round roof", "has ninety windows"),
    "river": ("flows to the sea", "has many rapids", "floods its banks", "is deep and winding"),
    "village": ("has few inhabitants", "lies in the hills", "has one church", "lies near a lake"),
    "animal": ("has sharp teeth", "lays eggs", "has thick fur", "lives in burrows"),
    "plant": ("has yellow petals", "grows in shade", "has long roots", "bears sour berries"),
    "album": ("has twelve songs", "was sung live", "mixes jazz and folk", "topped the charts"),
    "film": (
        "stars a famous actor", "was shot in colour",
        "runs for two hours", "has a long script",
    ),
    "book": ("has twenty chapters", "was printed twice", "tells of a voyage", "has many pages"),
}  # fmt: skip
THINGS14_FRAMES = (
    "{name} says that {town} {clue}.",
    "{town} {clue} and {clue2}.",
    "{town}, which {name} knows, {clue}.",
)


def press(rng: random.Random, label: str | None) -> Draft:
    """Draw one sentence of news with one of 4 topics."""
    label = label or rng.choice(tuple(PRESS))
    actors, matters = PRESS[label]
    text = rng.choice(PRESS_FRAMES).format(
        who=rng.choice(actors), what=rng.choice(matters), town=rng.choice(TOWNS),
        day=rng.choice(DAYS), name=rng.choice(NAMES),
    )  # fmt: skip
    return Draft(text, label, text)


def stars(rng: random.Random, label: str | None) -> Draft:
    """Draw one product review with one of 5 grades."""
    label = label or rng.choice(tuple(STARS))
    adj, adj2 = rng.sample(STARS[label], 2)
    text = rng.choice(STARS_FRAMES).format(
        adj=adj, adj2=adj2, thing=rng.choice(THINGS), colour=rng.choice(COLOURS),
        town=rng.choice(TOWNS), name=rng.choice(NAMES),
    )  # fmt: skip
    return Draft(text, label, text)


def forum(rng: random.Random, label: str | None) -> Draft:
    """Draw one question of a forum with 10 boards."""
    label = label or rng.choice(tuple(FORUM))
    word, word2 = rng.sample(FORUM[label], 2)
    frame = rng.choice(FORUM_FRAMES)
    text = frame.format(
        word=word if "best" in frame or "old" in frame else a(word), word2=a(word2),
        town=rng.choice(TOWNS), name=rng.choice(NAMES), day=rng.choice(DAYS),
    )  # fmt: skip
    return Draft(text, label, text)


def things(rng: random.Random, label: str | None) -> Draft:
    """Draw one description of a thing that belongs to one of 14 classes."""
    label = label or rng.choice(tuple(THINGS14))
    clue, clue2 = rng.sample(THINGS14[label], 2)
    town = f"{rng.choice(('Old', 'New', 'Upper', 'Lower'))} {rng.choice(TOWNS)}"
    if label in ("artist", "athlete", "politician"):
        town = f"{rng.choice(NAMES)} {rng.choice(TOWNS)}"
    text = rng.choice(THINGS14_FRAMES).format(
        clue=clue, clue2=clue2, town=town, name=other(rng, NAMES, town.split()[0])
    )
    return Draft(text, label, text)
