"""What is asked of neurons: which metric, what silencing means, where, in which layers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, Token

from tl_taskneurons.cli.options import listed, offer
from tl_taskneurons.neurons.methods import ABLATIONS, METHODS
from tl_taskneurons.neurons.metrics import METRICS
from tl_taskneurons.runtime.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from tl_taskneurons.models.positions import Positions

_MOST = 10_000  # layers that a model may have
POSITIONS = {
    "all": "every position",
    "answer": "where the answer's tokens are predicted",
    "last_prompt": "the last token of the prompt",
}


def numbers(_type: Any, tokens: Sequence[Token]) -> tuple[int, ...]:
    """Read numbers and ranges with commas between, as ``0-5,8``."""
    found: list[int] = []
    for part in ",".join(token.value for token in tokens).split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None:
            raise InputError(
                f"layers has {part!r}; give numbers and ranges from 0, as --layers 0-5,8."
            )
        first, last = int(match[1][:9]), int((match[2] or match[1])[:9])
        if not first <= last < _MOST:
            raise InputError(
                f"layers has {part!r}; give the lower number first, and none from {_MOST} on."
            )
        found += range(first, last + 1)
    return tuple(dict.fromkeys(found))


Layers = Annotated[
    tuple[int, ...] | None, Parameter(converter=numbers, n_tokens=1, accepts_keys=False)
]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What silencing a neuron means, and what it is to change.

    Attributes:
        layers: only neurons of these layers, as 0-5,8 (default: all).
    """

    metric: Annotated[
        str, Parameter(completer=offer(METRICS), help=f"what neurons act on. {listed(METRICS)}.")
    ] = "loss"
    ablation: Annotated[
        str,
        Parameter(
            completer=offer(ABLATIONS), help=f"what silencing puts in place. {listed(ABLATIONS)}."
        ),
    ] = "zero"
    positions: Annotated[
        str,
        Parameter(
            completer=offer(POSITIONS),
            help=f"where. {listed(POSITIONS)}; or a slice of each text's tokens, as 0:5.",
        ),
    ] = "all"
    layers: Layers = None

    def __post_init__(self) -> None:
        """Refuse unknown names, before any model is loaded."""
        METRICS.find(self.metric)
        ABLATIONS.find(self.ablation)
        self.place  # noqa: B018 - it checks

    @property
    def place(self) -> "Positions":
        """The positions as ``score_neurons`` and ``deactivate`` take them."""
        if self.positions in POSITIONS:
            return self.positions
        if not re.fullmatch(r"(-?\d+)?:(-?\d+)?", self.positions):
            raise InputError(
                f"Unknown positions {self.positions!r}{did_you_mean(self.positions, [*POSITIONS])}"
                " A slice is written with a colon, as 0:5."
            )
        first, last = (int(end) if end else None for end in self.positions.split(":"))
        return slice(first, last)

    def scoring(self, method: str = "grad_act") -> dict[str, Any]:
        """Return the options of ``score_neurons``; a method takes those that mean something to it.

        Raises:
            InputError: for an option that means nothing to the method.
        """
        record, chosen = METHODS.find(method), {}
        if record.data:
            chosen = {"positions": self.place, "layers": self.layers}
        elif (self.positions, self.layers) != ("all", None):
            raise InputError(
                f"Method {method!r} looks at no text, so positions and layers mean nothing to it; "
                "leave them out."
            )
        if record.asks:
            return {"metric": self.metric, "ablation": self.ablation, **chosen}
        if self.metric != "loss":
            raise InputError(
                f"Method {method!r} is no effect on a metric, so metric={self.metric!r} means "
                "nothing to it; use grad_act, say."
            )
        return chosen


def require_silencing(ablation: str) -> None:
    """Refuse what can only be scored with.

    Raises:
        InputError: naming what there is.
    """
    if ablation not in ("zero", "mean"):
        raise InputError(
            f"ablation is {ablation!r}; answers are generated, and several conditions compared, "
            "with 'zero' or 'mean'."
        )
