"""How well a model does a task: accuracy, exact match, ROUGE-L and loss, item by item."""

from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

import pandas as pd
import torch

from tl_taskneurons.evaluation.answers import Answering, answer, prefill, shared_prefix
from tl_taskneurons.evaluation.tables import summarise
from tl_taskneurons.models.forward import frozen
from tl_taskneurons.models.view import view
from tl_taskneurons.runtime.progress import Progress
from tl_taskneurons.runtime.sharing import current_team
from tl_taskneurons.tasks.batches import token_budget_for
from tl_taskneurons.tasks.prompts import Prompt, encode
from tl_taskneurons.tasks.task import Task, Tasks


def evaluate(
    model: Any,
    tasks: Task | Iterable[Task],
    *,
    split: str = "test",
    prompt: Prompt = Prompt(),
    limit: int | None = None,
    generation: bool = False,
    max_new_tokens: int = 64,
    token_budget: int | None = None,
    share_prefix: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Score a model on tasks; run it inside an intervention to see what that changes.

    Returns:
        One row per task: ``task, metric, value, low, high, loss, n, n_truncated``. ``value`` is
        the mean of the task's metric in [0, 1], ``low`` and ``high`` its 95% bootstrap interval
        over items, ``loss`` the mean cross-entropy of the answer in nats per token.

    Other arguments and errors are those of ``evaluate_items``.
    """
    listed = Tasks([tasks] if isinstance(tasks, Task) else tasks)
    frames = []
    for task in Progress("evaluate", shown=progress).over(listed):
        frames.append(
            evaluate_items(
                model, task, split=split, prompt=prompt, limit=limit, generation=generation,
                max_new_tokens=max_new_tokens, token_budget=token_budget,
                share_prefix=share_prefix,
            )
        )  # fmt: skip
    return summarise(pd.concat(frames, ignore_index=True), seed=seed)


@torch.no_grad()
def evaluate_items(
    model: Any,
    task: Task,
    *,
    split: str = "test",
    prompt: Prompt = Prompt(),
    limit: int | None = None,
    generation: bool = False,
    max_new_tokens: int = 64,
    token_budget: int | None = None,
    share_prefix: bool = False,
) -> pd.DataFrame:
    """Score a model on each example of a task.

    The metric is the task's: ``accuracy`` picks the label of highest log-probability (the sum over
    its tokens); ``exact_match`` asks whether greedy decoding gives one of the references and then
    ends the answer, which one forward pass per reference decides; ``rougeL`` generates, and is the
    best ROUGE-L F-measure over the references; ``loss`` has no score.

    Args:
        model: a HookedTransformer or TransformerBridge with a tokenizer.
        task: the task.
        split: which examples.
        prompt: how examples become text.
        limit: at most the first ``limit`` examples.
        generation: also decide accuracy and exact match by generated text (stripped of white
            space and compared as it is, upper and lower case included).
        max_new_tokens: the longest generated answer, in tokens.
        token_budget: the most tokens in a batch; None suits the device. Where memory runs out,
            batches are cut in halves, with a warning.
        share_prefix: run the tokens with which all prompts begin (instruction, demonstrations)
            once and reuse their keys and values: several times faster for few-shot prompts.
            The results are the same up to rounding, with this library's interventions or none;
            leave it off when hooks of your own treat positions differently.

    Returns:
        One row per example: ``task, metric, item, score`` (0 to 1), ``loss`` (nats per token),
        ``prediction``, ``n_truncated`` (of the whole split).

    Raises:
        ValueError: for an empty split, labels with equal token ids, an answer longer than the
            context, or a loss that is not finite (naming the example).
    """
    model_view = view(model)
    # Generated answers need room in the context as well.
    room = max_new_tokens if generation or task.metric == "rougeL" else 0
    n_ctx = model_view.n_ctx
    encoded = encode(
        task, model.tokenizer, split=split, prompt=prompt, limit=limit,
        max_length=None if n_ctx is None else n_ctx - room,
    )  # fmt: skip
    team = current_team()
    team.require_same(
        "evaluate_items",
        lambda: {
            "model": model_view.fingerprint, "task": task.name, "metric": task.metric,
            "labels": task.labels, "generation": generation, "max_new_tokens": max_new_tokens,
            "share_prefix": share_prefix, "examples": [asdict(item) for item in encoded.items],
            "references": [example.accepted for example in task.split(split)[:limit]],
        },
    )  # fmt: skip
    own = team.own([len(item) for item in encoded.items])
    with frozen(model_view.model), team.together():
        prefix = shared_prefix(encoded.items) if share_prefix else ()
        cache = prefill(model_view, prefix) if prefix else None
        share = replace(encoded, items=tuple(encoded.items[i] for i in own))
        run = Answering(
            model_view, task, share, prompt, token_budget_for(model_view.device, token_budget),
            max_new_tokens, len(prefix), cache,
        )  # fmt: skip
        losses, scores, predictions = answer(run, split, generation)
    rows = team.merge(own, list(zip(losses, scores, predictions, strict=True)))
    losses, scores, predictions = zip(*rows, strict=True)
    return pd.DataFrame(
        {"task": task.name, "metric": task.metric, "item": range(len(rows)),
         "score": scores, "loss": losses, "prediction": predictions,
         "n_truncated": encoded.n_truncated}
    )  # fmt: skip
