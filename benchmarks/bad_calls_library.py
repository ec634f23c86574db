# ruff: noqa: ARG005, E501, E731 - a table
"""Bad calls of what scores, silences, compares, trains and saves.

Each row: the area, a function, good arguments, and for each of them what is bad in its place.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from bad_calls_values import (
    COUNTS,
    DATA,
    FILES,
    FRACTIONS,
    FRAMES,
    METHODS,
    MODELS,
    NAN,
    NEURONS,
    ONE_TASK,
    OPTION,
    PROMPTS,
    SCORES,
    SEEDS,
    SETS,
    TASKS,
    Rows,
    inside,
)
from bad_calls_world import Bad, World, of, plain

import tl_taskneurons as tn


def library() -> Rows:
    """Area, function, good arguments, and what is bad in the place of each."""
    task: Callable[[World], dict[str, Any]] = lambda w: {"model": w.model, "task": w.tasks[0]}
    yield "scoring", tn.score_neurons, task, {
        "model": MODELS, "task": ONE_TASK, "method": METHODS, "layers": [Bad([9], ("9",)), Bad("1"),
        Bad([], ("layers",))], "steps": COUNTS, "seed": SEEDS, "metric": plain("los", 3),
        "ablation": plain("zeros", 3), "positions": plain("al", 3),
        "neurons": [of(lambda w: w.neurons, "exact")], **DATA,
    }  # fmt: skip
    yield (
        "scoring",
        tn.score_neurons,
        lambda w: {**task(w), "method": "exact"},
        {"neurons": NEURONS},
    )
    yield "scoring", tn.score_tasks, lambda w: {"model": w.model, "tasks": w.tasks}, {
        "model": MODELS[:2], "tasks": TASKS, "method": METHODS, "limit": COUNTS,
    }  # fmt: skip
    yield "scoring", tn.score_items, lambda w: {"model": w.model}, {
        "items": [Bad(["text"], ("'text'",)), Bad([(1, 2)], ("(1, 2)",)), Bad([], ("no examples",)),
                  Bad(None), Bad(3)],
    }  # fmt: skip
    yield "scoring", tn.activation_mean, task, {"model": MODELS[:3], "task": ONE_TASK, **DATA}
    top: Callable[..., Any] = lambda scores, **given: scores.top(**given)
    yield "sets", top, lambda w: {"scores": w.score}, {
        "fraction": FRACTIONS, "n": plain(-1, 10**9, 0.1, "3", True), "threshold": [NAN, Bad("1")],
        "per_layer": [Bad(True, ("exactly one",))],
    }  # fmt: skip
    contrast: Callable[..., Any] = lambda scores, **given: scores.contrast(**given)
    yield "sets", contrast, lambda w: {"scores": w.score, "others": list(w.scores.values())}, {
        "others": [Bad([], ("mini_film",)), Bad([3], ("3",)), Bad("abc", ("'a'",)), Bad(None)],
        "how": plain("exclud", 3), "fraction": FRACTIONS[:3],
    }  # fmt: skip
    yield "sets", lambda scores, key: scores[key], lambda w: {"scores": w.score}, {
        "key": plain((0, 10**6), (-1, 0), 3, "a", (1, 2, 3), (0.5, 1)),
    }  # fmt: skip
    yield "sets", tn.NeuronSet.from_pairs, lambda w: {"model": w.model}, {
        "pairs": [bad for bad in NEURONS if not bad.made],
    }  # fmt: skip
    for sign in ("__or__", "__and__", "__sub__", "__xor__", "isdisjoint", "issubset"):
        yield "sets", lambda a, b, sign=sign: getattr(a, sign)(b), lambda w: {"a": w.neurons}, {
            "b": [Bad(3, ("int",)), Bad([(0, 1)], ("list", "from_pairs")),
                  of(lambda w: w.foreign, "foreign")],
        }  # fmt: skip
    like: Callable[..., Any] = lambda a, **given: a.random_like(**given)
    yield "sets", like, lambda w: {"a": w.neurons, "seed": 0}, {
        "seed": SEEDS, "match": plain("layers", 3),
        "exclude": [of(lambda w: ~w.empty, "excluded"), of(lambda w: w.foreign, "foreign"), Bad(3)],
    }  # fmt: skip
    yield "sets", lambda a, model: a.rebind(model), lambda w: {"a": w.neurons}, {
        "model": MODELS[:3],
    }  # fmt: skip
    yield "sets", tn.select, lambda w: {"scores": w.scores}, {
        "scores": [*SCORES, Bad({}, ("no scores",))], "selection": plain("plian", 3, None),
        "fraction": FRACTIONS,
    }  # fmt: skip
    yield "sets", tn.exclusive, lambda w: {}, {"sets": [*SETS[:6], Bad({}, ("two",))]}
    yield "sets", tn.common, lambda w: {"sets": w.sets}, {
        "sets": [*SETS[:3], Bad([], ("one set",)), Bad([3], ("3",))], "at_least": plain(0, 3, "2", 1.5),
    }  # fmt: skip
    yield "sets", tn.layer_table, lambda w: {"scores": w.scores, "sets": w.sets}, {
        "scores": SCORES[:5], "sets": SETS[:6],
    }  # fmt: skip
    on: Callable[[World], dict[str, Any]] = lambda w: {"model": w.model, "neurons": w.neurons}
    yield "silencing", inside(tn.deactivate), on, {
        "model": MODELS, "neurons": [*NEURONS, of(lambda w: w.empty, "empty")],
        "how": plain("hook", 3), "ablation": plain("zeros", 3), "positions": plain("al", 3),
    }  # fmt: skip
    yield "silencing", inside(tn.scale), lambda w: {**on(w), "factor": 2.0}, {
        "neurons": NEURONS[:5], "factor": [NAN, Bad(math.inf, ("inf",)), *plain("2", None)],
    }  # fmt: skip
    yield "silencing", inside(tn.mean_ablate), on, {
        "means": [Bad(torch.zeros(2, 3), ("(2, 3)",)), Bad(None), Bad(0.0), Bad([[1.0]], ("list",)),
                  of(lambda w: torch.full_like(w.score.values, math.nan), "nan")],
    }  # fmt: skip
    yield "silencing", inside(tn.patch), on, {
        "source": [Bad({}, ("hook",)), *plain(None, 3), of(lambda w: w.scores, "hook")],
    }  # fmt: skip
    yield "silencing", tn.conditions, lambda w: {"sets": w.sets}, {
        "sets": SETS, "controls": plain(-1, 1.5, "2", True), "match": plain("layers"),
    }  # fmt: skip
    yield "silencing", tn.deactivation_items, lambda w: {
        "model": w.model, "tasks": w.tasks, "sets": w.sets, "limit": 1, "controls": 1,
    }, {
        "model": MODELS[:3], "tasks": TASKS, "limit": COUNTS, "ablation": plain("means", "mean"),
        "sets": [*SETS, of(lambda w: {"mini_filn": w.neurons}, "mini_filn", "mini_film"),
                 Bad({}, ("no sets",))],
        **OPTION,
    }  # fmt: skip
    for function in (tn.deactivation_table, tn.deactivation_matrix, tn.diagonal_wins):
        yield (
            "silencing",
            function,
            lambda w: {},
            {"items" if function != tn.diagonal_wins else "matrix": FRAMES},
        )
    yield "evaluation", tn.evaluate, lambda w: {"model": w.model, "tasks": w.tasks, "limit": 1}, {
        "model": MODELS, "tasks": TASKS, "max_new_tokens": COUNTS, "generation": plain("yes", 3),
        "metric": plain("acuracy", 3), **DATA,
    }  # fmt: skip
    yield "evaluation", tn.evaluate_items, task, {"task": ONE_TASK, "limit": COUNTS}
    yield "analysis", tn.overlap, lambda w: {"sets": w.sets}, {
        "sets": [*SETS, Bad({}, ("pair",))], "other": [*SETS[:2], Bad({}, ("[]",))],
    }  # fmt: skip
    yield "analysis", tn.overlap_matrix, lambda w: {"sets": w.sets}, {"column": plain("share", 3)}
    yield "analysis", tn.group_overlap, lambda w: {"sets": w.sets}, {
        "groups": [Bad({"a": ["mini_filn"]}, ("mini_filn", "mini_film")), Bad({"a": []}, ("'a'",)),
                   Bad(None), Bad(["mini_film"], ("list",))],
    }  # fmt: skip
    yield "analysis", tn.overlap_by_fraction, lambda w: {"scores": w.scores, "fractions": [0.1]}, {
        "scores": SCORES, "fractions": [Bad([], ("fractions",)), Bad([2], ("2",)), Bad("0.1")],
    }  # fmt: skip
    yield "analysis", tn.faithfulness, lambda w: {**task(w), "n_random": 5, "n_top": 5, "limit": 2}, {
        "model": MODELS[:3], "task": ONE_TASK, "method": [*METHODS, Bad("exact")],
        "n_random": plain(-1, 2.5, "3", 10**9), "seed": SEEDS, "fractions": [Bad([2.0], ("2",)), Bad(3)],
    }  # fmt: skip
    yield "analysis", tn.explain_neurons, lambda w: {**task(w), "neurons": [(0, 1)]}, {
        "neurons": [bad for bad in NEURONS if bad.needs != ("dict",)] + [Bad([], ("no neurons",))],
        "task": ONE_TASK, "by": plain("activations", 3), "n_examples": COUNTS, "n_tokens": COUNTS,
    }  # fmt: skip
    yield "training", tn.Training, lambda w: {}, {
        **{name: plain(0, -1.0, "1") for name in ("lr", "epochs", "clip")},
        **dict.fromkeys(("steps", "batch_size", "accumulate", "evaluate_every", "patience", "checkpoint_every"), COUNTS),
        "warmup": plain(-0.1, 1.0, "0"), "validation": plain(-0.1, 1.0, "0"),
        "weight_decay": [*plain(-1.0, "0"), NAN], "betas": plain((0.9,), 0.9, (0.9, 1.0), "ab"),
        "schedule": plain("cosin", 3), "seed": SEEDS,
    }  # fmt: skip
    train: Callable[[World], dict[str, Any]] = lambda w: {
        "model": w.model, "tasks": w.tasks[0], "neurons": w.neurons, "training": tn.Training(steps=1),
        "limit": 2,
    }  # fmt: skip
    yield "training", tn.finetune, train, {
        "model": MODELS, "tasks": [*TASKS[:3], Bad([], ("no task",)), *TASKS[4:]], "neurons": [*NEURONS, of(lambda w: w.empty, "neurons")],
        "training": [Bad(1e-3), Bad({"lr": 1}, ("dict", "Training")), Bad(None)],
        "limit": COUNTS, "prompt": PROMPTS, **OPTION,
        "update_scale": [Bad(torch.zeros(2, 3), ("(2, 3)",)), Bad("1"), Bad(0.5),
                         of(lambda w: -torch.ones_like(w.score.values), "-1"),
                         of(lambda w: torch.full_like(w.score.values, math.nan), "nan")],
    }  # fmt: skip
    yield "training", tn.finetune_random, train, {"match": plain("layers"), "seed": SEEDS}
    yield "training", tn.finetune_top, train, {"method": METHODS[:2], "score_limit": plain(0, -1)}
    yield "training", tn.finetune_lora, train, {"rank": COUNTS, "alpha": [*plain(0, "1"), NAN]}
    for cls in (tn.NeuronSet, tn.NeuronScores, tn.NeuronDelta):
        yield "files", cls.load, lambda w: {}, {"path": [*FILES, *plain(None, 3)]}
    yield "files", tn.load_delta, lambda w: {}, {"path": FILES}
    yield (
        "files",
        lambda a, b: a + b,
        lambda w: {"a": w.delta},
        {"b": [Bad(3, ("int",)), Bad(None, ("None",))]},
    )
    yield (
        "files",
        lambda a, b: a.scaled(b),
        lambda w: {"a": w.delta},
        {"b": [*plain("2", None), NAN]},
    )
    yield "files", inside(lambda model, delta: delta.applied(model)), lambda w: {"delta": w.delta}, {
        "model": [*MODELS[:3], of(lambda w: w.other, "model")],
    }  # fmt: skip
    yield "files", tn.write_report, lambda w: {}, {
        "run_dir": [of(lambda w: w.folder / "none", "none"), of(lambda w: w.folder, "run")],
    }  # fmt: skip
    yield "sequences", tn.run_sequence, lambda w: {
        "model": w.model, "tasks": w.tasks, "training": tn.Training(steps=1), "limit": 2,
        "test_limit": 1,
    }, {
        "model": MODELS[:3], "tasks": TASKS, "method": plain("ncfd", 3, None), "fraction": FRACTIONS,
        "score_limit": COUNTS, "limit": COUNTS, "test_limit": COUNTS, "seed": SEEDS, **OPTION,
        "training": plain(1e-3, None),
    }  # fmt: skip
