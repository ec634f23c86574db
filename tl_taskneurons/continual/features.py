"""What a task's inputs look like to the base model: task vectors, and which task is nearest.

A feature is the mean over an example's prompt tokens of what enters the unembedding (the last
layer's output after the final norm). Answers take no part, so that test inputs have features too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_taskneurons.models.forward import as_loaded, frozen, run_without_cache
from tl_taskneurons.models.hooks import add_hook
from tl_taskneurons.models.inputs import Data, DataOptions, read_inputs
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import view
from tl_taskneurons.runtime.cleanup import Undo
from tl_taskneurons.runtime.options import settled
from tl_taskneurons.tasks.task import Task

SAMPLES = 1000  # the paper's number of samples for a task vector


@dataclass(frozen=True, eq=False)
class TaskStatistics:
    """What is kept of a task's inputs, in place of the data.

    Attributes:
        mean: the task vector.
        scatter: the sum over samples of the outer products of their distances from the mean.
        n: number of samples.
    """

    mean: Float[Tensor, " d_model"]
    scatter: Float[Tensor, "d_model d_model"]
    n: int

    @staticmethod
    def of(features: Float[Tensor, "n d_model"]) -> "TaskStatistics":
        """Summarise samples."""
        mean = features.mean(0)
        centred = features - mean
        return TaskStatistics(mean, centred.mT @ centred, len(features))


@torch.no_grad()
def input_features(
    model: LanguageModel, task: Task, **options: Unpack[DataOptions]
) -> Float[Tensor, "n d_model"]:
    """Return one float32 feature per example of a task: its mean last-layer output.

    Args:
        model: a HookedTransformer or TransformerBridge.
        task: the task.
        **options: ``split="train"``, ``prompt``, ``limit=1000`` and ``token_budget``; see
            ``Data``.
    """
    model_view = view(model)
    data = settled("input_features", Data, {"limit": SAMPLES, **options})
    inputs = read_inputs(model_view, task, data)
    rows: list[Tensor] = [torch.empty(0, dtype=torch.float32, device="cpu")] * len(inputs.items)
    found: list[Tensor] = []

    def keep(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        found.append(args[0])
        return (args[0][:, :1], *args[1:])  # no logits are needed

    unembed = model_view.model.unembed
    with Undo() as undo, as_loaded(), frozen(model_view.model):
        add_hook(undo, unembed, partial(unembed.register_forward_pre_hook, keep))
        for batch in inputs.batches():
            batch = batch.to(model_view.device)
            mask = batch.attention_mask & ~batch.answer_mask
            found.clear()
            run_without_cache(model_view, batch.tokens, batch.attention_mask)
            hidden = found[-1].float() * mask.unsqueeze(-1).to(found[-1].device)
            means = hidden.sum(1) / mask.sum(1, keepdim=True).to(hidden.device)
            for row, i in enumerate(batch.index):
                rows[i] = means[row].cpu()
    return torch.stack(rows)


def task_weights(
    vector: Float[Tensor, " d_model"],
    others: Sequence[Float[Tensor, " d_model"]],
    temperature: float = 1.0,
) -> Float[Tensor, " task"]:
    """Return the paper's Sim: the softmax of the cosines of a task's vector with other tasks'.

    Args:
        vector: of the task that is to be done.
        others: of the tasks trained so far.
        temperature: divides the cosines; the paper's is 1.
    """
    cosines = torch.nn.functional.cosine_similarity(vector[None], torch.stack(list(others)), dim=1)
    return (cosines / temperature).softmax(0)


def distances(
    features: Float[Tensor, "n d_model"], known: Mapping[str, TaskStatistics]
) -> Float[Tensor, "n task"]:
    """Return each input's squared Mahalanobis distance from each task's mean.

    The covariance is one for all tasks, pooled over them (as in EPI), and shrunk towards a
    multiple of the identity, so that few samples will do: the share of the identity is
    ``d / (d + n)``.
    """
    statistics = list(known.values())
    d, n = features.shape[1], sum(each.n for each in statistics)
    pooled = torch.stack([each.scatter for each in statistics]).sum(0) / max(1, n - len(known))
    share = d / (d + n)
    identity = torch.eye(d, dtype=torch.float32, device="cpu") * pooled.diagonal().mean().clamp_min(
        1e-12
    )
    precision = torch.linalg.inv((1 - share) * pooled + share * identity)
    away = features[:, None] - torch.stack([each.mean for each in statistics])
    return torch.einsum("ntd,de,nte->nt", away, precision, away)


def nearest_task(
    features: Float[Tensor, "n d_model"], known: Mapping[str, TaskStatistics]
) -> Int[Tensor, " n"]:
    """Return the position, in ``known``, of the task nearest to each input."""
    return distances(features, known).argmin(1)
