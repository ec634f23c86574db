"""Paraphrase: do two sentences mean the same? ``same`` or ``different``.

``reword`` asks two questions that differ by synonyms and by the frame of the question; the near
miss changes one idea and keeps the rest. ``roles`` keeps every word and changes who does what to
whom, so both answers have the same bag of words.
"""

import random

from tl_taskneurons.builtin.mini.lexicon import DAYS, NAMES, THINGS, TOWNS, Draft, a, words

SAMENESS = ("same", "different")

# Each group is one idea; its words are interchangeable in the little world.
VERBS = (
    ("buy", "purchase"), ("fix", "repair"), ("find", "locate"), ("clean", "wash"),
    ("build", "construct"), ("sell", "vend"), ("hide", "conceal"), ("move", "shift"),
)  # fmt: skip
NOUNS = (
    ("bike", "bicycle"), ("house", "home"), ("car", "automobile"), ("sofa", "couch"),
    ("photo", "picture"), ("boat", "ship"), ("rug", "carpet"), ("coat", "jacket"),
    ("bag", "sack"), ("cup", "mug"),
)  # fmt: skip
ADJECTIVES = (
    ("big", "large"), ("small", "little"), ("fast", "quick"), ("old", "ancient"),
    ("pretty", "beautiful"), ("wet", "damp"), ("odd", "strange"), ("broken", "damaged"),
)  # fmt: skip
FRAMES = (
    ("How can I {}?", "What is the best way to {}?", "How does one {}?"),
    ("Where can I {}?", "What is the best place to {}?", "Where does one {}?"),
    ("When can I {}?", "What is the best time to {}?", "When does one {}?"),
    ("Why should I {}?", "What is the reason to {}?", "Why does one {}?"),
)

PAST = words("helped followed called thanked visited invited praised blamed watched trusted")
COMPARED = (
    ("taller", "shorter"), ("older", "younger"), ("faster", "slower"), ("richer", "poorer"),
)  # fmt: skip


def reword(rng: random.Random, label: str | None) -> Draft:
    """Draw two questions with the same or with nearly the same meaning."""
    label = label or rng.choice(SAMENESS)
    pools = (FRAMES, VERBS, ADJECTIVES, NOUNS)
    ideas = [rng.randrange(len(pool)) for pool in pools]
    second = list(ideas)
    if label == "different":
        slot = rng.randrange(len(pools))
        second[slot] = rng.choice([i for i in range(len(pools[slot])) if i != ideas[slot]])
    questions = []
    for chosen in (ideas, second):
        frame, verb, adjective, noun = (
            rng.choice(pool[i]) for pool, i in zip(pools, chosen, strict=True)
        )
        questions.append(frame.format(f"{verb} {a(adjective)} {noun}"))
    text = f"First: {questions[0]} Second: {questions[1]}"
    return Draft(text, label, questions[0])


def event(rng: random.Random, who: str, whom: str) -> tuple[list[str], list[str]]:
    """Two lists of sentences: those in which ``who`` acts on ``whom``, and those reversed."""
    kind = rng.randrange(4)
    if kind == 0:
        verb, day = rng.choice(PAST), rng.choice(DAYS)
        forms = (
            f"{{x}} {verb} {{y}} on {day}.",
            f"On {day}, {{x}} {verb} {{y}}.",
            f"{{y}} was {verb} by {{x}} on {day}.",
            f"On {day}, {{y}} was {verb} by {{x}}.",
        )
    elif kind == 1:
        thing = a(rng.choice(THINGS))
        forms = (
            f"{{x}} gave {{y}} {thing}.",
            f"{{x}} gave {thing} to {{y}}.",
            f"{{y}} got {thing} from {{x}}.",
            f"{{y}} was given {thing} by {{x}}.",
        )
    elif kind == 2:
        more, less = rng.choice(COMPARED)
        forms = (f"{{x}} is {more} than {{y}}.", f"{{y}} is {less} than {{x}}.")
    else:
        town = rng.choice(TOWNS)
        forms = (
            f"{{x}} reached {town} before {{y}}.",
            f"{{y}} reached {town} after {{x}}.",
            f"Before {{y}}, {{x}} reached {town}.",
            f"After {{x}}, {{y}} reached {town}.",
        )
    true = [form.format(x=who, y=whom) for form in forms]
    return true, [form.format(x=whom, y=who) for form in forms]


def roles(rng: random.Random, label: str | None) -> Draft:
    """Draw two sentences with the same words, and with the same or with swapped roles."""
    label = label or rng.choice(SAMENESS)
    who, whom = rng.sample(NAMES, 2)
    true, swapped = event(rng, who, whom)
    first = rng.choice(true)
    second = rng.choice([s for s in true if s != first] if label == "same" else swapped)
    agents = (who, who if label == "same" else whom)
    return Draft(f"First: {first} Second: {second}", label, first, agents=agents)
