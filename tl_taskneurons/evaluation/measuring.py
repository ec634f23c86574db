"""Measuring a metric of the logits on each example, in place of judging answers."""

from dataclasses import replace

import torch

from tl_taskneurons.evaluation.answers import Answering, Answers
from tl_taskneurons.neurons.measures import from_logits, loss, reference_logits
from tl_taskneurons.neurons.metrics import Metric
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.tasks.batches import Batch, in_memory


def measure(run: Answering, metric: Metric) -> Answers:
    """Return each example's loss and metric; nothing is answered.

    Raises:
        ValueError: as ``measured`` does, and for a metric that compares with the undisturbed model
            while prompts share a prefix.
        RuntimeError: for such a metric inside an intervention by weights.
    """
    items = run.encoded.items
    if metric.reference and run.cache is not None:
        raise InputError(f"Metric {metric.name!r} needs share_prefix=False.")
    losses, values = [0.0] * len(items), [0.0] * len(items)

    def score(batch: Batch) -> None:
        logits = run.logits(batch)
        reference = reference_logits(metric, run.model_view, batch)
        own = loss(logits, batch, None)
        run.require_finite(own, batch, items)
        # A metric sees the whole prompt, also where its beginning ran before.
        whole = replace(batch, items=tuple(items[i] for i in batch.index))
        found = from_logits(metric, run.model_view, logits, whole, reference)
        for i, cost, value in zip(batch.index, own.tolist(), found.tolist(), strict=True):
            losses[i], values[i] = cost, value

    with torch.no_grad():
        in_memory(run.batches(items), score)
    return losses, values, [""] * len(items)
