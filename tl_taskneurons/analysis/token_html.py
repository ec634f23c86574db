"""Texts whose tokens are coloured by a number, as HTML that needs nothing else."""

from collections.abc import Sequence
from html import escape

# Orange above zero, blue below: colour-blind readers tell them apart, and as a tint under the
# page's own text colour they work on light and on dark pages.
_ABOVE, _BELOW = "213, 94, 0", "0, 114, 178"
_STRONGEST = 0.65


def coloured_tokens(
    tokens: Sequence[str],
    values: Sequence[float],
    *,
    unit: str = "",
    answer_from: int | None = None,
) -> str:
    """Return a text as spans, each tinted by its value and with the value as tooltip.

    Args:
        tokens: the tokens' texts.
        values: one number for each; the largest in magnitude gets the full tint.
        unit: follows the number in the tooltip.
        answer_from: tokens from here on are the answer, and underlined.
    """
    peak = max((abs(value) for value in values), default=0.0)
    spans = []
    for place, (token, value) in enumerate(zip(tokens, values, strict=True)):
        style = tint(value, peak)
        if answer_from is not None and place >= answer_from:
            style += ";border-bottom:2px solid"
        title = escape(f"{token!r}: {value:+.4g} {unit}".strip(), quote=True)
        spans.append(f'<span style="{style}" title="{title}">{escape(visible(token))}</span>')
    return "".join(spans)


def token_list(effects: Sequence[tuple[str, float]]) -> str:
    """Return tokens as small boxes, each with its number as tooltip."""
    style = "padding:0 .3em;border:1px solid rgba(128,128,128,.5);border-radius:.3em"
    return " ".join(
        f'<code title="{effect:+.4g}" style="{style};white-space:pre">'
        f"{escape(visible(token))}</code>"
        for token, effect in effects
    )


def tint(value: float, peak: float) -> str:
    """Return the CSS of a value's background: none at 0, strongest at ``peak``."""
    alpha = _STRONGEST * abs(value) / peak if peak > 0 else 0.0
    return f"background:rgba({_ABOVE if value >= 0 else _BELOW},{alpha:.2f})"


def visible(token: str) -> str:
    """Return a token's text with its line breaks and tabs as signs."""
    return token.replace("\n", "\u21b5").replace("\t", "\u21e5")
