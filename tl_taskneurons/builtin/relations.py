"""Relation tasks from our own lists of facts and words: a word goes in, a related word comes out.

Each list is a file ``words/NAME.tsv`` with the columns input, target and, where more than one
answer is right, the other accepted answers separated by ``|``.
"""

from importlib import resources
from random import Random

from tl_taskneurons.runtime.errors import InputError, did_you_mean
from tl_taskneurons.tasks.task import Example, Task

_INSTRUCTIONS = {
    "country_capital": "Name the capital city of this country.",
    "landmark_country": "Name the country where this landmark stands.",
    "city_country": "Name the country where this city lies.",
    "country_demonym": "Give the adjective for someone or something from this country.",
    "word_category": "Say in one word what kind of thing this is.",
    "singular_plural": "Write the plural of this noun.",
    "present_past": "Write the simple past tense of this verb.",
    "verb_ing": "Write the -ing form of this verb.",
    "verb_agent": "Name a person who does what this verb says, with a noun made from the verb.",
    "adjective_comparative": "Write the comparative of this adjective or adverb.",
    "noun_adjective": "Give the adjective that belongs to this noun.",
    "antonym": "Write the opposite of this word.",
    "english_french": "Translate this English word into French.",
    "english_spanish": "Translate this English word into Spanish.",
    "english_german": "Translate this English word into German.",
}
_FORM = "Reply with the answer only."


def relation_names() -> tuple[str, ...]:
    """Return the names of the built-in relation tasks."""
    return tuple(_INSTRUCTIONS)


def relation_task(name: str, *, n_test: int | None = None, seed: int = 0) -> Task:
    """Return a built-in relation task, judged by exact match.

    Args:
        name: one of :func:`relation_names`.
        n_test: how many items are held out for the test split; a third of the list if None.
        seed: which items are held out, and the order of both splits. The same seed gives the
            same task.

    Raises:
        ValueError: for an unknown name (with the nearest names), an ``n_test`` that leaves a
            split empty, or a damaged word list.
    """
    if name not in _INSTRUCTIONS:
        raise InputError(
            f"No built-in relation task {name!r}{did_you_mean(name, relation_names())}"
        )
    file = resources.files("tl_taskneurons.builtin") / "words" / f"{name}.tsv"
    examples = parse_words(file.read_text(encoding="utf-8"), file.name)
    if n_test is None:
        n_test = len(examples) // 3
    if not 0 < n_test < len(examples):
        raise InputError(
            f"n_test is {n_test}, but relation task {name!r} has {len(examples)} items to share "
            f"between training and test; choose 1 to {len(examples) - 1}."
        )
    Random(seed).shuffle(examples)
    return Task(
        name=name,
        train=tuple(examples[n_test:]),
        test=tuple(examples[:n_test]),
        instruction=f"{_INSTRUCTIONS[name]} {_FORM}",
        metric="exact_match",
        family="relation",
    )


def parse_words(text: str, file: str) -> list[Example]:
    """Read a word list: ``input<TAB>target`` or ``input<TAB>target<TAB>other|other`` on each line.

    Args:
        text: the content of the list; the last line may end with a newline.
        file: its name, for error messages.

    Raises:
        ValueError: for a line with too few or too many columns, with an empty answer or spaces
            around one, or with an input that an earlier line has, and for an empty list; it
            names the file and the line.
    """
    examples: list[Example] = []
    first_seen: dict[str, int] = {}
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        where = f"{file}, line {number}"
        columns = line.split("\t")
        if len(columns) not in (2, 3):
            raise InputError(
                f"{where}: {line!r} has {len(columns)} columns separated by tabs; it needs an "
                "input, a target and, if you wish, other accepted answers."
            )
        source, target = columns[:2]
        others = columns[2].split("|") if len(columns) == 3 else []
        for part in (source, target, *others):
            if not part or part != part.strip():
                raise InputError(
                    f"{where}: {line!r} has an empty field or spaces around one ({part!r}); "
                    "remove the spaces, or fill or delete the field."
                )
        if source in first_seen:
            raise InputError(
                f"{where}: the input {source!r} is already in line {first_seen[source]}; keep one "
                "line and put the other answers in its third column."
            )
        first_seen[source] = number
        references = (target, *others) if others else ()
        examples.append(Example(input=source, target=target, references=references))
    return examples
