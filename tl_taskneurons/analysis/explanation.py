"""What is known about a neuron in a task, and how it shows: in Jupyter, as text, as a table."""

from dataclasses import dataclass
from html import escape

import pandas as pd

from tl_taskneurons.analysis.lens import TokenEffects
from tl_taskneurons.analysis.token_html import coloured_tokens, token_list, visible


@dataclass(frozen=True)
class ExplainedExample:
    """A neuron's activation and relevance at every token of one example.

    Attributes:
        index: position of the example in its split.
        tokens: the tokens' texts: instruction, demonstrations, the example itself, its answer.
        own: where the example itself begins; what comes before is the same in all examples.
        answer: where the answer begins.
        activations: the neuron's activation at each token.
        relevances: gradient * activation at each token, in nats of the answer's loss. Below 0 the
            neuron helps there: to first order, silencing it would raise the loss by as much.
    """

    index: int
    tokens: tuple[str, ...]
    own: int
    answer: int
    activations: tuple[float, ...]
    relevances: tuple[float, ...]

    @property
    def peak(self) -> int:
        """The example's own token where the activation is largest in magnitude."""
        own = range(self.own, len(self.tokens))
        return max(own, key=lambda place: abs(self.activations[place]))

    @property
    def activation(self) -> float:
        """The activation largest in magnitude among the example's own tokens."""
        return self.activations[self.peak]

    @property
    def relevance(self) -> float:
        """The sum of the relevances, in nats; its magnitude counts for the neuron's score."""
        return sum(self.relevances)


@dataclass(frozen=True)
class NeuronExplanation:
    """What a neuron does in a task.

    Shown as coloured texts in Jupyter; ``to_frame`` gives a table.

    Attributes:
        model: the model's name.
        neuron: ``(layer, j)``.
        task: the task's name.
        split: where the examples come from.
        n_seen: how many examples the neuron was watched on.
        score: mean over them of |sum of relevances|, in nats: what ``score_neurons`` gives.
        by: what the examples are ranked by, ``"activation"`` or ``"relevance"``.
        examples: the top examples, highest first.
        effects: the tokens its output weights promote and suppress.
    """

    model: str
    neuron: tuple[int, int]
    task: str
    split: str
    n_seen: int
    score: float
    by: str
    examples: tuple[ExplainedExample, ...]
    effects: TokenEffects

    @property
    def promoted(self) -> tuple[tuple[str, float], ...]:
        """Tokens that the output weights promote most, with their effects (``lens``)."""
        return self.effects.promoted

    @property
    def suppressed(self) -> tuple[tuple[str, float], ...]:
        """Tokens that the output weights suppress most, with their effects."""
        return self.effects.suppressed

    def to_frame(self) -> pd.DataFrame:
        """Return a row per example: ``example, text, answer, activation, at_token, relevance``."""
        return pd.DataFrame(
            [
                {
                    "example": shown.index,
                    "text": "".join(shown.tokens[shown.own : shown.answer]).strip(),
                    "answer": "".join(shown.tokens[shown.answer :]).strip(),
                    "activation": shown.activation,
                    "at_token": shown.tokens[shown.peak],
                    "relevance": shown.relevance,
                }
                for shown in self.examples
            ]
        )

    def __repr__(self) -> str:
        lines = [f"Neuron {self.neuron} of {self._where()}"]
        for what, tokens in (("promotes", self.promoted), ("suppresses", self.suppressed)):
            lines.append(f"  {what}: " + " ".join(repr(token) for token, _ in tokens))
        for shown in self.examples:
            text = visible("".join(shown.tokens[shown.own :]))
            lines.append(
                f"  {shown.activation:+.3g} at {shown.tokens[shown.peak]!r}, "
                f"relevance {shown.relevance:+.3g}: {text}"
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        parts = [
            '<div style="line-height:1.7;max-width:62em">',
            f"<p><b>Neuron {self.neuron}</b> of {escape(self._where())}</p>",
            f"<p>Promotes {token_list(self.promoted)}</p>",
            f"<p>Suppresses {token_list(self.suppressed)}</p>",
        ]
        of_activation = self.by == "activation"
        unit = "" if of_activation else "nats"
        for shown in self.examples:
            values = shown.activations if of_activation else shown.relevances
            coloured = coloured_tokens(
                shown.tokens[shown.own :], values[shown.own :], unit=unit,
                answer_from=shown.answer - shown.own,
            )  # fmt: skip
            parts.append(
                f'<p style="margin:.4em 0"><small>#{shown.index}, activation '
                f"{shown.activation:+.3g}, relevance {shown.relevance:+.3g} nats</small><br>"
                f"{coloured}</p>"
            )
        what = "activation" if of_activation else "gradient * activation in nats"
        parts.append(
            f"<p><small>Tint: {what}, orange above 0 and blue below; the number shows when you "
            "point at a token. The answer is underlined.</small></p></div>"
        )
        return "".join(parts)

    def _where(self) -> str:
        return (
            f"{self.model} on {self.task} ({self.split}, {self.n_seen} examples), "
            f"score {self.score:.4g} nats"
        )
