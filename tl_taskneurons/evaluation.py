"""How well a model does a task: accuracy, exact match, ROUGE-L and loss, item by item."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tl_taskneurons.forward import answer_logits, before, frozen, require_finite
from tl_taskneurons.generation import generate
from tl_taskneurons.interventions import deactivate, mean_ablate
from tl_taskneurons.kvcache import KVCache
from tl_taskneurons.memory import in_memory, token_budget_for
from tl_taskneurons.model import ModelView, view
from tl_taskneurons.neurons import NeuronSet
from tl_taskneurons.progress import Progress
from tl_taskneurons.prompts import (
    Batch,
    Encoded,
    Item,
    Prompt,
    encode,
    label_ids,
    make_batches,
    pad_id_of,
    stop_ids,
)
from tl_taskneurons.sharing import current_team
from tl_taskneurons.summaries import summarise
from tl_taskneurons.tasks import Task, Tasks

Ablation = Literal["zero", "mean"]


def evaluate(
    model: Any,
    tasks: Task | Iterable[Task],
    *,
    split: str = "test",
    prompt: Prompt = Prompt(),  # noqa: B008 (frozen)
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
    prompt: Prompt = Prompt(),  # noqa: B008 (frozen)
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
        cache = _prefill(model_view, prefix) if prefix else None
        share = replace(encoded, items=tuple(encoded.items[i] for i in own))
        run = _Run(
            model_view, task, share, prompt, token_budget_for(model_view.device, token_budget),
            max_new_tokens, len(prefix), cache,
        )  # fmt: skip
        if task.metric == "accuracy" and not generation:
            losses, scores, predictions = _rank(run)
        elif task.metric == "exact_match" and not generation:
            losses, scores, predictions = _match(run, split)
        else:
            losses, _, _ = _teacher_forced(run, share.items)
            scores, predictions = ([float("nan")] * len(losses), [""] * len(losses))
            if task.metric != "loss":
                scores, predictions = _generated(run, split)
    rows = team.merge(own, list(zip(losses, scores, predictions, strict=True)))
    losses, scores, predictions = zip(*rows, strict=True)
    return pd.DataFrame(
        {"task": task.name, "metric": task.metric, "item": range(len(rows)),
         "score": scores, "loss": losses, "prediction": predictions,
         "n_truncated": encoded.n_truncated}
    )  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """One state of the model in which tasks are evaluated.

    Attributes:
        silenced: whose neurons are silenced; empty for the plain model.
        kind: ``"none"``, ``"task"`` or ``"random"``.
        seed: the control's seed; -1 where there is none.
        neurons: the silenced neurons; None for the plain model.
    """

    silenced: str
    kind: str
    seed: int
    neurons: NeuronSet | None


def conditions(
    sets: Mapping[str, NeuronSet], *, controls: int = 5, match: Literal["layer", "total"] = "layer"
) -> list[Condition]:
    """List the plain model, each task's neurons silenced, and random controls for each.

    Raises:
        ValueError: for a set without neurons.
    """
    result = [Condition("", "none", -1, None)]
    for name, neurons in sets.items():
        if not len(neurons):
            raise ValueError(
                f"The neuron set of {name!r} is empty, so silencing it shows nothing; choose a "
                "larger fraction or another selection."
            )
        result.append(Condition(name, "task", -1, neurons))
    for name, neurons in sets.items():
        for seed in range(controls):
            control = neurons.random_like(seed, match=match)
            result.append(Condition(name, "random", seed, control))
    return result


def evaluate_condition(
    model: Any,
    tasks: Iterable[Task],
    condition: Condition,
    *,
    ablation: Ablation = "zero",
    means: Float[Tensor, "layer d_mlp"] | None = None,
    limit: int | None = None,
    limit_others: int | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Evaluate tasks, item by item, in one condition.

    Random controls are evaluated on the task they are matched to (when it is among the tasks),
    everything else on all tasks.

    Args:
        model: a HookedTransformer or TransformerBridge.
        tasks: the tasks.
        condition: the state of the model.
        ablation: set silenced neurons to ``"zero"`` or to their ``"mean"``.
        means: the means, for ``"mean"``; see ``activation_mean``.
        limit: at most the first ``limit`` examples of a task.
        limit_others: the same for tasks other than the silenced one, which only specificity
            needs; by default ``limit``.
        **options: for ``evaluate_items``.

    Returns:
        The rows of ``evaluate_items`` with ``silenced, kind, seed, n_neurons, ablation``.

    Raises:
        ValueError: for an unknown ablation, or ``"mean"`` without means.
    """
    if ablation not in ("zero", "mean") or (ablation == "mean" and means is None):
        raise ValueError(
            f"ablation is {ablation!r} with means={'given' if means is not None else None}; use "
            "'zero', or 'mean' with means=activation_mean(model, task)."
        )
    listed = Tasks(tasks)
    if condition.kind == "random" and condition.silenced in listed.names:
        listed = Tasks([listed[condition.silenced]])
    neurons = condition.neurons
    others = limit if limit_others is None else limit_others
    current_team().require_same(
        "evaluate_condition",
        lambda: {"neurons": neurons and neurons.mask, "ablation": ablation, "means": means},
    )
    with _silenced(model, neurons, ablation, means):
        frame = pd.concat(
            [
                evaluate_items(
                    model,
                    task,
                    limit=limit if condition.silenced in ("", task.name) else others,
                    **options,
                )
                for task in listed
            ]
        )
    return frame.assign(
        silenced=condition.silenced, kind=condition.kind, seed=condition.seed, ablation=ablation,
        n_neurons=0 if neurons is None else len(neurons),
    ).reset_index(drop=True)  # fmt: skip


def deactivation_items(
    model: Any,
    tasks: Iterable[Task],
    sets: Mapping[str, NeuronSet],
    *,
    controls: int = 5,
    match: Literal["layer", "total"] = "layer",
    ablation: Ablation = "zero",
    means: Float[Tensor, "layer d_mlp"] | None = None,
    progress: bool = False,
    **options: Any,
) -> pd.DataFrame:
    """Silence each task's neurons, and random controls, and evaluate all tasks item by item.

    Feed the result to ``deactivation_matrix`` (tasks x tasks) or ``deactivation_table`` (original,
    random, task, specificity), which add bootstrap intervals.

    Args:
        model: a HookedTransformer or TransformerBridge.
        tasks: the tasks to evaluate.
        sets: task name to its neurons.
        controls: random controls per set, on that set's task.
        match: how controls match their set; see ``NeuronSet.random_like``.
        ablation: set silenced neurons to ``"zero"`` or to their ``"mean"``.
        means: the means, for ``"mean"``.
        progress: show a progress bar.
        **options: for ``evaluate_items``.
    """
    listed = Tasks(tasks)
    frames = [
        evaluate_condition(model, listed, condition, ablation=ablation, means=means, **options)
        for condition in Progress("deactivate", shown=progress).over(
            conditions(sets, controls=controls, match=match)
        )
    ]
    return pd.concat(frames, ignore_index=True)


def _silenced(
    model: Any, neurons: NeuronSet | None, ablation: Ablation, means: Tensor | None
) -> AbstractContextManager[None]:
    if neurons is None:
        return nullcontext()
    if ablation == "mean" and means is not None:
        return mean_ablate(model, neurons, means)
    return deactivate(model, neurons)


@dataclass(frozen=True)
class _Run:
    """What every way of scoring needs."""

    model_view: ModelView
    task: Task
    encoded: Encoded
    prompt: Prompt
    token_budget: int
    max_new_tokens: int
    n_prefix: int
    cache: KVCache | None

    @property
    def tokenizer(self) -> Any:
        return self.model_view.model.tokenizer

    def batches(self, items: Sequence[Item], with_end: bool = False) -> Iterable[Batch]:
        """Batch items without the tokens that the cache already holds."""
        rests = [replace(item, prompt=item.prompt[self.n_prefix :]) for item in items]
        for batch in make_batches(
            rests, token_budget=self.token_budget, pad_id=pad_id_of(self.tokenizer),
            with_end=with_end,
        ):  # fmt: skip
            yield batch.to(self.model_view.device)

    def require_finite(self, losses: Tensor, batch: Batch, items: Sequence[Item]) -> None:
        """Raise ValueError naming the first example whose loss is not a finite number."""
        index = tuple(items[i].index for i in batch.index)
        require_finite(losses, replace(batch, index=index), self.model_view)

    def logits(self, batch: Batch) -> Float[Tensor, "answer_tokens vocab"]:
        """Logits that predict the answer tokens of a batch from ``batches``, in float32."""
        if self.cache is None:
            return answer_logits(self.model_view, batch).float()
        rows = self.cache.repeat(len(batch.index))
        return rows.extend(batch.tokens, batch.attention_mask, before(batch.answer_mask)).float()


def shared_prefix(items: Sequence[Item]) -> tuple[int, ...]:
    """Return the tokens with which all prompts begin, short of the last token of any.

    Empty where fewer than 8 tokens or fewer than 2 items share it: then it saves nothing.
    """
    prompts = [item.prompt for item in items]
    most = min(map(len, prompts)) - 1
    first = prompts[0]
    n = next((k for k in range(most) if any(p[k] != first[k] for p in prompts)), most)
    return first[:n] if n >= 8 and len(items) > 1 else ()


def _prefill(model_view: ModelView, prefix: tuple[int, ...]) -> KVCache:
    cache = KVCache(model_view, 1)
    tokens = torch.tensor([prefix], device=model_view.device)
    everywhere = torch.ones_like(tokens, dtype=torch.bool)
    last = torch.zeros_like(everywhere)
    last[:, -1] = True
    cache.extend(tokens, everywhere, last)
    return cache


def _teacher_forced(
    run: _Run, items: Sequence[Item], first_ids: Sequence[int] = ()
) -> tuple[list[float], list[float], list[list[float]]]:
    """Mean loss and summed log-probability of each answer, and log-probs of given first tokens."""
    losses, sums = [0.0] * len(items), [0.0] * len(items)
    firsts: list[list[float]] = [[] for _ in items]

    def score(batch: Batch) -> None:
        log_probs = run.logits(batch).log_softmax(-1)
        targets = batch.tokens[batch.answer_mask].to(log_probs.device)
        chosen = log_probs.gather(1, targets[:, None])[:, 0]
        counts = batch.answer_mask.sum(1).tolist()
        per_row = chosen.split(counts)
        row_losses = torch.stack([-values.mean() for values in per_row])
        run.require_finite(row_losses, batch, items)
        starts = torch.tensor([0, *counts[:-1]]).cumsum(0).to(log_probs.device)
        first = log_probs[starts][:, list(first_ids)].tolist()
        for row, i in enumerate(batch.index):
            losses[i], sums[i] = float(row_losses[row]), float(per_row[row].sum())
            firsts[i] = first[row]

    in_memory(run.batches(items), score)
    return losses, sums, firsts


def _rank(run: _Run) -> tuple[list[float], list[float], list[str]]:
    """Choose the label of highest summed log-probability.

    The log-probability of a label's first token bounds that of the whole label, so a label whose
    bound is below the best complete one needs no forward pass of its own. The choice is exact.
    """
    labels = run.task.labels
    ids = label_ids(run.task, run.tokenizer, run.prompt)
    items = run.encoded.items
    losses, sums, firsts = _teacher_forced(run, items, [ids[label][0] for label in labels])
    truth = [label for item in items for label in labels if ids[label] == item.answer]
    if len(truth) != len(items):
        raise ValueError(
            f"In task {run.task.name!r} an answer's token ids differ from its label's; check that "
            "targets are written exactly like the labels."
        )
    known: list[dict[str, float]] = []
    missing: list[tuple[int, str]] = []
    for i, own in enumerate(truth):
        exact = {own: sums[i]}
        bounds = dict(zip(labels, firsts[i], strict=True))
        exact |= {label: bounds[label] for label in labels if len(ids[label]) == 1}
        best = max(exact.values())
        missing += [(i, label) for label in labels if label not in exact and bounds[label] >= best]
        known.append(exact)
    others = [replace(items[i], answer=ids[label]) for i, label in missing]
    _, other_sums, _ = _teacher_forced(run, others)
    for (i, label), value in zip(missing, other_sums, strict=True):
        known[i][label] = value
    # Equal log-probabilities go to the label listed first.
    predictions = [
        max((label for label in labels if label in exact), key=lambda label: exact[label])
        for exact in known
    ]
    scores = [float(own == said) for own, said in zip(truth, predictions, strict=True)]
    return losses, scores, predictions


def _match(run: _Run, split: str) -> tuple[list[float], list[float], list[str]]:
    """Would greedy decoding give one of the references and then stop?"""
    examples = run.task.split(split)
    variants: list[Item] = []
    owners: list[int] = []
    for i, item in enumerate(run.encoded.items):
        target = examples[item.index].target
        for reference in dict.fromkeys((target, *examples[item.index].accepted)):
            same = reference == target
            variants.append(item if same else replace(item, answer=_answer(run, reference)))
            owners.append(i)
    stops = torch.tensor(sorted(stop_ids(run.tokenizer, run.prompt)), device=run.model_view.device)
    losses, scores = [0.0] * len(run.encoded.items), [0.0] * len(run.encoded.items)
    said = [""] * len(run.encoded.items)
    targets = [examples[item.index].target for item in run.encoded.items]
    first_of = {owner: k for k, owner in reversed(list(enumerate(owners)))}

    def score(batch: Batch) -> None:
        logits = run.logits(batch)
        greedy = logits.argmax(-1)
        tokens = batch.tokens[batch.answer_mask].to(greedy.device)
        nll = logits.logsumexp(-1) - logits.gather(1, tokens[:, None])[:, 0]
        counts = batch.answer_mask.sum(1).tolist()
        rows = zip(greedy.split(counts), tokens.split(counts), nll.split(counts), strict=True)
        row_losses = torch.zeros(len(counts))
        for row, (chosen, wanted, cost) in enumerate(rows):
            k = batch.index[row]
            i, n = owners[k], len(variants[k].answer)
            row_losses[row] = cost[:n].mean()
            hit = torch.equal(chosen[:n], wanted[:n]) and bool(torch.isin(chosen[n], stops))
            scores[i] = max(scores[i], float(hit))
            if first_of[i] == k:
                losses[i] = float(row_losses[row])
                said[i] = targets[i] if hit else run.tokenizer.decode(chosen[:n].tolist()).strip()
        run.require_finite(row_losses, batch, variants)

    in_memory(run.batches([replace(v, end=v.end[:1]) for v in variants], with_end=True), score)
    return losses, scores, said


def _answer(run: _Run, reference: str) -> tuple[int, ...]:
    text = reference if run.prompt.chat else f" {reference}"
    return tuple(run.tokenizer(text, add_special_tokens=False)["input_ids"])


def _generated(run: _Run, split: str) -> tuple[list[float], list[str]]:
    """Generate answers and compare them with label or references."""
    ids = generate(
        run.model_view, [item.prompt for item in run.encoded.items],
        stops=stop_ids(run.tokenizer, run.prompt), max_new_tokens=run.max_new_tokens,
        token_budget=2 * run.token_budget, pad_id=pad_id_of(run.tokenizer),
    )  # fmt: skip
    said = [run.tokenizer.decode(row, skip_special_tokens=True).strip() for row in ids]
    examples = run.task.split(split)
    wanted = [examples[item.index].accepted for item in run.encoded.items]
    if run.task.metric == "rougeL":
        from rouge_score.rouge_scorer import RougeScorer  # slow to import, needed here only

        scorer = RougeScorer(["rougeL"], use_stemmer=False)
        scores = [
            # An answer without a word gives the integer 0.
            float(max(scorer.score(ref, text)["rougeL"].fmeasure for ref in accepted))
            for text, accepted in zip(said, wanted, strict=True)
        ]
    else:
        scores = [float(text in accepted) for text, accepted in zip(said, wanted, strict=True)]
    return scores, said
