"""Ways to learn tasks one after another, by name. No torch.

A way of your own, for ``run_sequence``, the tables and the command line alike:

    @METHODS.register("replay-200", "all weights, with 200 examples of each earlier task")
    def replay_200(neurons: NeuronLearner) -> Method:
        return Method("replay-200", WeightLearner(buffer=200), Plain())
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from tl_taskneurons.runtime.registry import Choice, Registry

if TYPE_CHECKING:
    from tl_taskneurons.continual.method import Method
    from tl_taskneurons.continual.neuron_learner import NeuronLearner

# Each function takes the learner that chooses neurons, with the share and the number of scored
# examples that were asked for, and returns the method.
METHODS: "Registry[Choice[Callable[[NeuronLearner], Method]]]" = Registry("method", Choice)

for _name, _says in {
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
}.items():
    METHODS.add(Choice(_name, _says, f"tl_taskneurons.continual.builtin:{_name.replace('-', '_')}"))
