"""The presets: sizes, and which model is reproduced how.

``smoke`` shows in a minute that everything runs, ``mini`` is the whole paper in miniature, ``full``
the same with the power to tell, ``real`` fits models of some hundred million weights and real data
on a GPU or in days on a few cores, ``hour`` is as much of that as one to four hours of one core
bear for most tables (Table 1 on six tasks, Table 2 for speed alone, one seed there), ``paper`` has
the paper's own sizes.
"""

from dataclasses import dataclass, replace
from typing import Any

from tl_taskneurons.experiments.lab.plan import PAPER_METHODS, MapSizes, Plan, SequenceSizes
from tl_taskneurons.runtime.errors import InputError, did_you_mean

# Trained and sibling in turn: two tasks of each family, as in section 2 of the paper.
PAPER_TASKS = (
    "amazon_food",
    "sst2",
    "qqp",
    "paws",
    "mnli",
    "gptnli",
    "sciq",
    "tweetqa",
    "e2e",
    "commongen",
    "cnn_dailymail",
    "xsum",
)
_ONE_OF_EACH = (
    "mini_food",
    "mini_reword",
    "mini_scenes",
    "mini_news",
    "mini_nature",
    "mini_restaurants",
)
_ALL_SHARES = (0.1, 0.3, 0.5, 0.7, 1.0)
_ALL_OVERLAPS = tuple(k / 10 for k in range(1, 11))

_MINI = Plan(
    map=MapSizes(tasks=_ONE_OF_EACH),
    sequences=SequenceSizes(orders=("mini1", "mini3"), steps=120, goal=0.25, primer_steps=160),
)
_SMOKE = replace(
    _MINI,
    preset="smoke",
    tasks=("mini_food", "mini_film", "mini_sport", "mini_news"),
    fractions=(0.1,),
    shares=(0.1, 1.0),
    overlaps=(0.1, 1.0),
    seeds=(0,),
    silenced_samples=1,
    steps=2,
    transfer_steps=1,
    tuned_steps=1,
    batch_size=4,
    rates=(1e-2,),
    speed_steps=1,
    n_detect=8,
    n_train=16,
    n_test=6,
    max_new_tokens=8,
    map=MapSizes(tasks=("mini_food",), fractions=(0.1,), rates=(1e-2,), updates=(1, 2)),
    sequences=SequenceSizes(
        orders=("mini1",),
        methods=("seq-ft", "ncft", "w-ncft"),
        steps=2,
        goal=20.0,
        primer_steps=1,
        batch_size=4,
        n_train=16,
        n_test=6,
        rates=(1e-2,),
    ),
)
_FULL = replace(
    _MINI,
    preset="full",
    selections=("plain", "rank"),
    shares=_ALL_SHARES,
    fixed_shares=(0.1, 0.3, 0.5),
    seeds=(0, 1, 2, 3, 4),
    steps=128,
    transfer_steps=128,
    n_test=100,
    map=MapSizes(
        seeds=(0, 1, 2, 3, 4),
        fractions=(0.001, 0.01, 0.10),
        rates=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
        updates=(8, 16, 32, 64, 128),
    ),
    sequences=SequenceSizes(
        steps=300,
        goal=0.15,
        primer_steps=160,
        n_train=600,
        n_test=40,
        rates=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
        instructions=("neutral", "own"),
    ),
)
_REAL = replace(
    _MINI,
    preset="real",
    tasks=PAPER_TASKS[:-2],  # without the two of summaries, whose inputs are too long here
    fractions=(0.01,),
    fraction=0.01,
    selections=("plain",),
    shares=(0.01, 0.1, 0.5, 1.0),
    fixed_shares=(0.01,),
    overlaps=(0.1, 1.0),
    steps=16,
    transfer_steps=16,
    rates=(1e-5, 3e-5, 1e-4, 3e-4, 1e-3),
    transfer_rate=1e-4,
    speed_rate=2e-5,
    speed_steps=8,
    n_detect=64,
    n_train=300,
    n_test=32,
    max_new_tokens=32,
    max_chars=160,
    map=MapSizes(
        tasks=("amazon_food", "qqp", "mnli", "sciq", "e2e", "commongen"),
        fractions=(0.001, 0.01, 0.10),
        rates=(1e-5, 1e-4, 1e-3),
        updates=(8, 16, 32, 64, 128),
    ),
    sequences=SequenceSizes(
        orders=("order1", "order2", "order3"),
        methods=("seq-ft", "seq-lora", "o-lora", "ncft", "w-ncft", "routed", "per-task"),
        steps=240,
        goal=0.5,
        n_train=300,
        n_test=32,
        rates=(1e-4, 3e-4, 1e-3),
        score_limit=24,
    ),
)
_HOUR = replace(
    _REAL,
    preset="hour",
    silenced_tasks=("amazon_food", "sst2", "qqp", "tweetqa", "e2e", "commongen"),
    questions=("speed",),
    seeds=(0,),
    silenced_samples=1,
    detections=3,
    tuned_steps=16,
    tuned_rate=2e-4,
    rates=(2e-4, 6e-4),
    n_detect=32,
    n_test=16,
    max_new_tokens=24,
    map=replace(
        _REAL.map,
        tasks=("sst2", "qqp", "tweetqa", "commongen"),
        fractions=(0.01,),
        updates=(8,),
        examples=96,
    ),
    sequences=replace(
        _REAL.sequences,
        orders=("order1",),
        steps=32,
        goal="common",
        look_every=8,
        seeds=(0, 1, 2),
        n_train=120,
        n_test=24,
        rates=(6e-4,),
    ),
)
_PAPER = replace(
    _MINI,
    preset="paper",
    tasks=PAPER_TASKS,
    selections=("plain", "rank"),
    shares=_ALL_SHARES,
    fixed_shares=(0.1, 0.3, 0.5),
    overlaps=_ALL_OVERLAPS,
    steps=500,
    transfer_steps=500,
    tuned_steps=500,
    batch_size=32,
    rates=(1e-5, 3e-5, 1e-4, 3e-4, 1e-3),
    transfer_rate=1e-4,
    speed_rate=2e-5,
    speed_steps=8,
    n_detect=1000,
    n_train=20_000,
    n_test=500,
    max_new_tokens=128,
    map=MapSizes(
        seeds=(0, 1, 2),
        fractions=(0.001, 0.01, 0.10),
        rates=(1e-5, 3e-5, 1e-4, 3e-4, 1e-3),
        updates=(8, 16, 32, 64, 128),
    ),
    sequences=SequenceSizes(
        orders=("order1", "order2", "order3", "order4", "order5", "order6"),
        methods=PAPER_METHODS,
        steps=1000,
        goal=0.2,
        look_every=50,
        batch_size=32,
        n_train=20_000,
        n_test=500,
        rates=(1e-5, 3e-5, 1e-4, 3e-4, 1e-3),
        instructions=("neutral", "own"),
    ),
)
PRESETS = {plan.preset: plan for plan in (_SMOKE, _MINI, _FULL, _HOUR, _REAL, _PAPER)}


@dataclass(frozen=True)
class Subject:
    """A model with its preset and data.

    Attributes:
        base: the model whose neurons are trained.
        tuned: the model after fine-tuning on all tasks, whose neurons are silenced (Table 1): the
            name of another model, or how to make it of the base: ``"all"`` trains all weights,
            ``"lora"`` adapters; ``"base"`` takes the base model as it is.
        preset: the preset it is run with unless another is asked for.
        data: the source of tasks.
    """

    base: str
    tuned: str
    preset: str
    data: str


SUBJECTS = {
    subject.base.removesuffix("-base"): subject
    for subject in (
        Subject("mini-llama-base", "mini-llama", "mini", "mini"),
        Subject("mini-bloom-base", "mini-bloom", "mini", "mini"),
        Subject("smollm2-135m", "all", "real", ""),
        Subject("meta-llama/Llama-2-7b-hf", "lora", "paper", "hub"),
        Subject("bigscience/bloom-7b1", "lora", "paper", "hub"),
    )
}


def hub_limit(data: str, n: int) -> int | None:
    """How many examples to take from the hub, whose data sets are large; None of other sources."""
    return n if data.startswith("hub") else None


def find_preset(name: str) -> Plan:
    """Return a preset.

    Raises:
        ValueError: for an unknown name, with the nearest.
    """
    if name not in PRESETS:
        raise InputError(f"Unknown preset {name!r}{did_you_mean(name, tuple(PRESETS))}")
    return PRESETS[name]


def subject_of(model: str) -> Subject:
    """Return how a model is reproduced.

    A file of weights (GGUF) is a small model, of which all weights are trained for Table 1; any
    other model gets adapters.
    """
    if model.endswith(".gguf"):
        return Subject(model, "all", "real", "")
    return SUBJECTS.get(model, Subject(model, "lora", "paper", "hub"))


def overridden(
    plan: Plan,
    changes: dict[str, Any],
    in_sequences: dict[str, Any],
    in_map: dict[str, Any] | None = None,
) -> Plan:
    """Return the plan with other sizes; None keeps the preset's.

    Where other tasks are given, all of them are silenced; where seeds are, rows have these too.
    """
    if changes.get("tasks") is not None:
        changes = {"silenced_tasks": (), **changes}
    given = _given(in_sequences)
    if changes.get("seeds") is not None:
        given = {"seeds": (), **given}
    return replace(
        plan,
        **_given(changes),
        sequences=replace(plan.sequences, **given),
        map=replace(plan.map, **_given(in_map or {})),
    )


def _given(sizes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in sizes.items() if value is not None}
