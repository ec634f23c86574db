"""Which neurons of a compiled program its inputs make use of, read off labels and the program.

A program compiled by Tracr has neurons of known meaning: each reads and writes directions of the
residual stream that carry labels, "sum:3" for "the variable sum is 3". What a variable is on an
input, the interpreter of the program says. No neuron is silenced to find the truth.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

# Of a variable: its value at each position of an input.
Values = Mapping[str, Callable[[Sequence[str]], Sequence[object]]]
BOS_LABEL, CONSTANT = "tokens:BOS", "one"


@dataclass(frozen=True)
class Wires:
    """The labels that a neuron reads and writes."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]


def needed(
    wires: Sequence[Wires], variables: Values, inputs: Sequence[Sequence[str]]
) -> list[bool | None]:
    """Say of each neuron of an MLP whether inputs need it.

    A neuron that reads "x is 2" and "y is 1" is needed where both hold somewhere; one that reads a
    number steps a variable from one value to the next, and is needed where the variable gets so
    far; one that reads the constant always is. Positions that predict nothing, the last of an
    input, don't count: what happens at them alone is left open.

    Returns:
        None for neurons that write nothing, and for those left open.
    """
    found: list[bool | None] = []
    for wire in wires:
        if not wire.writes:
            found.append(None)
            continue
        anywhere = False
        before_the_end = False
        for one in inputs:
            active = _active(wire, wires, variables, one)
            anywhere |= any(active)
            before_the_end |= any(active[:-1])
        found.append(None if anywhere and not before_the_end else before_the_end)
    return found


def _active(
    wire: Wires, wires: Sequence[Wires], variables: Values, one: Sequence[str]
) -> list[bool]:
    """Where on an input a neuron fires, the opening token aside."""
    conditions = [label for label in wire.reads if label != CONSTANT]
    if not conditions:
        return [True] * len(one)
    if BOS_LABEL in conditions:
        return [False] * len(one)
    named = [label for label in conditions if _split(label)[0] in variables and ":" in label]
    if len(named) == len(conditions):
        rows = [
            [str(value) == _split(label)[1] for value in variables[_split(label)[0]](one)]
            for label in named
        ]
        return [all(column) for column in zip(*rows, strict=True)]
    return _stepped(wire, wires, variables, one)


def _stepped(
    wire: Wires, wires: Sequence[Wires], variables: Values, one: Sequence[str]
) -> list[bool]:
    """Where a neuron moves a variable on, from the value that is there without any step."""
    variable = _split(wire.writes[0])[0]
    between = [float(_split(label)[1]) for label in wire.writes]
    starts = [
        float(_split(other.writes[0])[1])
        for other in wires
        if other.reads == (CONSTANT,) and _split(other.writes[0])[0] == variable
    ]
    down = not starts or max(starts) >= max(between)
    values = [float(str(value)) for value in variables[variable](one)]
    if down:
        return [value <= min(between) for value in values]
    return [value >= max(between) for value in values]


def _split(label: str) -> tuple[str, str]:
    variable, _, value = label.rpartition(":")
    return variable or value, value


def area_under_roc(scores: Sequence[float], truth: Sequence[bool]) -> float:
    """Return how often a needed neuron scores above one that isn't; ties count half."""
    above = [s for s, true in zip(scores, truth, strict=True) if true]
    below = [s for s, true in zip(scores, truth, strict=True) if not true]
    if not above or not below:
        return float("nan")
    wins = sum((a > b) + (a == b) / 2 for a in above for b in below)
    return wins / (len(above) * len(below))
