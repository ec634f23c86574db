"""Rivals that train LoRA adapters: one for all tasks, and O-LoRA's orthogonal ones.

Adapters lie on the matrices of attention and of the MLPs. By default their rank is such that they
have as many weights as a share of the neurons, so that methods train equally many.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from tl_taskneurons.continual.learners import History, Setting, StageResult, deltas_of
from tl_taskneurons.tasks.task import Task
from tl_taskneurons.training.deltas import LoraDelta
from tl_taskneurons.training.deltas.lora import matrices
from tl_taskneurons.training.lora_trainee import LoraWeights
from tl_taskneurons.training.options import Run
from tl_taskneurons.training.runner import train


@dataclass(frozen=True)
class LoraLearner:
    """Train one LoRA of fixed size on all tasks in turn (SeqLoRA).

    Attributes:
        rank: of the adapter; None takes that with about as many weights as ``share`` of the
            neurons have.
        share: of the neurons.
    """

    rank: int | None = None
    share: float = 0.10
    ordered: ClassVar[bool] = True

    @property
    def first(self) -> "LoraLearner":
        """The learner itself."""
        return self

    def learn(self, setting: Setting, history: History, task: Task) -> StageResult:
        """Train the adapter from where the last stage left it."""
        start = deltas_of(history, LoraDelta)[-1] if history else None
        return StageResult(task.name, _train(setting, task, rank_of(self, setting), start=start))

    @contextmanager
    def state(self, setting: Setting, history: History) -> Iterator[None]:
        """Add the last stage's adapter."""
        with _added(setting, deltas_of(history, LoraDelta)[-1:]):
            yield


@dataclass(frozen=True)
class OrthogonalLearner:
    """O-LoRA (arXiv 2310.14152): a new LoRA for each task, orthogonal to the earlier ones.

    Earlier adapters are frozen and added up. The loss of a stage has the additional term
    ``penalty * sum |A_old^T A_new|``, over all matrices and earlier tasks, with A the down factors
    ``[d_in, rank]``.

    Attributes:
        rank: of each adapter; None as in ``LoraLearner``.
        penalty: lambda; 0.5 is that of O-LoRA's code.
        share: of the neurons.
    """

    rank: int | None = None
    penalty: float = 0.5
    share: float = 0.10
    ordered: ClassVar[bool] = True

    @property
    def first(self) -> LoraLearner:
        """Without a penalty, which has no earlier adapters to keep away from."""
        return LoraLearner(self.rank, self.share)

    def learn(self, setting: Setting, history: History, task: Task) -> StageResult:
        """Train a new adapter beside the earlier ones."""
        earlier = deltas_of(history, LoraDelta)
        olds = [{name: down for name, (down, _) in delta.factors.items()} for delta in earlier]

        def penalty(downs: Mapping[str, Tensor]) -> Tensor:
            return self.penalty * overlap_penalty(olds, downs)

        with self.state(setting, history):
            delta = _train(
                setting, task, rank_of(self, setting), stage=len(history),
                penalty=penalty if olds else None,
            )  # fmt: skip
        return StageResult(task.name, replace(delta, fingerprint=setting.view.fingerprint))

    @contextmanager
    def state(self, setting: Setting, history: History) -> Iterator[None]:
        """Add all adapters."""
        with _added(setting, deltas_of(history, LoraDelta)):
            yield


def rank_of(learner: LoraLearner | OrthogonalLearner, setting: Setting) -> int:
    """Return a learner's rank on a model."""
    if learner.rank is not None:
        return learner.rank
    weights = sum(p.oriented.numel() for each in setting.view.layers
                  for p in each.parameters.values())  # fmt: skip
    per_rank = sum(sum(matrix.shape) for matrix in matrices(setting.view).values())
    return max(1, round(learner.share * weights / per_rank))


def overlap_penalty(
    olds: Sequence[Mapping[str, Tensor]], downs: Mapping[str, Tensor]
) -> Float[Tensor, ""]:
    """Return the sum of ``|A_old^T A_new|`` over earlier tasks and matrices.

    Args:
        olds: each earlier task's down factors ``[d_in, rank]`` by matrix.
        downs: the new ones.
    """
    terms = [
        (old[name].to(new.device).mT @ new).abs().sum()
        for old in olds
        for name, new in downs.items()
    ]
    return torch.stack(terms).sum()


@contextmanager
def _added(setting: Setting, deltas: Sequence[LoraDelta]) -> Iterator[None]:
    """Add adapters to the base model, as one adapter of their ranks together."""
    if not deltas:
        yield
        return
    factors = {
        name: (
            torch.cat([delta.factors[name][0] for delta in deltas], dim=1),
            torch.cat([delta.factors[name][1] for delta in deltas], dim=0),
        )
        for name in deltas[0].factors
    }
    with replace(deltas[0], factors=factors).applied(setting.view.model):
        yield


def _train(
    setting: Setting,
    task: Task,
    rank: int,
    *,
    start: LoraDelta | None = None,
    stage: int = 0,
    penalty: Callable[[Mapping[str, Tensor]], Tensor] | None = None,
) -> LoraDelta:
    # Every stage draws a start of its own: equal ones would be anything but orthogonal.
    seed = setting.training.seed + 1000 * stage
    trainee = LoraWeights(
        setting.view, rank, seed=seed, attention=True, start=start, penalty=penalty
    )
    run = Run(setting.prompt, progress=setting.progress)
    return train(setting.view, trainee, task, setting.budget(task), run)
