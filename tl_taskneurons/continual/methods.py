"""Ways to learn tasks in a row, by name: what a stage trains, and how inputs are answered."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tl_taskneurons.continual.inference import (
    Inference,
    NearestPiece,
    OwnPiece,
    Plain,
    Routed,
    TaskWeighted,
)
from tl_taskneurons.continual.learners import Learner, Piece
from tl_taskneurons.continual.lora_learners import LoraLearner, OrthogonalLearner
from tl_taskneurons.continual.neuron_learner import NeuronLearner
from tl_taskneurons.continual.weight_learners import JointLearner, WeightLearner
from tl_taskneurons.runtime.errors import InputError, did_you_mean

METHODS = {
    "seq-ft": "all weights, one task after another",
    "seq-lora": "one LoRA, one task after another",
    "o-lora": "a new LoRA per task, kept orthogonal to the earlier ones (arXiv 2310.14152)",
    "epi": "a private LoRA per task; the nearest task's is used for each input",
    "replay": "all weights, with 20 examples of each earlier task trained again",
    "ncft": "each task's own neurons (the paper's NCFT)",
    "w-ncft": "NCFT; tasks' changes weighted by their likeness to the input's task, which is told",
    "w-ncft-literal": "the same, weighting the neurons' weights themselves",
    "w-ncft-delta": "the same, weighting what neurons changed since the base model",
    "ncft-strict": "NCFT that never trains a neuron again",
    "ncft-soft": "NCFT with updates scaled down by earlier tasks' relevance",
    "ncft-mass": "NCFT with as many neurons as hold half of the task's relevance",
    "ncft-exclude": "NCFT without the top neurons of earlier tasks",
    "epi-neurons": "private neurons per task; the nearest task's are used for each input",
    "routed": "private neurons per task, mixed for each input by its features",
    "per-task": "all weights, one model per task, which is told (an upper bound)",
    "joint": "all weights, all tasks seen so far mixed (an upper bound)",
}


@dataclass(frozen=True)
class Method:
    """A way to learn tasks in a row.

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

    def before(self, history: Sequence[Piece]) -> Sequence[Piece]:
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
    """
    neurons = NeuronLearner(fraction, score_limit=score_limit)
    weights = WeightLearner()
    made = [
        Method("seq-ft", weights, Plain()),
        Method("seq-lora", LoraLearner(), Plain()),
        Method("o-lora", OrthogonalLearner(), Plain()),
        Method("epi", LoraLearner(), NearestPiece(), private=True),
        Method("replay", WeightLearner(buffer=20), Plain()),
        Method("ncft", neurons, Plain()),
        Method("w-ncft", neurons, TaskWeighted("stages")),
        Method("w-ncft-literal", neurons, TaskWeighted("literal")),
        Method("w-ncft-delta", neurons, TaskWeighted("delta")),
        Method("ncft-strict", replace(neurons, isolation="strict"), Plain()),
        Method("ncft-soft", replace(neurons, isolation="soft"), Plain()),
        Method("ncft-mass", replace(neurons, mass=0.5), Plain()),
        Method("ncft-exclude", replace(neurons, contrast="exclude"), Plain()),
        Method("epi-neurons", neurons, NearestPiece(), private=True),
        Method("routed", neurons, Routed(), private=True),
        Method("per-task", weights, OwnPiece(), private=True),
        Method("joint", JointLearner(), Plain()),
    ]
    for method in made:
        if method.name == name:
            return method
    raise InputError(f"Unknown method {name!r}{did_you_mean(name, tuple(METHODS))}")
