# ruff: noqa: ARG005, E501 - a table
"""Bad calls of what makes or loads tasks and models, and of figures."""

import math

from bad_calls_values import (
    COUNTS,
    FRAMES,
    MODELS,
    PROMPTS,
    SPLITS,
    TASKS,
    Rows,
    inside,
)
from bad_calls_world import Bad, of, plain

import tl_taskneurons as tn


def loading() -> Rows:
    """What users make or load."""
    yield "tasks", tn.Prompt, lambda w: {}, {
        "shots": plain(-1, 1.5, "2"), "template": plain("{inpt}", "no field", "{input", 3),
        "end": plain(" ", 3), "bos": plain("yes"), "chat": plain(1), "seed": plain("0", 0.5),
    }  # fmt: skip
    yield "tasks", tn.Example, lambda w: {"input": "a", "target": "b"}, {
        "input": [Bad(None), Bad(3), Bad("\ud800", ("half a character",))], "target": plain(None, 3),
        "references": [*plain("b", 3), Bad((3,), ("3",))], "label": plain(3), "counterfactual": plain(3),
    }  # fmt: skip
    example = tn.Example("a", "b")
    yield "tasks", tn.Task, lambda w: {
        "name": "t", "train": (example,), "test": (example,), "metric": "exact_match",
    }, {
        "name": [*plain(3, None), Bad("", ("empty",)), Bad("a\nb", (r"a\nb",))],
        "metric": plain("acc", None), "labels": [Bad("ab"), Bad(("x", "y"), ("'b'",)), Bad(3)],
        "train": [Bad("ab"), Bad(None), Bad(("a",), ("'a'",)), Bad(({"input": "a"},), ("dict",)),
                  Bad((tn.Example("a", " "),), ("empty",))],
        "instruction": plain(3, None),
    }  # fmt: skip
    yield "tasks", tn.Tasks, lambda w: {}, {"tasks": [*TASKS[:3], *TASKS[4:]]}
    yield "tasks", lambda tasks, key: tasks[key], lambda w: {"tasks": w.tasks}, {
        "key": [Bad("mini_filn", ("mini_filn", "mini_film")), Bad("", ("''",))],
    }  # fmt: skip
    yield "tasks", lambda task, **given: task.show(**given), lambda w: {
        "task": w.tasks[0], "model": w.model,
    }, {"model": plain(3, None), "n": COUNTS, "split": SPLITS, "prompt": PROMPTS}  # fmt: skip
    rows = [{"input": f"x{i}", "target": "ab"[i % 2]} for i in range(6)]
    yield "tasks", tn.task_from_dicts, lambda w: {"name": "t", "rows": rows}, {
        "name": plain(3, None), "test_fraction": plain(0, 1, 2.0, "0.5"), "seed": plain("0", 1.5),
        "metric": plain("acc", 3), "labels": [Bad("ab"), Bad(["c", "d"], ("'a'", "c, d"))],
        "columns": [Bad({"text": "input"}, ("text", "input")), Bad("text"), Bad({"input": "inputs"}, ("inputs",))],
        "rows": [Bad([], ("empty",)), Bad(None), Bad(3), Bad("ab", ("'a'",)), Bad([3], ("3",)),
                 Bad([{"input": "a"}], ("target",)), Bad([{"target": "a"}], ("input",)),
                 Bad([{"input": 3, "target": "a"}] * 2, ("3",)),
                 Bad([{"input": "a", "target": math.nan}] * 2, ("NaN",)),
                 Bad([{"input": "a", "target": "b", "refernces": ["c"]}] * 3, ("refernces", "references"))],
        "lables": [Bad(["a"], ("lables", "labels"))],
    }  # fmt: skip
    yield "tasks", tn.load_tasks, lambda w: {"source": "builtin"}, {
        "source": [*plain("bultin", None, 3), of(lambda w: w.folder / "none", "none"), Bad([], ("empty",)),
                   of(lambda w: w.text, "notes.txt"), Bad("hub:sst3", ("sst3",)), Bad({}, ("empty",))],
        "names": [Bad("present_pas", ("present_pas", "present_past")), Bad([], ("empty",)), Bad(3)],
        "limit": COUNTS, "seed": plain("0", 1.5), "columns": [Bad({"a": "input"}, ("columns",))],
    }  # fmt: skip
    yield "models", tn.load_model, lambda w: {"name_or_path": "mini-llama-base"}, {
        "name_or_path": [Bad("mini-lama", ("mini-lama", "mini-llama")), *plain("", None, 3),
                         Bad("gtp2", ("gtp2",)), Bad("/not/there", ("/not/there",)),
                         of(lambda w: w.model, "needs no loading"), of(lambda w: w.text, "notes.txt"),
                         of(lambda w: str(w.folder), "config.json")],
        "kind": plain("hook", 3, None), "dtype": plain("float8", "int", 3, None),
        "device": plain("gpu", "cuda:99", 3), "device_map": plain("autoo", 3, ["cpu"]), "tokenizer": plain("gpt2", 3),
    }  # fmt: skip
    for function in (tn.view, tn.check_model):
        yield "models", function, lambda w: {}, {"model": MODELS}
    yield "models", inside(tn.gradient_checkpointing), lambda w: {}, {"model": MODELS}


def plots() -> Rows:
    """Figures."""
    for name in tn.plots.__all__:
        if name in ("describe", "save", "demo_figure", "found_figure"):
            continue
        function = getattr(tn.plots, name)
        first = function.__code__.co_varnames[0]
        frames = FRAMES
        if name == "score_heatmap":
            frames = [*(bad for bad in FRAMES[:-1] if not bad.made), Bad({"task": [1]}, ("[1]",))]
        if name == "upset_plot":
            frames = [*plain(None, 3), Bad({}, ("{}",)), of(lambda w: w.scores, "NeuronScores")]
        yield "plots", function, lambda w: {}, {first: frames}
    yield "plots", tn.plots.save, lambda w: {"figure": tn.plots.score_heatmap(w.score)}, {
        "path": [Bad("a.xyz", (".xyz",)), Bad("a", ("a ends in",)), Bad(3)],
    }  # fmt: skip
