"""The tables of attribution methods and selections, open to one's own. No torch here.

A method that takes data is a function of a ``BatchPass``, called once for each batch; it hands
each layer's scores of each example, ``[batch, d_mlp]``, to ``add``. What it hands over is averaged
over examples (or tokens), shared among processes and cut where memory runs out, for one task or
many. A method without data is a function of the model's view and the ``ScoreSettings``, and
returns ``[layer, d_mlp]``. So does one that needs all examples at once (``whole``): a function of
the view, the examples' ``Item``s, a function that hands every batch's ``BatchPass`` to what it is
given, and the ``Role`` that adds up what several processes found; see ``skill.predictivity``::

    @tn.METHODS.register("largest", "mean over examples of the largest |activation|")
    def largest(run):
        run.watch(lambda layer, activation: run.add(layer, activation.abs().amax(1)))
"""

from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Literal

from tl_taskneurons.runtime.registry import Choice, Registry


@dataclass(frozen=True)
class Method(Choice[Callable[..., Any]]):
    """An attribution method.

    Attributes:
        unit: of its scores.
        signed: whether the scores can keep their sign: what silencing does to the metric.
        over: whether scores are means over ``"examples"`` or ``"tokens"``.
        data: whether it runs the model on examples.
        gradients: whether it takes gradients.
        neurons: whether it scores given neurons only, one at a time.
        first_order: whether its gradients are those of the undisturbed model.
        whole: whether it needs all examples at once, and no example has a score of its own.
        reads_at: where it reads activations when positions are ``"all"``.
        size_last: whether the size is taken of the mean over examples, not of each example.
        cost: about how many forward passes it takes.
    """

    unit: str = ""
    signed: bool = False
    over: Literal["examples", "tokens"] = "examples"
    data: bool = True
    gradients: bool = False
    neurons: bool = False
    whole: bool = False
    reads_at: str = ""
    size_last: bool = False
    first_order: bool = False
    cost: str = "1"

    @property
    def asks(self) -> bool:
        """Whether its scores are effects on a metric, of an ablation."""
        return self.gradients or self.neurons


class Methods(Registry[Method]):
    """The attribution methods by name."""

    def names(self, *, data: bool | None = None, neurons: bool | None = None) -> tuple[str, ...]:
        """Return the names of the methods that take data or not, given neurons or not."""
        return tuple(
            name
            for name in self
            if data in (None, self.find(name).data) and neurons in (None, self.find(name).neurons)
        )


_HERE = "tl_taskneurons.neurons."
METHODS = Methods("method", Method)
for _method in (
    Method(
        "grad_act", "mean over examples of |sum over positions of gradient * activation|, in nats",
        _HERE + "capture:first_order", unit="nats", signed=True, gradients=True, first_order=True,
        cost="1.7",
    ),
    Method(
        "grad_act_abs",
        "mean over examples of the sum over positions of |gradient * activation|",
        _HERE + "capture:first_order_sizes", unit="nats", gradients=True, first_order=True,
        cost="1.7",
    ),
    Method(
        "grad_act_mean",
        "|mean over examples of the summed gradient * activation| (signs cancel)",
        _HERE + "capture:first_order_sums", unit="nats", signed=True, gradients=True,
        size_last=True, first_order=True, cost="1.7",
    ),
    Method(
        "integrated_gradients",
        "gradients along the path from a silent layer, one layer at a time",
        _HERE + "capture:integrated", unit="nats", signed=True, gradients=True,
        cost="about 1.7 * steps * layers / 2",
    ),
    Method(
        "grad_drop",
        "AtP*'s GradDrop: mean size of gradient * activation, one layer's contribution to the "
        "residual stream left out of the gradient at a time",
        _HERE + "grad_drop:grad_drop", unit="nats", gradients=True, first_order=True,
        cost="1.7 * layers",
    ),
    Method(
        "relp",
        "relevance patching: grad_act with coefficients of relevance propagation for gradients",
        _HERE + "relp:relp", unit="nats", signed=True, gradients=True, first_order=True,
        cost="1.7",
    ),
    Method(
        "ig_inputs",
        "gradients along the path from the counterfactual prompt's embeddings (else from zero)",
        _HERE + "paths:from_inputs", unit="nats", signed=True, gradients=True,
        cost="1.7 * steps + 3",
    ),
    Method(
        "exact", "mean over examples of |loss when silenced - loss|, one neuron at a time",
        _HERE + "exact:exact", unit="nats", signed=True, neurons=True, cost="1 for each neuron",
    ),
    Method(
        "activation", "mean over tokens of |activation|", _HERE + "capture:sizes",
        unit="activation", over="tokens",
    ),
    Method(
        "activation_weight",
        "mean over tokens of squared activation * norm of the output weights (Wanda's, squared)",
        _HERE + "capture:wanda", unit="squared norm", over="tokens",
    ),
    Method(
        "frequency", "share of tokens with an activation above 0", _HERE + "capture:frequency",
        unit="share of tokens", over="tokens",
    ),
    Method(
        "skill",
        "predictivity of skill neurons: how often a threshold on the activation at the prompt's "
        "last token tells the class; for classification",
        _HERE + "skill:predictivity", unit="share of examples", whole=True,
        reads_at="last_prompt", cost="2",
    ),
    Method(
        "weight_norm", "norm of the input weights times norm of the output weights; no data",
        _HERE + "capture:weight_norms", unit="norm", data=False, cost="0",
    ),
    Method(
        "random", "uniform random numbers; no data", _HERE + "capture:lottery", data=False,
        cost="0",
    ),
):  # fmt: skip
    METHODS.add(_method)

# Not for choosing neurons: constants to ablate with.
ACTIVATION_MEAN = Method("activation_mean", "mean activation over tokens",
                         _HERE + "capture:plain_activations", over="tokens")  # fmt: skip


@dataclass(frozen=True)
class Ablation(Choice[Callable[..., Any]]):
    """What takes the place of a silenced neuron's activation.

    Its function takes the model's view, the batches and the layers, and returns a function of a
    batch that returns a ``Replacement``.

    Attributes:
        items: where the function is that gives examples a counterfactual prompt, or checks it.
    """

    items: str = ""

    def prepared(self, items: Any, seed: int) -> Any:
        """Return the examples with what the ablation needs of each."""
        return resolve_name(self.items)(items, seed) if self.items else items


_ABLATION = _HERE + "ablation:"
ABLATIONS = Registry("ablation", Ablation)
for _ablation in (
    Ablation("zero", "activation 0 (the paper)", _ABLATION + "by_zero"),
    Ablation(
        "mean", "each neuron's mean activation over the examples' tokens", _HERE + "scoring:by_mean"
    ),
    Ablation(
        "resample", "the activation in the prompt of another example, drawn by the seed",
        _ABLATION + "by_counterfactual", items=_ABLATION + "resampled",
    ),
    Ablation(
        "counterfactual", "the activation in the example's counterfactual prompt",
        _ABLATION + "by_counterfactual", items=_ABLATION + "require_counterfactuals",
    ),
):  # fmt: skip
    ABLATIONS.add(_ablation)


@dataclass(frozen=True)
class Selection(Choice[Callable[..., Any]]):
    """A way to choose each task's neurons.

    Attributes:
        reads: the method whose scores it needs; empty where it takes those of any.
    """

    reads: str = ""


# A contrast takes a task's scores, the others' scores and a fraction, and returns the values that
# are left; a selection takes all tasks' scores and a fraction, and returns all tasks' sets.
CONTRASTS: Registry[Choice[Callable[..., Any]]] = Registry("contrast", Choice)
SELECTIONS: Registry[Selection] = Registry("selection", Selection)
_AGAINST, _SELECTION = _HERE + "contrasts:", _HERE + "selection:"
for _contrast in (
    Choice("exclude", "own score; 0 in the top of any other task", _AGAINST + "excluding"),
    Choice("difference", "own share of scores minus the others' highest", _AGAINST + "difference"),
    Choice("rank", "own rank minus the others' highest", _AGAINST + "rank_difference"),
):
    CONTRASTS.add(_contrast)
for _selection in (
    Selection(
        "plain", "the top of the task's own scores (the paper): what the task can't do without",
        _SELECTION + "plain",
    ),
    Selection(
        "exclusive", "plain, less every neuron in another task's plain set; so fewer neurons",
        _SELECTION + "plain_less_others",
    ),
    Selection(
        "exclude",
        "the top among neurons in no other task's plain set; as many as plain if possible",
        _SELECTION + "by_exclude",
    ),
    Selection(
        "difference", "the top of own share of scores minus the others' highest share",
        _SELECTION + "by_difference",
    ),
    Selection(
        "rank", "the top of own rank minus the others' highest rank", _SELECTION + "by_rank"
    ),
    Selection(
        "lape",
        "of the neurons that fire in fewest tasks (least entropy), those that fire most in this "
        "one; of 'frequency' scores",
        _SELECTION + "by_entropy", reads="frequency",
    ),
):  # fmt: skip
    SELECTIONS.add(_selection)
