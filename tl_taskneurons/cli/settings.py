"""What defines a run that finds neurons and silences them. No torch here."""

from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any

from cyclopts import Parameter

from tl_taskneurons.cli.options import (
    Names,
    Source,
    listed,
    offer,
    several,
    usual_shots,
)
from tl_taskneurons.cli.question import Asked
from tl_taskneurons.neurons.methods import METHODS, SELECTIONS
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.options import require_seed
from tl_taskneurons.tasks.prompts import Prompt

SCORED = {name: METHODS[name] for name in METHODS.names(neurons=False)}


@dataclass(frozen=True, kw_only=True)
class Detection(Asked, Source):
    """What defines how neurons are found.

    Attributes:
        tasks: names with commas between, e.g. present_past,city_country.
        method: how neurons are scored; one of ``METHODS``, except "exact".
        fraction: share of all neurons to select, in (0, 1]; 0.10 in the paper.
        selections: some of ``SELECTIONS``.
        shots: solved examples in front of each prompt (default: 4; 0 for the mini models, which
            know bare questions only).
        limit: train examples per task for detection (default: all).
        seed: of the demonstrations and of the method "random".

    Raises:
        InputError: for a value out of its range, or an unknown name (with the nearest names).
    """

    tasks: Names = field()
    method: Annotated[
        str, Parameter(completer=offer(SCORED), help=f"how to score neurons. {listed(SCORED)}.")
    ] = "grad_act"
    fraction: float = 0.01
    selections: Annotated[tuple[str, ...], several(SELECTIONS, "--selection")] = ("plain",)
    shots: int | None = None
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what could not work, before any model is loaded."""
        if not (self.tasks and self.selections):
            raise InputError(
                f"tasks is {self.tasks} and selections is {self.selections}; name at least one."
            )
        if not 0 < self.fraction <= 1:
            raise InputError(
                f"fraction is {self.fraction}; it must be in (0, 1], e.g. 0.10 for 10%."
            )
        Source.__post_init__(self)
        Asked.__post_init__(self)
        check_method(self.method)
        self.scoring(self.method)
        for name in self.selections:
            SELECTIONS.find(name)
        if len(self.tasks) < 2 and set(self.selections) - {"plain"}:
            raise InputError(
                f"Selections {self.selections} compare tasks, but only {self.tasks} is given; "
                "name at least two tasks, or use 'plain'."
            )
        require_at_least(self, shots=0, limit=1)
        require_seed(self.seed)

    @property
    def prompt(self) -> Prompt:
        """The form of the prompts."""
        return Prompt(shots=usual_shots(self.model, self.shots), seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What defines how neurons are judged by silencing them.

    Attributes:
        test_limit: test examples per task (default: all).
        controls: random sets per task, with as many neurons in each layer.
        max_new_tokens: the longest generated answer of tasks that are judged by ROUGE-L.
    """

    test_limit: int | None = None
    controls: int = 5
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        """Refuse what could not work, before any model is loaded."""
        require_at_least(self, controls=1, test_limit=1, max_new_tokens=1)


@dataclass(frozen=True, kw_only=True)
class Settings(Evaluation, Detection):
    """What defines the results of a run: how neurons are found, and how they are judged."""

    def __post_init__(self) -> None:
        """Refuse what could not work, before any model is loaded."""
        Detection.__post_init__(self)
        Evaluation.__post_init__(self)

    def arguments(self, *, deactivate: bool) -> dict[str, Any]:
        """Return what defines the results of detection alone, or of deactivation too."""
        everything = {**asdict(self), "shots": self.prompt.shots}
        if deactivate:
            return everything | {"control_seeds": list(range(self.controls))}
        judged = {field.name for field in fields(Evaluation)}
        return {name: value for name, value in everything.items() if name not in judged}


def check_method(name: str) -> None:
    """Refuse a method that can't score all neurons by itself."""
    if METHODS.find(name).neurons:
        raise InputError(
            f"Method {name!r} silences neurons one by one and needs to be told which; it is for "
            "tl_taskneurons.score_neurons(..., neurons=...) in Python."
        )


def require_at_least(settings: Any, **least: int) -> None:
    """Refuse numbers below their lowest sensible value; None stands for the default."""
    for name, lowest in least.items():
        value = getattr(settings, name)
        if value is not None and value < lowest:
            raise InputError(f"{name} is {value}; it must be at least {lowest}.")
