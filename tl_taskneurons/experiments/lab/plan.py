"""The sizes of a reproduction, all in one place, fixed before the runs that are published."""

from dataclasses import dataclass, field, replace
from typing import Literal

from tl_taskneurons.tasks.prompts import Prompt
from tl_taskneurons.tasks.task import Task
from tl_taskneurons.training.settings import Training

# The methods of the paper's Table 5.
PAPER_METHODS = ("seq-ft", "seq-lora", "epi", "o-lora", "ncft", "w-ncft", "per-task")
MINI_METHODS = (*PAPER_METHODS, "routed")


@dataclass(frozen=True)
class SequenceSizes:
    """Sizes of the experiment with tasks in a row (Table 5, Figure 4).

    Attributes:
        orders: names of orders.
        methods: names of methods.
        steps: the most updates of a stage.
        batch_size: examples of an update.
        n_train: training examples of a task.
        n_test: test examples of a task; as many training examples are held out for the choice.
        rates: constant learning rates tried for neurons and adapters; all weights take a third of
            each.
        given_rates: methods with a learning rate of their own, which then isn't chosen.
        score_limit: neurons are chosen by the scores of at most so many training examples.
        instructions: ``"neutral"``, the same for all tasks, so that an input's task must be told
            by its content; ``"own"``, each task's own.
        goal: the held-out loss (nats per token, mean over single tasks) that every method is
            trained to: each gets the fewest updates after which it is there, so that methods are
            compared at the same depth of learning. ``"common"`` is the lowest that all of them
            reach within ``steps``; None gives all of them ``steps``.
        look_every: updates between two looks at the held-out loss.
        seeds: of rows, where they aren't the plan's; none named takes those.
        primer_steps: updates that first make the labels known to the base model, by other
            instructions and phrases; 0 where it knows them already.
    """

    orders: tuple[str, ...] = ("mini1", "mini2", "mini3")
    methods: tuple[str, ...] = MINI_METHODS
    steps: int = 60
    batch_size: int = 8
    n_train: int = 480
    n_test: int = 20
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    given_rates: tuple[tuple[str, float], ...] = ()
    score_limit: int = 100
    instructions: tuple[str, ...] = ("neutral",)
    goal: float | Literal["common"] | None = None
    look_every: int = 20
    seeds: tuple[int, ...] = ()
    primer_steps: int = 0


@dataclass(frozen=True)
class MapSizes:
    """Sizes of the map of C2: task minus random neurons over rate, updates and share.

    Attributes:
        tasks: names; None takes all.
        seeds: of training and of random neurons.
        fractions: shares of neurons.
        rates: learning rates, all constant, so that one run is a curve over updates.
        updates: where the held-out loss is taken, each twice the one before; the last is the
            length of a run.
        examples: at most so many training examples of a task, of which a quarter is held out; more
            would cost more than the training.
    """

    tasks: tuple[str, ...] | None = None
    seeds: tuple[int, ...] = (0,)
    fractions: tuple[float, ...] = (0.01, 0.10)
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    updates: tuple[int, ...] = (8, 16, 32)
    examples: int = 256


@dataclass(frozen=True)
class Plan:
    """All sizes of a reproduction.

    Attributes:
        preset: its name.
        tasks: names of tasks, trained ones and siblings; None takes all of the source.
        silenced_tasks: those of them that the model of Table 1 is fine-tuned on, and whose neurons
            are silenced in it; none named takes all.
        questions: what Table 2 asks: ``"end point"``, ``"speed"`` or both.
        fraction: share of the neurons that are a task's.
        fractions: shares at which neurons are silenced, and trained for speed.
        selections: how silenced neurons are selected, see ``neurons.selection``.
        shares: shares of Figures 2 and 6 and of Table 8.
        fixed_shares: shares of Tables 9-11.
        overlaps: overlaps of Tables 9-11.
        seeds: of training: the order of examples, and which neurons are random.
        detections: how many samples of examples neurons are found on, for the spread of overlaps;
            the first is used where neurons are trained.
        silenced_samples: on how many of these the silenced neurons are found.
        controls: random controls of a set that is silenced, of each kind.
        steps: updates for each training task.
        transfer_steps: the same where transfer to siblings is asked (Figures 2 and 3, Tables 4 and
            9-11).
        transfer_rate: the low learning rate there, which all sets share; all weights take a third.
            At the rate at which a task itself is learnt best its siblings get worse.
        tuned_steps: the same where all tasks are, for the model whose neurons are silenced.
        tuned_rate: its learning rate; None takes the one that is chosen for single tasks.
        batch_size: examples of an update.
        rates: learning rates to choose from on held-out training examples, evenly spaced on a log
            scale; where the best is at an edge, more are tried beyond it.
        speed_rate: the low rate at which the speed of task and random neurons is compared.
        speed_steps: the few updates after which it is.
        n_detect: training examples that neurons are found on.
        n_train: training examples to learn from.
        n_test: test examples.
        shots: demonstrations in a prompt.
        max_new_tokens: the longest generated answer.
        max_chars: examples with a longer input are left out; None keeps all.
        cut_tasks: names of tasks whose longer inputs are cut instead.
        map: sizes of C2's map.
        sequences: sizes of the tasks in a row.
    """

    preset: str = "mini"
    tasks: tuple[str, ...] | None = None
    silenced_tasks: tuple[str, ...] = ()
    questions: tuple[str, ...] = ("end point", "speed")
    fraction: float = 0.10
    fractions: tuple[float, ...] = (0.01, 0.10)
    selections: tuple[str, ...] = ("plain",)
    shares: tuple[float, ...] = (0.1, 0.5, 1.0)
    fixed_shares: tuple[float, ...] = (0.1,)
    overlaps: tuple[float, ...] = (0.1, 0.5, 1.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    detections: int = 5
    silenced_samples: int = 3
    controls: int = 5
    steps: int = 32
    transfer_steps: int = 128
    transfer_rate: float = 3e-4
    tuned_steps: int = 25
    tuned_rate: float | None = None
    batch_size: int = 8
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    speed_rate: float = 3e-4
    speed_steps: int = 64
    n_detect: int = 100
    n_train: int = 600
    n_test: int = 40
    shots: int = 0
    max_new_tokens: int = 20
    max_chars: int | None = None
    cut_tasks: tuple[str, ...] = ()
    map: MapSizes = field(default_factory=MapSizes)
    sequences: SequenceSizes = field(default_factory=SequenceSizes)

    @property
    def prompt(self) -> Prompt:
        """The form of the prompts."""
        return Prompt(shots=self.shots)

    def fitted(self, task: Task) -> Task:
        """A task with inputs no longer than the plan's."""
        fit = task.cut if task.name in self.cut_tasks else task.shorter
        return fit(self.max_chars)

    def training(self, lr: float, seed: int) -> Training:
        """How to train on one task."""
        return Training(lr=lr, steps=self.steps, batch_size=self.batch_size, seed=seed)

    def transfer_training(
        self, seed: int, n_tasks: int = 1, *, all_weights: bool = False
    ) -> Training:
        """How to train where transfer is asked: as many updates for each of several tasks."""
        lr = self.transfer_rate / 3 if all_weights else self.transfer_rate
        return replace(self.training(lr, seed), steps=self.transfer_steps * n_tasks)
