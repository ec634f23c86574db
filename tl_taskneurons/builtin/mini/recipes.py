"""The list of mini tasks: name, family, instruction, labels, metric and the grammar that draws."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from tl_taskneurons.builtin.mini import (
    data2text,
    inference,
    paraphrase,
    questions,
    sentiment,
    summaries,
    topics,
)
from tl_taskneurons.builtin.mini.lexicon import Draft


@dataclass(frozen=True)
class Recipe:
    """How one mini task is made.

    Attributes:
        name: The task's public name.
        family: The skill it shares with its sibling.
        instruction: The line above the input.
        make: Draws one ``Draft`` from a random generator and, for classification, a label.
        labels: The labels of a classification task; empty for generation.
    """

    name: str
    family: str
    instruction: str
    make: Callable[[random.Random, str | None], Draft]
    labels: tuple[str, ...] = ()

    @property
    def metric(self) -> str:
        """``accuracy`` for classification, ``rougeL`` for generation."""
        return "accuracy" if self.labels else "rougeL"


_SAME = paraphrase.SAMENESS
_ALL = (
    Recipe("mini_food", "sentiment", "Judge the meal.", sentiment.food, sentiment.POLARITY),
    Recipe("mini_film", "sentiment", "Judge the film.", sentiment.film, sentiment.POLARITY),
    Recipe("mini_reword", "paraphrase", "Compare the questions.", paraphrase.reword, _SAME),
    Recipe("mini_roles", "paraphrase", "Compare the events.", paraphrase.roles, _SAME),
    Recipe("mini_scenes", "inference", "Does it follow?", inference.scenes, inference.TRUTH),
    Recipe("mini_groups", "inference", "Must it be true?", inference.groups, inference.TRUTH),
    Recipe("mini_news", "summaries", "Write a headline.", summaries.news),
    Recipe("mini_sport", "summaries", "Report the result.", summaries.sport),
    Recipe("mini_nature", "questions", "Ask about nature.", questions.nature),
    Recipe("mini_posts", "questions", "Ask about the post.", questions.posts),
    Recipe("mini_restaurants", "data2text", "Describe the restaurant.", data2text.restaurants),
    Recipe("mini_people", "data2text", "Introduce the person.", data2text.people),
    Recipe("mini_press4", "topics", "Name the topic.", topics.press, tuple(topics.PRESS)),
    Recipe("mini_stars5", "topics", "Grade the product.", topics.stars, tuple(topics.STARS)),
    Recipe("mini_forum10", "topics", "Choose the forum.", topics.forum, tuple(topics.FORUM)),
    Recipe("mini_things14", "topics", "Name the class.", topics.things, tuple(topics.THINGS14)),
)  # fmt: skip

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _ALL}
TWELVE: tuple[str, ...] = tuple(r.name for r in _ALL if r.family != "topics")
TOPICS: tuple[str, ...] = tuple(r.name for r in _ALL if r.family == "topics")
