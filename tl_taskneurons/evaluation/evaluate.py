"""How well a model does a task: accuracy, exact match, ROUGE-L and loss, item by item."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Unpack

import pandas as pd
import torch

from tl_taskneurons.evaluation.answers import Answering, answer, prefill
from tl_taskneurons.evaluation.measuring import measure
from tl_taskneurons.evaluation.tables import summarise
from tl_taskneurons.models.forward import frozen
from tl_taskneurons.models.inputs import Data, DataOptions, read_inputs
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import view
from tl_taskneurons.neurons.metrics import find_metric
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.options import require_number, settled
from tl_taskneurons.runtime.progress import Progress
from tl_taskneurons.runtime.roles import current_role
from tl_taskneurons.tasks.prompts import shared_prefix
from tl_taskneurons.tasks.task import OneTask, Task, Tasks, one_task


class EvaluateOptions(DataOptions, total=False):
    """The fields of ``Evaluation``, as keyword arguments."""

    generation: bool
    max_new_tokens: int
    share_prefix: bool
    metric: str | Callable[..., Any] | None


@dataclass(frozen=True)
class Evaluation(Data):
    """How tasks are evaluated; ``Data`` says on which examples.

    Attributes:
        split: by default the test split.
        generation: also decide accuracy and exact match by generated text (stripped of white
            space and compared as it is, upper and lower case included); nothing changes for
            tasks that are judged by loss.
        max_new_tokens: the longest generated answer, in tokens.
        share_prefix: run the tokens with which all prompts begin (instruction, demonstrations)
            once and reuse their keys and values: several times faster for few-shot prompts.
            The results are the same up to rounding, with this library's interventions or none;
            leave it off when hooks of your own treat positions differently.
        metric: measure this in place of the task's own: a name of ``METRICS``, or a function of
            the logits ``[answer_tokens, vocab]`` and the example's ``Item``; see
            ``ScoreSettings``. ``score`` is then its value, in its own unit.
    """

    split: str = "test"
    generation: bool = False
    max_new_tokens: int = 64
    share_prefix: bool = False
    metric: str | Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("max_new_tokens", self.max_new_tokens, whole=True, least=1)
        if self.metric is not None and self.generation:
            raise InputError(
                f"metric is {self.metric!r} with generation=True, but a metric is of the answer's "
                "logits and nothing is generated for it; leave one of them out."
            )


def evaluate(
    model: LanguageModel,
    tasks: Task | Iterable[Task],
    *,
    progress: bool | None = None,
    **options: Unpack[EvaluateOptions],
) -> pd.DataFrame:
    """Score a model on tasks; run it inside an intervention to see what that changes.

    Args:
        model: a HookedTransformer or TransformerBridge with a tokenizer.
        tasks: one task or several.
        progress: show a progress bar; by default after two seconds (see ``Progress``).
        **options: those of ``evaluate_items``, whose errors this raises too.

    Returns:
        One row per task: ``task, metric, value, low, high, loss, n, n_truncated``. ``value`` is
        the mean of the task's metric in [0, 1], ``low`` and ``high`` its 95% interval
        over items, ``loss`` the mean cross-entropy of the answer in nats per token.
    """
    settled("evaluate", Evaluation, options)
    listed = Tasks(tasks)
    if not listed:
        raise InputError("There are no tasks to evaluate; give at least one.")
    with Progress("evaluate", shown=progress) as bar:
        frames = [evaluate_items(model, task, **options) for task in bar.track(listed)]
    return summarise(pd.concat(frames, ignore_index=True))


@torch.no_grad()
def evaluate_items(
    model: LanguageModel, task: OneTask, **options: Unpack[EvaluateOptions]
) -> pd.DataFrame:
    """Score a model on each example of a task.

    The metric is the task's: ``accuracy`` picks the label of highest log-probability (the sum over
    its tokens); ``exact_match`` asks whether greedy decoding gives one of the references and then
    ends the answer, which one forward pass on the target decides, and generation where the model
    says something else that may yet become another reference; ``rougeL`` generates, and is the
    best ROUGE-L F-measure over the references; ``loss`` has no score.

    Args:
        model: a HookedTransformer or TransformerBridge with a tokenizer.
        task: the task.
        **options: ``split="test"``, ``prompt``, ``limit``, ``token_budget`` (see ``Data``),
            ``generation``, ``max_new_tokens=64``, ``share_prefix`` and ``metric`` (see
            ``Evaluation``).

    Returns:
        One row per example: ``task, metric, item, score`` (0 to 1), ``loss`` (nats per token),
        ``prediction``, ``n_truncated`` (of the whole split).

    Raises:
        ValueError: for an empty split, labels with equal token ids, an answer longer than the
            context, or a loss that is not finite (naming the example).
        TypeError: for an unknown option.
    """
    settings = settled("evaluate_items", Evaluation, options)
    metric = None if settings.metric is None else find_metric(settings.metric)
    model_view, task = view(model), one_task(task)
    name = task.metric if metric is None else metric.name
    # Generated answers need room in the context as well.
    decided = settings.generation and task.metric != "loss"
    generates = metric is None and (decided or task.metric == "rougeL")
    inputs = read_inputs(
        model_view, task, settings, room=settings.max_new_tokens if generates else 0,
        contrast=metric is not None and (metric.wrong or metric.by_item),
    )  # fmt: skip
    team = current_role()
    team.require_same(
        "evaluate_items",
        lambda: {
            "model": model_view.fingerprint, "task": task.name, "metric": name,
            "labels": task.labels, "generation": settings.generation,
            "max_new_tokens": settings.max_new_tokens, "share_prefix": settings.share_prefix,
            "examples": [asdict(item) for item in inputs.items],
            "references": [
                task.accepted(example) for example in task.split(settings.split)[: settings.limit]
            ],
        },
    )  # fmt: skip
    own = team.own([len(item) for item in inputs.items])
    with frozen(model_view.model), team.together():
        prefix = shared_prefix(inputs.items) if settings.share_prefix else ()
        cache = prefill(model_view, prefix) if prefix else None
        share = replace(inputs, items=tuple(inputs.items[i] for i in own))
        run = Answering(
            model_view, task, share, settings.prompt, settings.max_new_tokens, len(prefix), cache
        )
        losses, scores, predictions = (
            answer(run, settings.split, settings.generation)
            if metric is None
            else measure(run, metric)
        )
    rows = team.merge(own, list(zip(losses, scores, predictions, strict=True)))
    losses, scores, predictions = zip(*rows, strict=True)
    return pd.DataFrame(
        {"task": task.name, "metric": name, "item": range(len(rows)),
         "score": scores, "loss": losses, "prediction": predictions,
         "n_truncated": inputs.n_truncated}
    )  # fmt: skip
