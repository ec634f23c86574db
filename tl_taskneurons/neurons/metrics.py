"""The table of metrics: what is asked of the answer's logits, one number an example. No torch here.

``metric=`` takes a name of ``METRICS`` or a function of your own, ``metric(logits, item)``: the
logits ``[answer_tokens, vocab]`` (float32) that predict an example's answer, and the example's
``Item`` with the token ids of its answer and its wrong answers. It returns a scalar; gradient
methods need one with a gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from tl_taskneurons.runtime.errors import InputTypeError
from tl_taskneurons.runtime.registry import Choice, Registry


@dataclass(frozen=True)
class Metric(Choice[Callable[..., Any]]):
    """A function of the answer's logits.

    Attributes:
        unit: of the number.
        better: whether ``"higher"`` or ``"lower"`` means that the task is done better.
        gradient: whether it has a gradient.
        wrong: whether it needs wrong answers.
        reference: whether it compares with the undisturbed model.
        by_item: whether it takes one example at a time, as a user's own function does.
    """

    unit: str = ""
    better: Literal["higher", "lower", ""] = ""
    gradient: bool = True
    wrong: bool = False
    reference: bool = False
    by_item: bool = False


_HERE = "tl_taskneurons.neurons.measures:"
METRICS = Registry("metric", partial(Metric, by_item=True))
for _metric in (
    Metric(
        "loss", "mean cross-entropy of the answer's tokens, in nats a token", _HERE + "loss",
        unit="nats per token", better="lower",
    ),
    Metric(
        "log_prob", "log-probability of the whole answer, in nats", _HERE + "log_prob",
        unit="nats", better="higher",
    ),
    Metric("prob", "probability of the whole answer", _HERE + "prob", better="higher"),
    Metric(
        "logit_diff",
        "logit of the answer minus that of the wrong answer, at the first token in which they "
        "differ; the mean over the example's wrong answers",
        _HERE + "logit_diff", unit="logits", better="higher", wrong=True,
    ),
    Metric(
        "kl",
        "Kullback-Leibler divergence from the undisturbed model's next-token distribution, mean "
        "over the answer's tokens, in nats",
        _HERE + "kl", unit="nats per token", better="lower", reference=True,
    ),
    Metric(
        "rank", "rank of the answer's tokens among all tokens, 1 the best; their mean",
        _HERE + "rank", unit="rank", better="lower", gradient=False,
    ),
):  # fmt: skip
    METRICS.add(_metric)


def find_metric(metric: str | Callable[..., Any]) -> Metric:
    """Return a metric by name, or a user's function as one.

    Raises:
        ValueError: for an unknown name, with the nearest ones.
        TypeError: for something that can't be called.
    """
    if isinstance(metric, str):
        return METRICS.find(metric)
    if not callable(metric):
        raise InputTypeError(
            f"metric is {metric!r}; give a name of METRICS or a function of logits and item."
        )
    name = getattr(metric, "__name__", type(metric).__name__)
    return Metric(name, "a function of your own", metric, wrong=False, by_item=True)
