"""Neurons, sets and scores as callers give them: what has one meaning is taken, the rest is told.

A list of ``(layer, neuron)`` pairs is a set; sets or scores in a list are known by their names.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from tl_taskneurons.models.view import ModelView, require_same_model
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.sets import NeuronSet
from tl_taskneurons.runtime.errors import InputError, InputTypeError

T = TypeVar("T", NeuronSet, NeuronScores)

Neurons = NeuronSet | Iterable[tuple[int, int]]
Sets = Mapping[str, NeuronSet] | Iterable[NeuronSet]
Scores = Mapping[str, NeuronScores] | Iterable[NeuronScores] | NeuronScores

_INSTEAD = {
    NeuronSet: "Give a dict of names to sets, e.g. from select(scores), or a list of sets.",
    NeuronScores: (
        "Give a dict of names to scores, e.g. from score_tasks(model, tasks), or a list of scores."
    ),
}


def neuron_set(model_view: ModelView, neurons: Neurons) -> NeuronSet:
    """Return neurons of a model as a set.

    Args:
        model_view: the model.
        neurons: a set, or ``(layer, neuron)`` pairs.

    Raises:
        TypeError: for something else.
        ValueError: for neurons of another model, or outside this one.
    """
    if isinstance(neurons, NeuronSet):
        require_same_model(repr(neurons), neurons.fingerprint, model_view)
        if tuple(neurons.mask.shape) != model_view.shape:
            raise InputError(
                f"The mask of {neurons!r} has shape {tuple(neurons.mask.shape)}; "
                f"{model_view.name} needs {model_view.shape}."
            )
        return neurons
    if isinstance(neurons, NeuronScores):
        raise InputTypeError(
            f"{neurons!r} are scores of all neurons; choose some of them, as "
            "scores.top(fraction=0.01)."
        )
    if isinstance(neurons, Mapping):
        raise InputTypeError(
            f"neurons is a {type(neurons).__name__} of {list(neurons)[:5]}; give one of its sets, "
            "as sets['NAME']."
        )
    return NeuronSet.from_pairs(model_view.model, neurons)


def named_sets(given: Sets) -> dict[str, NeuronSet]:
    """Return sets by name.

    Raises:
        TypeError: for something else than sets; the message says what to give.
        ValueError: for sets in a list that have no names of their own.
    """
    return _named(given, NeuronSet)


def named_scores(given: Scores) -> dict[str, NeuronScores]:
    """Return scores by name; raises as ``named_sets`` does."""
    return _named(given, NeuronScores)


def _named(given: Any, cls: type[T]) -> dict[str, T]:
    if isinstance(given, cls):
        given = [given]
    kind = cls.__name__
    if isinstance(given, str | bytes | NeuronSet | NeuronScores) or not isinstance(given, Iterable):
        raise InputTypeError(f"Expected {kind} by name, got {_short(given)}. {_INSTEAD[cls]}")
    if isinstance(given, Mapping):
        for name, one in given.items():
            if not isinstance(one, cls):
                raise InputTypeError(
                    f"Under the name {name!r} there is {_short(one)}, no {kind}. {_INSTEAD[cls]}"
                )
        return dict(given)
    members = list(given)
    for place, one in enumerate(members):
        if not isinstance(one, cls):
            raise InputTypeError(f"Number {place} is {_short(one)}, no {kind}. {_INSTEAD[cls]}")
    names = [one.name for one in members]
    if "" in names or len(set(names)) < len(names):
        raise InputError(
            f"The {kind} in the list are named {names}; names must be there and differ. Give a "
            "dict of names, or rename them."
        )
    return dict(zip(names, members, strict=True))


def _short(value: Any) -> str:
    text = repr(value)
    shown = text if len(text) <= 80 else f"{text[:77]}..."
    return (
        shown
        if isinstance(value, NeuronSet | NeuronScores)
        else (f"{shown} ({type(value).__name__})")
    )
