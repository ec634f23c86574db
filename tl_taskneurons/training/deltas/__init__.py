"""What training changed, as an object: apply it, undo it, save it, merge it into a model."""

from tl_taskneurons.training.deltas.base import Delta
from tl_taskneurons.training.deltas.lora import LoraDelta
from tl_taskneurons.training.deltas.neurons import NeuronDelta
from tl_taskneurons.training.deltas.storage import load_delta
from tl_taskneurons.training.deltas.weights import WeightDelta

__all__ = ["Delta", "LoraDelta", "NeuronDelta", "WeightDelta", "load_delta"]
