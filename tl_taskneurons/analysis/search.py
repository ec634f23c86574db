"""The smallest set of neurons that carries a task and that other tasks can do without."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from tl_taskneurons.analysis.probe import Probe, Toll
from tl_taskneurons.analysis.question import Question, others_of
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import ModelView, require_same_model, view
from tl_taskneurons.neurons.given import named_scores
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.scoring import layers_of
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.options import check_types, require_kind, require_number
from tl_taskneurons.runtime.progress import Progress
from tl_taskneurons.tasks.task import Task, one_task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# The search gives up after so many neurons in a row that each harmed the others too much alone.
_PATIENCE = 8


class GoalNotReachedWarning(UserWarning):
    """The search ended before the goal; the message says how far it came."""


@dataclass(frozen=True)
class Limits:
    """When a search may stop, and what it must not do.

    Attributes:
        goal: share of the task's value above chance that silencing the set must take.
        margin: how many standard errors more than the goal it must take on held-out examples, so
            that it takes as much on new ones; a set that leaves nothing above chance will do.
        budget: the most neurons; None stands for 0.2% of all, but at least 32.
        harm: the most that the other tasks may lose of their scores, the mean over them (of 1).
        harm_each: the most that any one of them may lose (of 1).
        text_harm: the most that the loss of plain text (a task of metric ``"loss"``) may rise, in
            nats per token.
        outside: neurons in another task's top share are no candidates: the shares to try, of 1,
            one after another until the goal is reached.
        first: how many neurons the first round adds.
        checks: how many smaller sets are tried when the goal is reached.
    """

    goal: float = 0.9
    margin: float = 1.0
    budget: int | None = None
    harm: float = 0.02
    harm_each: float = 0.10
    text_harm: float = 0.05
    outside: tuple[float, ...] = (0.03, 0.01)
    first: int = 1
    checks: int = 24

    def __post_init__(self) -> None:
        check_types(Limits, vars(self))
        if not 0 < self.goal <= 1:
            raise InputError(f"goal is {self.goal}; it is a share and must be in (0, 1].")
        for name in ("budget", "first"):
            require_number(name, getattr(self, name), least=1)
        for name in ("margin", "harm", "harm_each", "text_harm", "checks"):
            require_number(name, getattr(self, name), least=0)
        if not self.outside or not all(0 < share < 1 for share in self.outside):
            raise InputError(f"outside is {self.outside}; give at least one share in (0, 1).")

    def reached(self, toll: Toll) -> bool:
        """Whether a set takes enough."""
        return toll.taken >= 1.0 or toll.taken - self.margin * toll.error >= self.goal

    def allows(self, toll: Toll) -> bool:
        """Whether the harm is within its bounds."""
        return (
            toll.harm <= self.harm
            and toll.worst <= self.harm_each
            and toll.text_harm <= self.text_harm
        )

    def size(self, n_all: int) -> int:
        """The most neurons of a model with so many."""
        return min(n_all, self.budget or max(32, round(0.002 * n_all)))


@dataclass(frozen=True, eq=False)
class FoundNeurons:
    """What a search found.

    Attributes:
        neurons: the set.
        reached: whether it reaches the goal on held-out training examples.
        toll: what silencing it costs there.
        curve: one row per set that was tried, in order: ``outside, step`` (``"grow"`` or
            ``"prune"``), ``n_neurons, kept`` (False where it harmed too much, or, when pruning,
            fell below the goal), and the fields of ``Toll``, as far as they had to be known.
        order: the neurons ``(layer, j)`` in the order of their choice, so that the first few are
            the best set of that size that the search knows.
    """

    neurons: NeuronSet
    reached: bool
    toll: Toll
    curve: pd.DataFrame = field(repr=False)
    order: tuple[tuple[int, int], ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return (
            f"{len(self.neurons)} neurons ({self.neurons.fraction:.3%}) take "
            f"{self.toll.taken:.0%} of {self.neurons.name!r}; the others lose "
            f"{100 * self.toll.harm:.1f} points on average and {100 * self.toll.worst:.1f} at most"
        )

    def plot(self, *, ax: "Axes | None" = None) -> "Figure":
        """Draw what each set took and harmed; see ``plots.search_curve``."""
        from tl_taskneurons.plots.search_curve import search_curve

        return search_curve(self.curve, ax=ax)


@torch.inference_mode(False)
def find_neurons(
    model: LanguageModel,
    task: Task,
    others: Task | Iterable[Task],
    *,
    limits: Limits = Limits(),
    question: Question = Question(),
    known: Mapping[str, NeuronScores] | None = None,
    ranking: NeuronScores | None = None,
    progress: bool | None = None,
) -> FoundNeurons:
    """Find few neurons whose silencing takes a task and spares others.

    The set grows in rounds: the neurons' signed first-order effects are taken with the chosen
    ones silenced, on examples that are still right, and of the neurons outside the other tasks'
    top share those that help the task most are added, as many as there are already. A round that
    harms the others beyond the limits is taken back and tried by halves; a neuron that does so
    alone is never chosen. When the goal is reached the set is made smaller as long as it still
    reaches it. Everything is chosen on training examples: goal and harm are measured on ``n_held``
    and ``n_spared`` of them that no effects are taken on. On new examples a set loses a little of
    what it took there; see ``evaluate`` inside ``deactivate``.

    Cost: a round is a scoring pass and an evaluation of all tasks; seven rounds reach 64 neurons.

    Args:
        model: a HookedTransformer or TransformerBridge with a tokenizer.
        task: the task to take.
        others: tasks that must not be harmed, and plain text (``Task.from_texts``). Leave siblings
            out that share their neurons with the task, to ask about the family as one.
        limits: goal, budget and the harm allowed.
        question: metric, ablation, positions, prompt, and how many examples.
        known: scores of others that are at hand, by task name, from ``score_tasks``.
        ranking: add neurons in this order, those of scores above 0, in place of taking effects
            anew each round: scores of any method, e.g. from ``learn_mask``.
        progress: show a progress bar; by default after two seconds (see ``Progress``).

    Warns:
        GoalNotReachedWarning: when the goal isn't reached; the best set is returned.
        UnableWarning: when the model can't do one of the others.

    Raises:
        ValueError: without others, for a task that the model can't do, the task among the others,
            too few training examples, known scores of another model or of none of the others, or
            what ``score_neurons`` refuses.
    """
    task = one_task(task)
    require_kind("limits", limits, Limits, "give Limits(goal=..., budget=...)")
    require_kind("question", question, Question, "give Question(metric=..., ablation=...)")
    known = None if known is None else named_scores(known)
    listed = others_of(task, others)
    _check_known(known or {}, model, listed)
    probe = Probe(model, task, listed, question)
    order = None if ranking is None else _values(ranking, view(model), question)
    rivals = probe.rivals(known)
    bar = Progress(f"find {task.name}", shown=progress)
    with bar:
        runs: list[_Search] = []
        for share in bar.track(limits.outside):
            runs.append(_Search(probe, limits, share, probe.mask(rivals, share), order).run())
            if limits.reached(runs[-1].toll):
                break
    best = max(runs, key=_Search.rank)
    reached = limits.reached(best.toll)
    info = {
        "task": task.name, "method": "find_neurons",
        "ranking": "" if ranking is None else ranking.method, "others": list(listed.names),
        "outside": best.outside, **asdict(best.toll), "goal": limits.goal, "reached": reached,
    }  # fmt: skip
    neurons = NeuronSet(best.chosen, view(model).fingerprint, task.name, info)
    curve = pd.concat([pd.DataFrame(run.rows) for run in runs], ignore_index=True)
    d_mlp = neurons.mask.shape[1]
    added = tuple(divmod(place, d_mlp) for place in best.order)
    found = FoundNeurons(neurons, reached, best.toll, curve, added)
    if not reached:
        warnings.warn(
            f"The goal of {limits.goal:.0%} wasn't reached: {found}. Allow more neurons (budget) "
            "or more harm, leave siblings out of the others, or try other shares (outside).",
            GoalNotReachedWarning,
            stacklevel=2,
        )
    return found


def _check_known(
    known: Mapping[str, NeuronScores], model: LanguageModel, listed: Sequence[Task]
) -> None:
    """Raise ValueError for scores of another model, or if none are of the others."""
    used = [known[task.name] for task in listed if task.name in known]
    if known and not used:
        raise InputError(
            f"known has scores of {list(known)}, but the others are "
            f"{[task.name for task in listed]}; give theirs, by their names."
        )
    for scores in used:
        require_same_model(repr(scores), scores.fingerprint, view(model))


def _values(ranking: NeuronScores, model_view: ModelView, question: Question) -> Tensor:
    """Return a ranking's scores, of the layers that are asked for.

    Raises:
        ValueError: for scores of another model, or signed ones.
    """
    require_kind("ranking", ranking, NeuronScores, "give scores, e.g. from learn_mask")
    require_same_model(repr(ranking), ranking.fingerprint, model_view)
    if ranking.info.get("signed"):
        raise InputError(
            f"The ranking {ranking!r} has signs; give one side of it: ranking.side('help')."
        )
    values = torch.zeros_like(ranking.values)
    layers = layers_of(model_view, question.layers)
    values[layers] = ranking.values[layers]
    return values


class _Search:
    """One search outside one share of the others' top neurons."""

    def __init__(
        self, probe: Probe, limits: Limits, outside: float, banned: Tensor,
        order: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.probe, self.limits, self.outside, self.values = probe, limits, outside, order
        self.banned = banned.clone()
        self.chosen = torch.zeros_like(banned)
        self.order: list[int] = []  # places of the chosen, in the order of their choice
        self.toll = Toll(probe.plain, 0.0, 0.0, 0.0, 0.0, "", 0.0)
        self.rows: list[dict[str, Any]] = []
        self.tried: set[frozenset[int]] = set()
        self.effects: tuple[list[int], Tensor] | None = None  # and the order they are for

    def run(self) -> "_Search":
        """Grow until the goal or a limit is reached, then make the set smaller."""
        most = self.limits.size(self.chosen.numel())
        refused = 0
        while len(self.order) < most and not self.limits.reached(self.toll):
            grown = self._round(most)
            refused = 0 if grown else refused + 1
            if grown is None or refused == _PATIENCE:
                break
        if self.limits.reached(self.toll):
            self._prune()
        return self

    def rank(self) -> tuple[float, ...]:
        """What is better is larger: the goal, then few neurons, then little harm."""
        if self.limits.reached(self.toll):
            return (1.0, -float(len(self.order)), -self.toll.harm)
        return (0.0, self.toll.taken, -self.toll.harm)

    def _round(self, most: int) -> bool | None:
        """Add the most helpful candidates; False when they did harm, None when none is left."""
        values = self._effects() if self.values is None else self.values
        flat = values.masked_fill(self.banned, 0.0).masked_fill(self.chosen, 0.0).flatten()
        size = min(
            len(self.order) or self.limits.first, most - len(self.order), int((flat > 0).sum())
        )
        if not size:
            return None
        ranked = flat.argsort(descending=True, stable=True).tolist()
        new = ranked[:size]
        while new:
            trial = [*self.order, *new]
            toll = self._try(trial, "grow")
            if self.limits.allows(toll):
                self._take(trial, toll)
                return True
            if len(new) == 1:
                self.banned.view(-1)[new] = True
            new = new[: len(new) // 2]
        return False

    def _effects(self) -> Tensor:
        """The effects with the chosen neurons silenced, taken once for each choice of them."""
        if self.effects is None or self.effects[0] != self.order:
            self.effects = (self.order, self.probe.effects(self._set(self.order)))
        return self.effects[1]

    def _prune(self) -> None:
        """Leave out what isn't needed: large pieces first, the last chosen first."""
        left = self.limits.checks
        piece = len(self.order) // 2
        while piece:
            start = len(self.order)
            while start > 0 and left:
                start = max(0, start - piece)
                trial = self.order[:start] + self.order[start + piece :]
                if not trial or frozenset(trial) in self.tried:
                    continue
                left -= 1
                toll = self._try(trial, "prune")
                if self.limits.reached(toll) and self.limits.allows(toll):
                    self._take(trial, toll)
            piece = piece // 2

    def _try(self, places: list[int], step: str) -> Toll:
        least = self.limits.goal if step == "prune" else None
        toll = self.probe.toll(self._set(places), self.limits.allows, least)
        self.tried.add(frozenset(places))
        kept = self.limits.allows(toll) and (step == "grow" or self.limits.reached(toll))
        self.rows.append(
            {"outside": self.outside, "step": step, "n_neurons": len(places), "kept": kept,
             **asdict(toll)}
        )  # fmt: skip
        return toll

    def _take(self, places: list[int], toll: Toll) -> None:
        self.order, self.toll = places, toll
        self.chosen = self._set(places).mask

    def _set(self, places: list[int]) -> NeuronSet:
        mask = torch.zeros_like(self.banned)
        mask.view(-1)[places] = True
        return NeuronSet(mask, view(self.probe.model).fingerprint, "chosen so far")
