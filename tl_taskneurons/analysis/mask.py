"""A learned mask: gradient descent on which neurons to silence, all of them at once.

Louizos et al. 2018 (arXiv 1712.01312) train a soft gate for each unit, at a price for each that
acts; Cao et al. 2021 (arXiv 2104.03514) learn such gates over a frozen model to find the part of
it that carries a task. Here a gate is the share of a neuron that is silenced, and three things are
paid for: what is left of the task, what becomes of the other tasks, and every neuron that is
silenced. Gates are sigmoids without noise: in a model of many neurons of which few matter, gates
that are drawn (the hard concrete ones of both papers) would silence most of those few too seldom
to learn of them.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_taskneurons.analysis.probe import Probe
from tl_taskneurons.analysis.question import Question, others_of
from tl_taskneurons.models.forward import answer_logits, as_loaded, frozen, in_runs_asked_for
from tl_taskneurons.models.hooks import Hook, hooked
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import ModelView, view
from tl_taskneurons.neurons.attribution import prepared_batches
from tl_taskneurons.neurons.capture import BatchPass
from tl_taskneurons.neurons.given import Neurons, neuron_set
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.scoring import layers_of, replacing
from tl_taskneurons.neurons.settings import ScoreSettings
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.options import check_types, require_kind, require_number
from tl_taskneurons.runtime.progress import Progress
from tl_taskneurons.runtime.roles import current_role
from tl_taskneurons.tasks.batches import Batch, make_batches, token_budget_for
from tl_taskneurons.tasks.prompts import Item
from tl_taskneurons.tasks.task import Task, one_task

# The gates' logits begin here and go no lower, so that a neuron that matters late can still rise.
_SHUT = -5.0
# What is left of 1 - p where an answer is as good as certain.
_SURE = 1e-6


@dataclass(frozen=True)
class MaskTraining:
    """How a mask is learned.

    Attributes:
        steps: steps of Adam.
        rate: its learning rate, of the gates' logits.
        price: what each silenced neuron costs, in nats.
        harm: what a nat costs by which the other tasks' answers move from the undisturbed model's
            (KL divergence per token).
        n_batch: examples of the task at each step, and as many of the others.
        seed: of the order of examples.
    """

    steps: int = 40
    rate: float = 0.3
    price: float = 0.01
    harm: float = 3.0
    n_batch: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(MaskTraining, vars(self))
        for name in ("steps", "n_batch"):
            require_number(name, getattr(self, name), whole=True, least=1, optional=False)
        for name in ("rate", "price", "harm"):
            require_number(name, getattr(self, name), least=0, optional=False)


@torch.inference_mode(False)
def learn_mask(
    model: LanguageModel,
    task: Task,
    others: Task | Iterable[Task],
    *,
    training: MaskTraining = MaskTraining(),
    question: Question = Question(),
    candidates: Neurons | None = None,
    progress: bool | None = None,
) -> NeuronScores:
    """Learn which neurons to silence so that a task is lost and others are kept.

    The gates of all neurons are trained together on training examples that ``find_neurons`` does
    not measure on. What is left of the task is ``-log(1 - p)``, p the probability of its answer,
    in nats; with another metric than ``"loss"``, its share above chance. The scores rank the
    neurons: give them to ``find_neurons(..., ranking=...)`` for the smallest set that reaches a
    goal, or take ``top(threshold=0.5)``.

    Cost: each step is a forward and backward pass over ``n_batch`` examples of the task and as
    many of the others, and a forward pass over the latter: about ``4.4 * n_batch`` forward passes
    over an example.

    Args:
        model: a HookedTransformer or TransformerBridge with a tokenizer.
        task: the task to take.
        others: tasks that must not be harmed, and plain text (``Task.from_texts``).
        training: steps, and what is paid for.
        question: metric, ablation, positions, prompt, layers, and how many examples.
        candidates: the neurons that may be silenced; by default all. Those in no other task's
            top share spare tasks that the mask doesn't see.
        progress: show a progress bar; by default after two seconds (see ``Progress``).

    Returns:
        The gates, from 0 to 1: the share of each neuron that is silenced.

    Warns:
        UnableWarning: when the model can't do one of the others.

    Raises:
        ValueError: without others, for a task that the model can't do, the task among the others,
            too few training examples, a metric without gradient, or no candidate in the layers.
    """
    task = one_task(task)
    listed = others_of(task, others)
    require_kind("training", training, MaskTraining, "give MaskTraining(steps=..., price=...)")
    require_kind("question", question, Question, "give Question(metric=..., ablation=...)")
    model_view = view(model)
    allowed = _allowed(model_view, question, candidates)
    probe = Probe(model, task, listed, question)
    with as_loaded(), frozen(model_view.model):
        gates = _Lesson(probe, training, model_view).learned(
            allowed, Progress(f"mask {task.name}", shown=progress)
        )
    info = {
        "model": model_view.name, "task": task.name, "others": list(listed.names),
        "unit": "share silenced", **asdict(training),
    }  # fmt: skip
    return NeuronScores(gates, model_view.fingerprint, task.name, "learned_mask", info)


def _allowed(
    model_view: ModelView, question: Question, candidates: Neurons | None
) -> Bool[Tensor, "layer d_mlp"]:
    """Return which neurons may be silenced; raise InputError where there is none."""
    layers = layers_of(model_view, question.layers)
    allowed = torch.zeros(model_view.shape, dtype=torch.bool, device="cpu")
    allowed[layers] = True
    if candidates is None:
        return allowed
    given = neuron_set(model_view, candidates)
    if not bool((allowed & given.mask).any()):
        raise InputError(
            f"candidates has {len(given)} neurons, none of them in the layers {layers}, so there "
            "is nothing to silence; give some there, or leave candidates out to allow all."
        )
    return allowed & given.mask


class _Lesson:
    """The gates, and the examples that they are trained on."""

    def __init__(self, probe: Probe, training: MaskTraining, model_view: ModelView) -> None:
        self.probe, self.training, self.model_view = probe, training, model_view
        question = probe.question
        self.layers = layers_of(model_view, question.layers)
        asked = ScoreSettings(
            ablation=probe.ablation, positions=question.positions, split="test",
            metric="log_prob" if probe.metric is None else question.metric,
            prompt=question.prompt_of(probe.scored),
        )  # fmt: skip
        self.asked, self.kept = asked, replace(asked, metric="kl", split="train")
        self.own = [
            item
            for part, prompt in probe.still_right()
            for item in _items(model_view, part, replace(asked, prompt=prompt))
        ]
        self.rivals = [
            item
            for scored, _, _ in probe.spared
            for item in _items(
                model_view, scored, replace(self.kept, prompt=question.prompt_of(scored))
            )
        ]

    def learned(
        self, allowed: Bool[Tensor, "layer d_mlp"], progress: Progress
    ) -> Float[Tensor, "layer d_mlp"]:
        """Train the gates of the neurons that are allowed and return all, on the CPU."""
        training, device = self.training, self.model_view.device
        logits = torch.full(allowed.shape, _SHUT, device=device, dtype=torch.float32)
        allowed = allowed.to(device)
        optimizer = torch.optim.Adam([logits], lr=training.rate)
        own, rivals = (self._rounds(items, k) for k, items in enumerate((self.own, self.rivals)))
        team = current_role()
        with progress:
            for _ in progress.track(range(training.steps)):
                gates = (logits.sigmoid() * allowed).requires_grad_()
                with team.together():
                    for items, settings in ((next(own), self.asked), (next(rivals), self.kept)):
                        self._pay(gates, items, settings)
                assert gates.grad is not None
                # The gradient of the gate itself: that of its logit would vanish where it is shut.
                logits.grad = team.total(gates.grad) / team.size + training.price
                optimizer.step()
                logits.clamp_(_SHUT, -_SHUT)
        return (logits.sigmoid() * allowed).cpu()

    def _rounds(self, items: Sequence[Item], stream: int) -> Iterator[list[Item]]:
        """Yield ``n_batch`` examples at a time, again and again, each time in another order."""
        generator = torch.Generator().manual_seed(2 * self.training.seed + stream)
        size = min(self.training.n_batch, len(items))
        waiting: list[int] = []
        while True:
            if len(waiting) < size:
                waiting += torch.randperm(
                    len(items), generator=generator, dtype=torch.long, device="cpu"
                ).tolist()
            yield [items[i] for i in waiting[:size]]
            del waiting[:size]

    def _pay(self, gates: Tensor, items: Sequence[Item], settings: ScoreSettings) -> None:
        """Add to the gates' gradient what examples say of them, the mean over the examples."""
        budget = token_budget_for(self.model_view.device)
        for batch in make_batches(items, token_budget=budget):
            run = self._run(batch.to(self.model_view.device), settings)
            with torch.enable_grad(), _half_silenced(run, gates):
                costs = self._costs(run.objective(), settings)
                # With the hooks: gradient checkpointing computes blocks again.
                (costs.sum() / len(items)).backward()

    def _run(self, batch: Batch, settings: ScoreSettings) -> BatchPass:
        other = replacing(self.model_view, [batch], self.layers, settings)(batch)
        reference = None
        if settings.measure.reference:
            with torch.no_grad():
                reference = answer_logits(self.model_view, batch).float()
        return BatchPass(
            self.model_view, batch, self.layers, settings, lambda _layer, _values: None, other,
            reference,
        )  # fmt: skip

    def _costs(self, values: Tensor, settings: ScoreSettings) -> Float[Tensor, " batch"]:
        """What is paid for each example: what is left of the task, or the others' harm."""
        if settings is self.kept:
            return self.training.harm * values
        if self.probe.metric is None:  # -log(1 - p) of an answer of log-probability log(p)
            return -torch.log(_SURE - torch.expm1(values))
        above = self.probe.plain - self.probe.floor
        return (values - self.probe.floor).clamp_min(0.0) / above


def _items(model_view: ModelView, task: Task, settings: ScoreSettings) -> list[Item]:
    """Return a task's examples with what metric and ablation need, in their order."""
    batches = prepared_batches(model_view, task, settings)
    placed = {
        i: item for batch in batches for i, item in zip(batch.index, batch.items, strict=True)
    }
    return [placed[i] for i in sorted(placed)]


@contextmanager
def _half_silenced(run: BatchPass, gates: Float[Tensor, "layer d_mlp"]) -> Iterator[None]:
    """Take away of each activation the share that its gate says."""

    def hook(layer: int) -> Hook:
        def lessen(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001 (TransformerLens)
            away = gates[layer].to(activation.device) * run.removed(layer, activation)
            return activation - away.to(activation.dtype)

        return in_runs_asked_for(lessen)

    with hooked(run.model_view, {layer: hook(layer) for layer in run.layers}):
        yield
