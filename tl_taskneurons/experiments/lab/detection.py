"""Which neurons are whose: scores of the base and of the tuned model, and sets chosen by them."""

from collections.abc import Sequence

from tl_taskneurons.experiments.lab.lab import Lab, scores_result
from tl_taskneurons.experiments.lab.states import State
from tl_taskneurons.experiments.lab.store import Result, Unit
from tl_taskneurons.neurons.attribution import score_neurons
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.selection import select
from tl_taskneurons.neurons.sets import NeuronSet


def scores(
    lab: Lab, state: State, sample: int = 0, names: Sequence[str] | None = None
) -> dict[str, NeuronScores]:
    """Each task's scores in a state, on one sample of its training examples; None takes all."""
    results = {name: _result(lab, state, name, sample) for name in (names or lab.tasks.names)}
    key = ("scores", *(result.digest for result in results.values()))
    return lab.once(key, lambda: {name: lab.store.get(each) for name, each in results.items()})


def task_sets(
    lab: Lab,
    state: State,
    *,
    sample: int = 0,
    selection: str = "plain",
    fraction: float | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, NeuronSet]:
    """Each task's neurons; the share is the plan's where it isn't given."""
    share = lab.plan.fraction if fraction is None else fraction
    return select(scores(lab, state, sample, names), selection, share)


def detection_units(
    lab: Lab, state: State, samples: int = 1, names: Sequence[str] | None = None
) -> list[Unit]:
    """The work of finding neurons on so many samples, of all tasks where none are named."""
    flops = 4 * lab.n_parameters * lab.plan.n_detect
    return [
        lab.store.unit(
            f"find {name}",
            _result(lab, state, name, sample),
            flops * lab.tokens(lab.tasks[name]),
        )
        for sample in range(samples)
        for name in (names or lab.tasks.names)
    ]


def _result(lab: Lab, state: State, name: str, sample: int) -> Result[NeuronScores]:
    limit = lab.plan.n_detect

    def compute() -> NeuronScores:
        task = lab.sampled(name, sample)
        with state.enter() as model:
            return score_neurons(model, task, prompt=lab.plan.prompt, limit=limit)

    key = {
        **state.key,
        "found on": lab.examples(name, n_train=limit, sample=sample),
        "asked": lab.prompt_key,
    }
    return scores_result(lab, key, compute)
