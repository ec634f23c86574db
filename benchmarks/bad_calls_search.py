# ruff: noqa: ARG005, E501, E731 - a table
"""Bad calls of searches, curves, generations, similarity, and of further deltas."""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
from bad_calls_values import (
    COUNTS,
    FILES,
    FRAMES,
    METHODS,
    MODELS,
    NEURONS,
    ONE_TASK,
    OPTION,
    SETS,
    TASKS,
    Rows,
)
from bad_calls_world import Bad, World, of, plain

import tl_taskneurons as tn


def searches() -> Rows:
    """Searches, curves, generations."""
    task: Callable[[World], dict[str, Any]] = lambda w: {"model": w.model, "task": w.tasks[0]}
    yield "searches", tn.Limits, lambda w: {}, {
        "goal": plain(0, 1.5, "0.9", None), "budget": plain(0, 2.5, "3"),
        "harm": plain(-0.1, "0"), "harm_each": plain(-0.1, "0"), "text_harm": plain(-0.1, None),
        "outside": [Bad((), ("outside",)), Bad((2.0,), ("2.0",)), Bad(0.1), Bad("a")],
        "checks": plain(-1, 1.5, "2"),
    }  # fmt: skip
    yield "searches", tn.Question, lambda w: {}, {
        "n_score": COUNTS, "n_held": COUNTS, "metric": plain("los", 3),
        "ablation": plain("zeros", 3), "positions": plain("al", 3), "prompt": plain("chat", None),
    }  # fmt: skip
    yield "searches", tn.find_neurons, lambda w: {**task(w), "others": w.tasks[1]}, {
        "model": MODELS[:3], "task": ONE_TASK[:4], "others": TASKS[:3], "limits": plain(0.9, None),
        "question": plain("loss", None), "known": plain("scores", 3),
    }  # fmt: skip
    yield "searches", tn.ablation_curves, lambda w: {**task(w), "rankings": w.score}, {
        "model": MODELS[:3], "task": ONE_TASK[:4],
        "rankings": [*plain("abc", 5, None), Bad({}, ("rankings",)), Bad({"a": 3}, ("3",))],
        "others": plain(3, "mini"), "limit": COUNTS, "metric": plain("los", 3),
        "fractions": [Bad([], ("fractions",)), Bad([2.0], ("2",)), Bad(0.1)], **OPTION,
    }  # fmt: skip
    yield "searches", tn.compare_generations, lambda w: {**task(w), "neurons": w.neurons}, {
        "model": MODELS[:3], "task": ONE_TASK[:4], "neurons": NEURONS[:3],
        "max_new_tokens": COUNTS, "ablation": plain("zeros"), "positions": plain("al"),
    }  # fmt: skip
    yield "searches", tn.explain_neuron, lambda w: {**task(w), "neuron": (0, 1)}, {
        "neuron": plain(3, (0, 10**6), "a", None, (0.5, 1)), "by": plain("activations", 3),
    }  # fmt: skip
    condition: Callable[[World], dict[str, Any]] = lambda w: {
        "model": w.model, "tasks": w.tasks, "condition": tn.conditions(w.sets, controls=0)[0],
    }  # fmt: skip
    yield (
        "searches",
        tn.evaluate_condition,
        condition,
        {
            "condition": plain("none", 3, None),
            "tasks": TASKS[:3],
            "limit": COUNTS,
        },
    )


def similarities() -> Rows:
    """Similarity of weights."""
    pair: Callable[[World], dict[str, Any]] = lambda w: {"model": w.model, "sets": w.sets}
    yield "similarity", tn.weight_similarity, pair, {
        "model": MODELS[:3], "sets": SETS[:6], "reading": plain("maskd", 3),
        "parts": [Bad(["W_inn"], ("W_inn",)), Bad(3), Bad("W_in", ("'W_in'",))],
    }  # fmt: skip
    several: Callable[[World], dict[str, Any]] = lambda w: {
        "models": {"mini_film": w.model, "mini_food": w.model}, "sets": w.sets,
        "test_tasks": ["mini_food"],
    }  # fmt: skip
    yield "similarity", tn.similarity_over_models, several, {
        "models": [*plain(3, None), Bad({}, ("models",)), Bad({"a": 3}, ("'a'",))],
        "sets": SETS[:5], "test_tasks": [Bad(["mini_fod"], ("mini_fod",)), Bad([], ("test",)), Bad(3)],
    }  # fmt: skip
    yield "similarity", tn.similarity_by_layer, lambda w: {}, {"similarities": FRAMES}
    frame = pd.DataFrame({"x": [1]})
    yield (
        "similarity",
        tn.similarity_transfer,
        lambda w: {"scores": frame},
        {"similarities": FRAMES},
    )


def deltas() -> Rows:
    """Deltas of other kinds, and what is done with all."""
    train: Callable[[World], dict[str, Any]] = lambda w: {
        "model": w.model, "tasks": w.tasks[0], "training": tn.Training(steps=1), "limit": 2,
    }  # fmt: skip
    yield "deltas", tn.finetune_all, train, {
        "model": MODELS[:3], "tasks": TASKS[:3], "training": plain(1e-3, None), "limit": COUNTS,
        "checkpoint": plain(3), **OPTION,
    }  # fmt: skip
    yield "deltas", tn.finetune_lora, train, {
        "model": MODELS[:3], "tasks": TASKS[:3], "training": plain(1e-3, None), "limit": COUNTS,
        "seed": [Bad(0, ("seed", "Known"))],
    }  # fmt: skip
    top: Callable[[World], dict[str, Any]] = lambda w: {**train(w), "neurons": w.neurons}
    yield (
        "deltas",
        tn.finetune_top,
        top,
        {"method": METHODS[1:], "seed": [Bad(0, ("seed", "Known"))]},
    )
    for cls in (tn.WeightDelta, tn.LoraDelta):
        yield "deltas", cls.load, lambda w: {}, {"path": [*FILES, *plain(None, 3)]}
    for name in ("apply", "undo", "applied"):

        def use(delta: tn.NeuronDelta, model: Any, name: str = name) -> None:
            done = getattr(delta, name)(model)
            if name == "applied":
                with done:
                    pass

        yield "deltas", use, lambda w: {"delta": w.delta}, {
            "model": [*MODELS[:3], of(lambda w: w.other, "model")],
        }  # fmt: skip
    yield "deltas", lambda delta, factor: factor * delta, lambda w: {"delta": w.delta}, {
        "factor": [Bad(math.inf, ("inf",))],
    }  # fmt: skip
    yield "deltas", lambda delta, source, out: delta.merge(source, out), lambda w: {
        "delta": w.delta, "source": "mini-llama-base", "out": w.new_folder(),
    }, {
        "source": [Bad("mini-lama", ("mini-lama", "mini-llama")), Bad("mini-bloom-base", ("model",)),
                   *plain(None, 3)],
        "out": [of(lambda w: w.text, "notes.txt"), *plain(None, 3)],
    }  # fmt: skip
    for name in ("neurons", "score", "delta"):
        yield "deltas", lambda path, world, name=name: getattr(world, name).save(path), lambda w: {
            "world": w,
        }, {"path": [*plain(None, 3), of(lambda w: w.folder, "directory"),
                     of(lambda w: w.folder / "notes.txt" / "x.safetensors", "notes.txt")]}  # fmt: skip
