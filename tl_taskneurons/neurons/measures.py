"""What the metrics compute: from the logits at the answers of a batch to a number an example."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_taskneurons.models.forward import (
    answer_logits,
    answer_losses,
    require_finite,
    undisturbed,
    weights_are_changed,
)
from tl_taskneurons.models.view import ModelView
from tl_taskneurons.neurons.metrics import Metric
from tl_taskneurons.runtime.errors import InputError, StateError
from tl_taskneurons.tasks.batches import Batch

Logits = Float[Tensor, "answer_tokens vocab"]
PerExample = Float[Tensor, " batch"]


def measured(
    metric: Metric, model_view: ModelView, batch: Batch, reference: Logits | None = None
) -> PerExample:
    """Run a batch and measure each example.

    Args:
        metric: what to measure.
        model_view: the model.
        batch: tokens on the model's device.
        reference: logits of the undisturbed model, where the metric compares with it.

    Raises:
        ValueError: naming the example: a number that is not finite or not a scalar, an example
            without wrong answers where they are needed.
    """
    if _is_loss(metric):
        return answer_losses(model_view, batch)
    logits = answer_logits(model_view, batch).float()
    return from_logits(metric, model_view, logits, batch, reference)


def reference_logits(metric: Metric, model_view: ModelView, batch: Batch) -> Logits | None:
    """Return the logits of the undisturbed model, where a metric compares with it.

    Raises:
        RuntimeError: where an open intervention has changed the weights.
    """
    if not metric.reference:
        return None
    if weights_are_changed():
        raise StateError(
            f"Metric {metric.name!r} compares with the undisturbed model, but its weights are "
            "changed; intervene by hooks (how='hooks')."
        )
    with torch.no_grad(), undisturbed():
        return answer_logits(model_view, batch).float()


def from_logits(
    metric: Metric, model_view: ModelView, logits: Logits, batch: Batch,
    reference: Logits | None = None,
) -> PerExample:  # fmt: skip
    """Measure each example of a batch by the logits that predict its answer; see ``measured``."""
    if metric.by_item:
        rows = logits.split(batch.answer_mask.sum(1).tolist())
        values = torch.stack([_scalar(metric, row, batch, i) for i, row in enumerate(rows)]).float()
    else:
        values = metric.function(logits, batch, reference)
    if _is_loss(metric):
        require_finite(values, batch, model_view)
    bad = (~values.detach().isfinite()).nonzero().flatten().tolist()
    if bad:
        raise InputError(
            f"Metric {metric.name!r} of example {example_of(batch, bad[0])} is "
            f"{values[bad[0]].item()}; it must be a finite number."
        )
    return values


def require_gradient(metric: Metric, values: PerExample, batch: Batch) -> None:
    """Raise ValueError where a metric's numbers have no gradient."""
    if not values.requires_grad:
        raise InputError(
            f"Metric {metric.name!r} of example {example_of(batch, 0)} has no gradient; compute "
            "it from the logits by differentiable operations, or use method 'exact'."
        )


def example_of(batch: Batch, row: int) -> int:
    """Return the number, in its split, of the example in a row."""
    return batch.items[row].index if batch.items else batch.index[row]


def _is_loss(metric: Metric) -> bool:
    return metric.name == "loss" and not metric.by_item


def _scalar(metric: Metric, logits: Logits, batch: Batch, row: int) -> Tensor:
    value = metric.function(logits, batch.items[row])
    if not isinstance(value, Tensor) or value.numel() != 1:
        what = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(
            f"Metric {metric.name!r} of example {example_of(batch, row)} returned {what}; it "
            "must return a tensor of one number."
        )
    return value.reshape(())


def loss(logits: Logits, batch: Batch, reference: Logits | None) -> PerExample:  # noqa: ARG001
    """Return the mean cross-entropy of each answer's tokens."""
    return -_sums(_log_probs(logits, batch), batch) / _counts(logits, batch)


def log_prob(logits: Logits, batch: Batch, reference: Logits | None) -> PerExample:  # noqa: ARG001
    """Return the log-probability of each answer."""
    return _sums(_log_probs(logits, batch), batch)


def prob(logits: Logits, batch: Batch, reference: Logits | None) -> PerExample:  # noqa: ARG001
    """Return the probability of each answer."""
    return _sums(_log_probs(logits, batch), batch).exp()


def logit_diff(logits: Logits, batch: Batch, reference: Logits | None) -> PerExample:  # noqa: ARG001
    """Return the logit of each answer minus the mean of its wrong answers' logits.

    Each wrong answer is compared at the first token in which it differs from the answer, after the
    tokens that both have.
    """
    starts = [0, *batch.answer_mask.sum(1).cumsum(0).tolist()]
    rows, places, right, wrong = [], [], [], []
    for row, item in enumerate(batch.items):
        if not item.wrong:
            raise InputError(
                f"Metric 'logit_diff' needs wrong answers; example {item.index} has none. Give "
                'them, e.g. {"input": ..., "target": ..., "wrong": [...]}.'
            )
        for other in item.wrong:
            pairs = zip(item.answer, other, strict=False)
            at = next((k for k, (a, b) in enumerate(pairs) if a != b), None)
            if at is None:
                raise InputError(
                    f"The answer and a wrong answer of example {item.index} begin alike to the "
                    f"end of one of them ({list(item.answer)}, {list(other)}), so no token tells "
                    "them apart; choose another wrong answer."
                )
            rows.append(row)
            places.append(starts[row] + at)
            right.append(item.answer[at])
            wrong.append(other[at])
    differences = logits[places, right] - logits[places, wrong]
    index = torch.tensor(rows, device=logits.device)
    sums = logits.new_zeros(len(batch.items)).index_add(0, index, differences)
    return sums / index.bincount(minlength=len(batch.items))


def kl(logits: Logits, batch: Batch, reference: Logits | None) -> PerExample:
    """Return the mean divergence of each answer's next-token distributions from the reference."""
    assert reference is not None
    before = reference.to(logits.device).log_softmax(-1)
    each = (before.exp() * (before - logits.log_softmax(-1))).sum(-1)
    return _sums(each, batch) / _counts(logits, batch)


def rank(logits: Logits, batch: Batch, reference: Logits | None) -> PerExample:  # noqa: ARG001
    """Return the mean rank of each answer's tokens; tokens of equal logit don't count as above."""
    own = logits.gather(1, _targets(logits, batch)[:, None])
    above = (logits > own).sum(1).float() + 1
    return _sums(above, batch) / _counts(logits, batch)


def _targets(logits: Logits, batch: Batch) -> Int[Tensor, " answer_tokens"]:
    return batch.tokens[batch.answer_at].to(logits.device)


def _log_probs(logits: Logits, batch: Batch) -> Float[Tensor, " answer_tokens"]:
    own = logits.gather(1, _targets(logits, batch)[:, None])[:, 0]
    return own - logits.logsumexp(dim=1)


def _sums(values: Float[Tensor, " answer_tokens"], batch: Batch) -> PerExample:
    rows = batch.answer_at[0].to(values.device)
    return values.new_zeros(len(batch.index)).index_add(0, rows, values)


def _counts(logits: Logits, batch: Batch) -> Int[Tensor, " batch"]:
    return batch.answer_mask.sum(1).to(logits.device)
