"""What a model answers to each example: losses, scores and predictions, for ``evaluation``."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_taskneurons.evaluation.words import Words
from tl_taskneurons.models.forward import answer_logits, before, require_finite
from tl_taskneurons.models.generation import eos_ids, generate
from tl_taskneurons.models.inputs import Inputs
from tl_taskneurons.models.kvcache import KVCache
from tl_taskneurons.models.view import ModelView
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.tasks.batches import Batch, in_memory
from tl_taskneurons.tasks.endings import Ending, ending_of
from tl_taskneurons.tasks.prompts import Item, Prompt, word_ids
from tl_taskneurons.tasks.task import Task

# Of each example: its loss in nats per token, its score from 0 to 1, and what was answered.
Answers = tuple[list[float], list[float], list[str]]


@dataclass(frozen=True)
class Answering:
    """What every way of scoring needs.

    Attributes:
        model_view: the model, frozen.
        task: the task.
        encoded: its examples, those of this process alone.
        prompt: how examples became text.
        max_new_tokens: the longest generated answer, in tokens.
        n_prefix: tokens that all prompts begin with and that ``cache`` holds.
        cache: keys and values of these tokens; None where nothing is shared.
    """

    model_view: ModelView
    task: Task
    encoded: Inputs
    prompt: Prompt
    max_new_tokens: int
    n_prefix: int
    cache: KVCache | None

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.model_view.model.tokenizer

    @property
    def ending(self) -> Ending:
        """How answers end."""
        return ending_of(self.tokenizer, self.prompt, eos_ids(self.model_view.model))

    def batches(self, items: Sequence[Item], with_end: bool = False) -> Iterable[Batch]:
        """Batch items without the tokens that the cache already holds."""
        rests = [replace(item, prompt=item.prompt[self.n_prefix :]) for item in items]
        for batch in self.encoded.batches(rests, with_end=with_end):
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
        positions = before(batch.answer_mask)
        return rows.extend(batch.tokens, batch.attention_mask, positions, stage="rest").float()


def answer(run: Answering, split: str, generation: bool) -> Answers:
    """Answer the examples in the way of the task's metric; see ``evaluation.evaluate_items``."""
    if run.task.metric == "accuracy" and not generation:
        return _rank(run)
    if run.task.metric == "exact_match" and not generation:
        return _match(run, split)
    losses, _, _ = _teacher_forced(run, run.encoded.items)
    if run.task.metric == "loss":
        return losses, [float("nan")] * len(losses), [""] * len(losses)
    return losses, *_generated(run, split)


def prefill(model_view: ModelView, prefix: tuple[int, ...]) -> KVCache:
    """Run the tokens that all prompts begin with."""
    cache = KVCache(model_view, 1)
    tokens = torch.tensor([prefix], device=model_view.device)
    everywhere = torch.ones_like(tokens, dtype=torch.bool)
    last = torch.zeros_like(everywhere)
    last[:, -1] = True
    cache.extend(tokens, everywhere, last, stage="prefix")
    return cache


def _teacher_forced(
    run: Answering, items: Sequence[Item], first_ids: Sequence[int] = ()
) -> tuple[list[float], list[float], list[list[float]]]:
    """Mean loss and summed log-probability of each answer, and log-probs of given first tokens."""
    losses, sums = [0.0] * len(items), [0.0] * len(items)
    firsts: list[list[float]] = [[] for _ in items]

    def score(batch: Batch) -> None:
        log_probs = run.logits(batch).log_softmax(-1)
        targets = batch.tokens[batch.answer_at].to(log_probs.device)
        chosen = log_probs.gather(1, targets[:, None])[:, 0]
        counts = batch.answer_mask.sum(1).tolist()
        per_row = chosen.split(counts)
        row_losses = torch.stack([-values.mean() for values in per_row])
        run.require_finite(row_losses, batch, items)
        starts = torch.tensor([0, *counts[:-1]], device="cpu").cumsum(0).to(log_probs.device)
        first = log_probs[starts][:, list(first_ids)].tolist()
        # Read once a batch: on a GPU the processor waits for what it reads.
        row_sums = torch.stack([values.sum() for values in per_row]).tolist()
        own = zip(row_losses.tolist(), row_sums, first, strict=True)
        for i, (loss, total, of_first) in zip(batch.index, own, strict=True):
            losses[i], sums[i], firsts[i] = loss, total, of_first

    in_memory(run.batches(items), score)
    return losses, sums, firsts


def _rank(run: Answering) -> Answers:
    """Choose the most probable label: of its word's summed log-probability, or its words' together.

    The log-probability of a label's first token bounds that of the whole label, so a label whose
    bound is below the best complete one needs no forward pass of its own. The choice is exact.
    """
    labels = run.task.labels
    ids = word_ids(run.task, run.tokenizer, run.prompt)
    words = [(label, word) for label in labels for word in ids[label]]
    one_each = len(words) == len(labels)
    items = run.encoded.items
    losses, sums, firsts = _teacher_forced(run, items, [word[0] for _, word in words])
    truth = [label for item in items for label in labels if ids[label][0] == item.answer]
    if len(truth) != len(items):
        raise InputError(
            f"In task {run.task.name!r} an answer's token ids differ from its label's; check that "
            "targets are written exactly like the labels."
        )
    known: list[dict[int, float]] = []
    missing: list[tuple[int, int]] = []
    for i, own in enumerate(truth):
        exact = {words.index((own, ids[own][0])): sums[i]}
        exact |= {k: firsts[i][k] for k, (_, word) in enumerate(words) if len(word) == 1}
        best = max(exact.values()) if one_each else -math.inf
        rest = [k for k in range(len(words)) if k not in exact and firsts[i][k] >= best]
        missing += [(i, k) for k in rest]
        known.append(exact)
    others = [replace(items[i], answer=words[k][1]) for i, k in missing]
    _, other_sums, _ = _teacher_forced(run, others)
    for (i, k), value in zip(missing, other_sums, strict=True):
        known[i][k] = value
    predictions = []
    for exact in known:
        of_label: dict[str, list[float]] = {}
        for k in sorted(exact):
            of_label.setdefault(words[k][0], []).append(exact[k])
        together = {label: _log_sum(values) for label, values in of_label.items()}
        # Equal log-probabilities go to the label listed first.
        predictions.append(max(together, key=together.__getitem__))
    scores = [float(own == said) for own, said in zip(truth, predictions, strict=True)]
    return losses, scores, predictions


def _log_sum(values: Sequence[float]) -> float:
    """The logarithm of a sum of probabilities, of their logarithms; exact for one."""
    most = max(values)
    if len(values) == 1 or most == -math.inf:
        return most
    return most + math.log(sum(math.exp(value - most) for value in values))


def _match(run: Answering, split: str) -> Answers:
    """Would greedy decoding give one of the accepted answers and then end?

    One forward pass on the target follows greedy decoding up to where the model says something
    else. Where that is another way to an accepted answer, the answer is generated.
    """
    items = run.encoded.items
    accepted = _accepted(run, split)
    ending = run.ending
    losses, said = [0.0] * len(items), [""] * len(items)
    verdicts: list[bool | None] = [None] * len(items)
    targets = [run.task.answer(run.task.split(split)[item.index]) for item in items]

    def score(batch: Batch) -> None:
        logits = run.logits(batch)
        greedy = logits.argmax(-1)
        tokens = batch.tokens[batch.answer_at].to(greedy.device)
        nll = logits.logsumexp(-1) - logits.gather(1, tokens[:, None])[:, 0]
        counts = batch.answer_mask.sum(1).tolist()
        sizes = [len(items[i].answer) for i in batch.index]
        costs = zip(nll.split(counts), sizes, strict=True)
        # Read once a batch: on a GPU the processor waits for what it reads.
        row_losses = torch.stack([cost[:n].mean() for cost, n in costs]).float().cpu()
        run.require_finite(row_losses, batch, items)
        known = zip(greedy.cpu().split(counts), tokens.cpu().split(counts), strict=True)
        for row, (chosen, wanted) in enumerate(known):
            i, n = batch.index[row], sizes[row]
            losses[i] = row_losses[row].item()
            same = int((chosen == wanted).int().cumprod(0).sum())
            verdicts[i] = ending.judge(chosen[: same + 1].tolist(), accepted[i])
            said[i] = targets[i] if verdicts[i] else run.tokenizer.decode(chosen[:n]).strip()

    in_memory(run.batches(items, with_end=True), score)
    unclear = [i for i, verdict in enumerate(verdicts) if verdict is None]
    # An item fits with its answer and end, so there is always room for some tokens.
    n_ctx = run.model_view.n_ctx or math.inf
    room = {i: int(min(run.max_new_tokens, n_ctx - len(items[i].prompt))) for i in unclear}
    for most in sorted(set(room.values())):
        group = [i for i in unclear if room[i] == most]
        for i, ids in zip(group, _generate(run, [items[i] for i in group], most), strict=True):
            verdicts[i], said[i] = ending.judge(ids, accepted[i]), ending.said(ids)
    return losses, [float(verdict is True) for verdict in verdicts], said


def _accepted(run: Answering, split: str) -> list[frozenset[str]]:
    """The texts that count as right answers to each example."""
    examples = run.task.split(split)
    listed = [(item.index, run.task.accepted(examples[item.index])) for item in run.encoded.items]
    for index, accepted in listed:
        run.ending.require_sayable(accepted, f"Example {index} of task {run.task.name!r}")
    return [run.ending.forms(accepted) for _, accepted in listed]


def _generate(run: Answering, items: Sequence[Item], max_new_tokens: int) -> list[list[int]]:
    return generate(
        run.model_view, [item.prompt for item in items], closes=run.ending.closes,
        max_new_tokens=max_new_tokens, token_budget=2 * run.encoded.token_budget,
        examples=[item.index for item in items],
    )  # fmt: skip


def _generated(run: Answering, split: str) -> tuple[list[float], list[str]]:
    """Generate answers and compare them with label or references."""
    ids = _generate(run, run.encoded.items, run.max_new_tokens)
    said = [run.ending.said(row) for row in ids]
    if run.task.metric == "rougeL":
        from rouge_score.rouge_scorer import RougeScorer  # slow to import, needed here only

        scorer = RougeScorer(["rougeL"], use_stemmer=False, tokenizer=Words())
        examples = run.task.split(split)
        wanted = [run.task.accepted(examples[item.index]) for item in run.encoded.items]
        scores = [
            # An answer without a word gives the integer 0.
            float(max(scorer.score(ref, text)["rougeL"].fmeasure for ref in accepted))
            for text, accepted in zip(said, wanted, strict=True)
        ]
    else:
        accepted = _accepted(run, split)
        scores = [
            # An answer that was cut off is none.
            float(run.ending.judge(row, texts) is True)
            for row, texts in zip(ids, accepted, strict=True)
        ]
    return scores, said
