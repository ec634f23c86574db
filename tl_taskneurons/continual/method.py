"""What a way to learn tasks one after another consists of, and how to find one by its name."""

from dataclasses import dataclass

from tl_taskneurons.continual.inference import Inference
from tl_taskneurons.continual.learners import History, Learner
from tl_taskneurons.continual.methods import METHODS
from tl_taskneurons.continual.neuron_learner import NeuronLearner
from tl_taskneurons.runtime.errors import InputTypeError
from tl_taskneurons.runtime.options import plain


@dataclass(frozen=True)
class Method:
    """A way to learn tasks one after another.

    Attributes:
        name: for tables.
        learner: what is trained at a stage.
        inference: with which weights inputs are answered.
        private: whether every stage starts from the base model, as if it were the first.
    """

    name: str
    learner: Learner
    inference: Inference
    private: bool = False

    def before(self, history: History) -> History:
        """Return the stages that a new one builds on."""
        return () if self.private else history


def find_method(name: str, fraction: float = 0.10, score_limit: int = 100) -> Method:
    """Return a method with its defaults.

    Args:
        name: one of ``METHODS``.
        fraction: share of all neurons that a task gets, for the methods that choose neurons.
        score_limit: these choose by the scores of at most so many training examples.

    Raises:
        ValueError: for an unknown name, with the nearest names; for a fraction or limit out of
            range.
        TypeError: when what was registered under the name returns no ``Method``.
    """
    learner = NeuronLearner(plain(fraction), score_limit=plain(score_limit))
    made = METHODS.find(name).function(learner)
    if not isinstance(made, Method):
        raise InputTypeError(
            f"The method {name!r} was registered with a function that returns a "
            f"{type(made).__name__}; return a Method."
        )
    return made
