# ruff: noqa: ARG005, E501, E731 - a table
"""The bad calls: for each function good arguments, and for each of them what is bad in its place.

A bad value says which words its message must hold; by default those are the value as Python writes
it, or its type where that is long.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pandas as pd
import torch

import tl_taskneurons as tn

Make = Callable[["World"], Any]


class World:
    """What good calls take, made when it is first used."""

    def __init__(self, folder: Path) -> None:
        """Start with an empty folder."""
        self.folder = folder

    @cached_property
    def model(self) -> Any:
        """A model."""
        return tn.load_model("mini-llama-base", device="cpu")

    @cached_property
    def other(self) -> Any:
        """A model of another shape."""
        return tn.load_model("mini-bloom-base", device="cpu")

    @cached_property
    def tasks(self) -> tn.Tasks:
        """Two tasks."""
        return tn.load_tasks("mini", ["mini_film", "mini_food"], limit=6)

    @cached_property
    def scores(self) -> dict[str, tn.NeuronScores]:
        """Their scores."""
        return tn.score_tasks(self.model, self.tasks)

    @cached_property
    def sets(self) -> dict[str, tn.NeuronSet]:
        """Their neurons."""
        return tn.select(self.scores, fraction=0.02)

    @property
    def score(self) -> tn.NeuronScores:
        """The first task's scores."""
        return next(iter(self.scores.values()))

    @property
    def neurons(self) -> tn.NeuronSet:
        """The first task's neurons."""
        return next(iter(self.sets.values()))

    @property
    def empty(self) -> tn.NeuronSet:
        """No neuron."""
        return self.neurons - self.neurons

    @cached_property
    def foreign(self) -> tn.NeuronSet:
        """A set of the other model."""
        return tn.NeuronSet.from_pairs(self.other, [(0, 1)], "foreign")

    @cached_property
    def delta(self) -> tn.NeuronDelta:
        """Trained neurons."""
        return tn.finetune(self.model, self.tasks[0], self.neurons, tn.Training(steps=1), limit=4)

    @cached_property
    def items(self) -> pd.DataFrame:
        """The rows of silencing."""
        return tn.deactivation_items(self.model, self.tasks, self.sets, controls=1, limit=2)

    @cached_property
    def text(self) -> str:
        """A file that holds no tensors and no table."""
        path = self.folder / "notes.txt"
        path.write_text("nothing\n")
        return str(path)

    def new_folder(self) -> Path:
        """A folder that nothing was written to."""
        return Path(mkdtemp(dir=self.folder))

    @cached_property
    def nowhere(self) -> str:
        """A file that isn't there."""
        return str(self.folder / "not_there.safetensors")


@dataclass(frozen=True)
class Bad:
    """A bad value, and what its message must name."""

    value: Any
    needs: tuple[str, ...] | None = None
    made: bool = False

    def get(self, world: World) -> Any:
        """The value in a world."""
        return self.value(world) if self.made else self.value

    @property
    def text(self) -> str:
        """How it is shown."""
        return f"the world's {self.needs}" if self.made else repr(self.value)[:60]

    @property
    def words(self) -> tuple[str, ...]:
        """The words that the message must hold."""
        return (repr(self.value)[:60],) if self.needs is None else self.needs


@dataclass(frozen=True)
class BadCall:
    """One call that must be told."""

    area: str
    text: str
    needs: tuple[str, ...]
    make: Make
    shell: bool = False

    def words_of(self, world: World) -> list[str]:
        """The words of a command."""
        return [str(word) for word in self.make(world)]


def of(make: Make, *needs: str) -> Bad:
    """A bad value that is made in a world."""
    return Bad(make, needs, made=True)


def plain(*values: Any) -> list[Bad]:
    """Bad values that messages write as Python does."""
    return [Bad(value) for value in values]


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
SEEDS = plain(-1, 2**70, 1.5, "0")
METHODS = [Bad("grad_akt", ("grad_akt", "grad_act")), *plain(3, "", None)]
SPLITS = [*plain("tset", "validation", 3)]
PROMPTS = [Bad("chat", ("'chat'", "Prompt")), Bad({"shots": 2}, ("dict", "Prompt"))]
OPTION = {"limitt": [Bad(3, ("limitt", "limit"))]}
DATA = {"split": SPLITS, "limit": COUNTS, "token_budget": COUNTS, "prompt": PROMPTS, **OPTION}
FRAMES = [*plain(None, "abc"), of(lambda w: w.score, "NeuronScores"),
          Bad(pd.DataFrame({"x": [1]}), ("x",)), Bad(pd.DataFrame(), ("table",)),
          Bad([1, 2], ("list",)), Bad({"task": [1]}, ("dict",))]  # fmt: skip
FILES = [of(lambda w: w.nowhere, "not_there"), of(lambda w: w.text, "notes.txt"),
         of(lambda w: w.folder, "folder")]  # fmt: skip

Parameters = dict[str, Sequence[Bad]]


def inside(function: Callable[..., Any], **fixed: Any) -> Callable[..., None]:
    """Enter a context manager, run the model, and leave."""

    def enter(model: Any, **given: Any) -> None:
        with function(model, **fixed, **given):
            pass

    enter.__name__ = function.__name__
    return enter


def table() -> Iterator[
    tuple[str, Callable[..., Any], Callable[[World], dict[str, Any]], Parameters]
]:
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
        "model": [*MODELS[:3], of(lambda w: w.other, "shape")],
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
        "model": MODELS, "tasks": TASKS, "neurons": [*NEURONS, of(lambda w: w.empty, "neurons")],
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
        "run": [of(lambda w: w.folder / "none", "none"), of(lambda w: w.folder, "run")],
    }  # fmt: skip
    yield "sequences", tn.run_sequence, lambda w: {
        "model": w.model, "tasks": w.tasks, "training": tn.Training(steps=1), "limit": 2,
        "test_limit": 1,
    }, {
        "model": MODELS[:3], "tasks": TASKS, "method": plain("ncfd", 3, None), "fraction": FRACTIONS,
        "score_limit": COUNTS, "limit": COUNTS, "test_limit": COUNTS, "seed": SEEDS, **OPTION,
        "training": plain(1e-3, None),
    }  # fmt: skip
    yield from _own()
    yield from _plots()


def _own() -> Iterator[Any]:
    """What users make or load."""
    yield "tasks", tn.Prompt, lambda w: {}, {
        "shots": plain(-1, 1.5, "2"), "template": plain("{inpt}", "no field", "{input", 3),
        "end": plain(" ", 3), "bos": plain("yes"), "chat": plain(1), "seed": plain("0", 0.5),
    }  # fmt: skip
    yield "tasks", tn.Example, lambda w: {"input": "a", "target": "b"}, {
        "input": [Bad(None), Bad(3), Bad("\ud800", ("half a character",))], "target": plain(None, 3),
        "references": plain("b", 3, (3,)), "label": plain(3), "counterfactual": plain(3),
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
        "metric": plain("acc", 3), "labels": [Bad("ab"), Bad(["c", "d"], ("'c'",))],
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
        "device": plain("gpu", "cuda:99", 3), "device_map": plain("autoo", 3), "tokenizer": plain("gpt2", 3),
    }  # fmt: skip
    for function in (tn.view, tn.check_model):
        yield "models", function, lambda w: {}, {"model": MODELS}
    yield "models", inside(tn.gradient_checkpointing), lambda w: {}, {"model": MODELS}


def _plots() -> Iterator[Any]:
    for name in tn.plots.__all__:
        if name in ("describe", "save", "demo_figure", "found_figure"):
            continue
        function = getattr(tn.plots, name)
        first = function.__code__.co_varnames[0]
        frames = [bad for bad in FRAMES if not (bad.made and name == "score_heatmap")]
        if name == "upset_plot":
            frames = [*plain(None, 3), Bad({}, ("set",)), of(lambda w: w.scores, "NeuronScores")]
        yield "plots", function, lambda w: {}, {first: frames}
    yield "plots", tn.plots.save, lambda w: {"figure": tn.plots.score_heatmap(w.score)}, {
        "path": [Bad("a.xyz", (".xyz",)), Bad("a", ("'a'",)), Bad(3)],
    }  # fmt: skip


ONE = ["--model", "mini-llama-base", "--tasks", "mini_film,mini_food"]
SHORT = ["--limit", 4, "--test-limit", 2]
COMMANDS: dict[str, list[Any]] = {
    "detect": [*ONE, "--limit", 4, "--out", "OUT"],
    "deactivate": [*ONE, *SHORT, "--controls", 1, "--out", "OUT"],
    "finetune": [*ONE, *SHORT, "--steps", 1, "--out", "OUT.safetensors"],
    "continual": [*ONE, *SHORT, "--steps", 1, "--out", "OUT"],
    "plan": [*ONE, "--limit", 4],
    "info": ["--data", "mini"],
    "reproduce": ["--model", "mini-llama", "--preset", "smoke", "--out", "OUT"],
}
SOURCE = {
    "--model": ["mini-lama", "", "/not/there", "gtp2"],
    "--kind": ["hook"],
    "--dtype": ["float8"],
    "--device": ["gpu", "cuda", "cuda:99", "xpu", "3"],
    "--tasks": ["mini_filn", "", ","],
    "--data": ["nowhere", "hub:sst3", "NOTES"],
}
NUMBER = ["0", "-1", "2.5", "three", "nan"]
SHARE = ["0", "-0.1", "1.5", "nan", "ten"]
SEED = ["-1", str(2**70), "1.5", "x"]
OPTIONS: dict[str, dict[str, list[str]]] = {
    "detect": {**SOURCE, "--method": ["grad_akt", "exact", ""], "--fraction": SHARE, "--seed": SEED,
               "--selection": ["plian", "", ","], "--limit": NUMBER, "--shots": ["-1", "x", "1.5"]},
    "deactivate": {"--controls": NUMBER, "--test-limit": NUMBER, "--seed": SEED,
                   "--ablation": ["means"], "--max-new-tokens": NUMBER, "--fraction": SHARE},
    "finetune": {**SOURCE, "--lr": ["0", "-1", "nan", "x"], "--steps": NUMBER, "--epochs": ["0", "-1", "x"],
                 "--batch-size": NUMBER, "--fraction": SHARE, "--method": ["grad_akt"], "--seed": SEED,
                 "--selection": ["plian"], "--neurons": ["nowhere"], "--limit": NUMBER,
                 "--test-limit": NUMBER, "--shots": ["-1", "x"], "--schedule": ["cosin"],
                 "--validation": ["1", "-0.1"], "--patience": ["0", "3"]},
    "continual": {"--method": ["ncfd", "", ","], "--order": ["order9"], "--fraction": SHARE,
                  "--steps": NUMBER, "--lr": ["0", "x"], "--score-limit": NUMBER, "--limit": NUMBER,
                  "--test-limit": NUMBER, "--seed": SEED, "--batch-size": NUMBER, "--shots": ["-1"],
                  "--tasks": ["mini_filn"]},
    "plan": {"--model": SOURCE["--model"], "--tasks": SOURCE["--tasks"], "--limit": NUMBER,
             "--steps": NUMBER, "--batch-size": NUMBER, "--fraction": SHARE, "--token-budget": NUMBER,
             "--shots": ["-1"], "--device": ["gpu", "cuda"]},
    "info": {"--model": SOURCE["--model"][:1] + SOURCE["--model"][2:], "--data": SOURCE["--data"],
             "--tasks": ["mini_filn"], "--device": ["gpu"]},
    "reproduce": {"--model": SOURCE["--model"], "--preset": ["smok"], "--only": ["", ",", "table99"],
                  "--workers": NUMBER, "--seeds": SEED, "--shares": SHARE, "--rates": ["0", "-1", "x"],
                  "--steps": NUMBER, "--batch-size": NUMBER, "--train": NUMBER, "--test": NUMBER,
                  "--shots": ["-1"], "--orders": ["order9"], "--methods": ["ncfd"], "--tasks": ["nine"],
                  "--device": ["cuda"], "--tuned": ["nothing"]},
}  # fmt: skip
WHOLE: list[tuple[list[Any], tuple[str, ...]]] = [
    ([], ("COMMAND",)), (["detct"], ("detct", "detect")), (["--debugg"], ("--debugg",)),
    (["detect"], ("--tasks",)), (["detect", *ONE], ("--out",)), (["detect", *ONE, "--out"], ("--out",)),
    (["detect", *ONE, "--out", "NOTES"], ("notes.txt",)), (["detect", *ONE, "--ou", "OUT"], ("--ou",)),
    (["detect", *ONE, "--out", "OUT", "more"], ("more",)),
    (["finetune", *ONE, "--out", "NOTES"], ("notes.txt", "exists")),
    (["apply"], ("--delta",)), (["apply", "--delta", "nowhere.safetensors"], ("nowhere",)),
    (["apply", "--delta", "NOTES"], ("notes.txt",)), (["merge", "--delta", "NOTES"], ("--model",)),
    (["merge", "--delta", "NOTES", "--model", "mini-llama", "--out", "OUT"], ("notes.txt",)),
    (["merge", "--delta", "nowhere", "--model", "mini-llama", "--out", "OUT"], ("nowhere",)),
    (["report"], ("RUN_DIR",)), (["report", "nowhere"], ("nowhere",)), (["report", "NOTES"], ("notes.txt",)),
    (["report", "nowhere", "--device", "cuda"], ("cuda",)), (["report", "nowhere", "--neurons", "x"], ("x",)),
    (["detect", *ONE, "--out", "OUT", "--plugin", "not_there"], ("not_there",)),
    (["detect", *ONE, "--out", "OUT", "--plugin", ".x"], (".x",)),
    (["detect", "--model", "mini-llama-base", "--tasks", "mini_film", "--selection", "exclusive", "--out",
      "OUT"], ("exclusive", "two")),
    (["continual", "--model", "mini-llama-base", "--out", "OUT"], ("--order", "--tasks")),
    (["continual", *ONE, "--order", "mini1", "--out", "OUT"], ("--order", "--tasks")),
]  # fmt: skip


def _shell(words: list[Any], *needs: str) -> BadCall:
    def make(world: World) -> list[Any]:
        out = world.new_folder()
        places = {"OUT": out, "NOTES": world.text, "OUT.safetensors": out / "out.safetensors"}
        return [places.get(word, word) for word in words]

    text = " ".join(str(word) or "''" for word in words)
    return BadCall(
        f"tl-taskneurons {words[0] if words else ''}".strip(), text, needs, make, shell=True
    )


def all_calls() -> list[BadCall]:
    """Every bad call."""
    calls = []
    for area, function, good, parameters in table():
        for name, values in parameters.items():
            for bad in values:

                def make(world: World, f=function, good=good, name=name, bad=bad) -> Any:
                    return f(**{**good(world), name: bad.get(world)})

                label = getattr(function, "__qualname__", str(function)).split(".")[-1]
                calls.append(BadCall(area, f"{label}({name}={bad.text})", bad.words, make))
    for command, options in OPTIONS.items():
        for option, texts in options.items():
            base = list(COMMANDS[command])
            for known in (option, *(["--tasks"] if option == "--order" else [])):
                if known in base:
                    place = base.index(known)
                    del base[place : place + 2]
            for text in texts:
                named = text.removeprefix("hub:") if text.strip(",") else option.strip("-")
                needs = "notes.txt" if text == "NOTES" else named
                calls.append(_shell([command, *base, option, text], needs))
    return calls + [_shell(words, *needs) for words, needs in WHOLE]
