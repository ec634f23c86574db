"""How large a reproduction is: every size in one place, fixed before the runs that are published.

``smoke`` shows in seconds that everything runs, ``mini`` is the whole paper in miniature,
``small`` fits models of some hundred million weights and real data on a few cores, ``paper`` has
the paper's own sizes.
"""

from dataclasses import dataclass, replace
from typing import Any

from tl_taskneurons.runtime.errors import InputError, did_you_mean
from tl_taskneurons.tasks.prompts import Prompt
from tl_taskneurons.training.settings import Training

# Trained and sibling in turn: two tasks of each family, as in section 2 of the paper.
PAPER_TASKS = (
    "amazon_food", "sst2", "qqp", "paws", "mnli", "gptnli", "sciq", "tweetqa", "e2e", "commongen",
    "cnn_dailymail", "xsum",
)  # fmt: skip
# The methods of Table 5.
PAPER_METHODS = ("seq-ft", "seq-lora", "epi", "o-lora", "ncft", "w-ncft", "per-task")


@dataclass(frozen=True)
class Rows:
    """Sizes of the experiment with tasks in a row (Table 5, Figure 4).

    Attributes:
        orders: names of orders; learning rates are chosen on the first.
        methods: names of methods.
        steps: updates of a stage.
        batch_size: examples of an update.
        n_train: training examples of a task.
        n_test: test examples of a task; as many training examples are held out for the choice.
        rates: learning rates tried for neurons and adapters; all weights take a third of each.
    """

    orders: tuple[str, ...] = ("mini1", "mini2", "mini3")
    methods: tuple[str, ...] = PAPER_METHODS
    steps: int = 60
    batch_size: int = 8
    n_train: int = 480
    n_test: int = 20
    rates: tuple[float, ...] = (3e-3, 1e-2)


@dataclass(frozen=True)
class Plan:
    """All sizes of a reproduction.

    Attributes:
        preset: its name.
        tasks: names of tasks, trained ones and siblings; None takes all of the source.
        fraction: share of the neurons that are a task's.
        shares: shares of Figures 2 and 6 and of Table 8.
        fixed_shares: shares of Tables 9-11.
        overlaps: overlaps of Tables 9-11.
        seeds: of training: the order of examples, and which neurons are random.
        detections: how many samples of examples neurons are found on, for the spread of overlaps;
            the first is used everywhere else.
        controls: random controls of a set that is silenced.
        steps: updates for each training task.
        group_steps: the same where tasks are trained together (Figure 2, Tables 9-11).
        batch_size: examples of an update.
        rates: learning rates to choose from on held-out training examples.
        n_detect: training examples that neurons are found on.
        n_train: training examples to learn from.
        n_test: test examples.
        shots: demonstrations in a prompt.
        max_new_tokens: the longest generated answer.
        max_chars: examples with a longer input are left out; None keeps all.
        rows: sizes of the tasks in a row.
    """

    preset: str = "mini"
    tasks: tuple[str, ...] | None = None
    fraction: float = 0.10
    shares: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 1.0)
    fixed_shares: tuple[float, ...] = (0.1, 0.3, 0.5)
    overlaps: tuple[float, ...] = (0.1, 0.4, 0.7, 1.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    detections: int = 5
    controls: int = 5
    steps: int = 32
    group_steps: int = 16
    batch_size: int = 8
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    n_detect: int = 100
    n_train: int = 600
    n_test: int = 40
    shots: int = 0
    max_new_tokens: int = 20
    max_chars: int | None = None
    rows: Rows = Rows()

    @property
    def prompt(self) -> Prompt:
        """The form of the prompts."""
        return Prompt(shots=self.shots)

    def training(self, lr: float, seed: int, n_tasks: int = 1) -> Training:
        """How to train on so many tasks together: as many updates for each of them."""
        steps = self.steps if n_tasks == 1 else self.group_steps * n_tasks
        return Training(lr=lr, steps=steps, batch_size=self.batch_size, seed=seed)


_MINI = Plan()
PRESETS = {
    "smoke": replace(
        _MINI, preset="smoke", tasks=("mini_food", "mini_film", "mini_sport", "mini_news"),
        shares=(0.1, 1.0), fixed_shares=(0.1,), overlaps=(0.1, 1.0), seeds=(0,), steps=2,
        group_steps=1, batch_size=4, rates=(1e-2,), n_detect=8, n_train=16, n_test=6,
        max_new_tokens=8,
        rows=Rows(("mini1",), ("seq-ft", "ncft", "w-ncft"), 2, 4, 16, 6, (1e-2,)),
    ),
    "mini": _MINI,
    "small": replace(
        _MINI, preset="small", seeds=(0,), shares=(0.1, 0.5, 1.0), fixed_shares=(0.1,),
        overlaps=(0.1, 1.0), steps=16, group_steps=8, rates=(3e-4, 1e-3), n_detect=32,
        n_train=128, n_test=24, max_new_tokens=32,
        rows=Rows(("order1",), PAPER_METHODS, 24, 8, 192, 20, (1e-3,)),
    ),
    "paper": replace(
        _MINI, preset="paper", tasks=PAPER_TASKS,
        overlaps=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0), steps=500, group_steps=500,
        batch_size=32, rates=(3e-5, 1e-4, 3e-4), n_detect=1000, n_train=20_000, n_test=500,
        max_new_tokens=128,
        rows=Rows(
            ("order1", "order2", "order3", "order4", "order5", "order6"), PAPER_METHODS, 500, 32,
            20_000, 500, (3e-5, 1e-4, 3e-4),
        ),
    ),
}  # fmt: skip


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
    "mini-llama": Subject("mini-llama-base", "mini-llama", "mini", "mini"),
    "mini-bloom": Subject("mini-bloom-base", "mini-bloom", "mini", "mini"),
    "smollm2-135m": Subject("smollm2-135m", "base", "small", ""),
    "meta-llama/Llama-2-7b-hf": Subject("meta-llama/Llama-2-7b-hf", "lora", "paper", "hub"),
    "bigscience/bloom-7b1": Subject("bigscience/bloom-7b1", "lora", "paper", "hub"),
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
    """Return how a model is reproduced; any other model is fine-tuned with adapters for Table 1."""
    return SUBJECTS.get(model, Subject(model, "lora", "paper", "hub"))


def overridden(plan: Plan, changes: dict[str, Any], rows: dict[str, Any]) -> Plan:
    """Return the plan with other sizes; None keeps the preset's."""
    return replace(
        plan,
        **{name: value for name, value in changes.items() if value is not None},
        rows=replace(plan.rows, **{k: v for k, v in rows.items() if v is not None}),
    )
