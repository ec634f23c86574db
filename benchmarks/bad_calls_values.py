# ruff: noqa: ARG005, E501 - a table
"""Bad values of each kind of argument.

A bad value says which words its message must hold; by default those are the value as Python writes
it, or its type where that is long.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd
from bad_calls_world import Bad, World, of, plain

NAN = Bad(math.nan, ("nan",))
MODELS = [Bad(None, ("NoneType",)), Bad("mini-llama", ("str",)), Bad(7, ("int",)),
          of(lambda w: w.tasks, "Tasks"), of(lambda w: w.model.cfg, "Config")]  # fmt: skip
ONE_TASK = [*plain("sst2", 3, None, {}), of(lambda w: w.tasks, "mini_film", "mini_food"),
            Bad([], ("[]",)), of(lambda w: w.scores, "dict")]  # fmt: skip
TASKS = [*plain(3, None, "mini"), Bad([], ("no tasks",)), Bad(["sst2"], ("'sst2'",)),
         of(lambda w: [w.tasks[0]] * 2, "mini_film")]  # fmt: skip
NEURONS = [
    *plain("abc", 5, None), of(lambda w: w.score, "NeuronScores", "top"),
    of(lambda w: w.sets, "dict", "mini_film"), of(lambda w: w.foreign, "foreign"),
    Bad([(99, 0)], ("(99, 0)",)), Bad([(0, -1)], ("(0, -1)",)), Bad([(0.5, 1)], ("(0.5, 1)",)),
    Bad([3], ("3",)), Bad([(1, 2, 3)], ("(1, 2, 3)",)),
]  # fmt: skip
SETS = [*plain("abc", 5, None), of(lambda w: w.scores, "NeuronScores"),
        of(lambda w: w.score, "NeuronScores"), Bad([3], ("3",)),
        of(lambda w: {**w.sets, "x": w.foreign}, "foreign"),
        of(lambda w: [w.neurons, w.neurons], "mini_film"),
        of(lambda w: {**w.sets, "none": w.empty}, "none", "empty")]  # fmt: skip
SCORES = [*plain("abc", 5, None), of(lambda w: w.sets, "NeuronSet"), Bad([3], ("3",)),
          of(lambda w: [w.score, w.score], "mini_film")]  # fmt: skip
FRACTIONS = [*plain(0, -0.1, 1.5, "0.1"), NAN, Bad(True)]
COUNTS = plain(0, -1, 2.5, "3", True)
SEEDS = plain(-1, 2**70, 1.5, "0", None)
METHODS = [Bad("grad_akt", ("grad_akt", "grad_act")), *plain(3, "", None)]
SPLITS = [*plain("tset", "validation", 3)]
PROMPTS = [Bad("chat", ("'chat'", "Prompt")), Bad({"shots": 2}, ("shots", "Prompt"))]
OPTION = {"limitt": [Bad(3, ("limitt", "limit"))]}
DATA = {"split": SPLITS, "limit": COUNTS, "token_budget": COUNTS, "prompt": PROMPTS, **OPTION}
FRAMES = [*plain(None, "abc"), of(lambda w: w.score, "NeuronScores"),
          Bad(pd.DataFrame({"x": [1]}), ("x",)), Bad(pd.DataFrame(), ("table",)),
          Bad([1, 2], ("list",)), Bad({"task": [1]}, ("dict",))]  # fmt: skip
FILES = [of(lambda w: w.nowhere, "not_there"), of(lambda w: w.text, "notes.txt"),
         of(lambda w: w.folder, "directory")]  # fmt: skip

Parameters = dict[str, Sequence[Bad]]


def inside(function: Callable[..., Any], **fixed: Any) -> Callable[..., None]:
    """Enter a context manager, run the model, and leave."""

    def enter(model: Any, **given: Any) -> None:
        with function(model, **fixed, **given):
            pass

    enter.__name__ = function.__name__
    return enter


Row = tuple[str, Callable[..., Any], Callable[[World], dict[str, Any]], Parameters]
Rows = Iterator[Row]
