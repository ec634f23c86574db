"""Reading a delta of any kind back from its file."""

import os

from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.tensor_files import stored_kind
from tl_taskneurons.training.deltas.base import Delta
from tl_taskneurons.training.deltas.lora import LoraDelta
from tl_taskneurons.training.deltas.neurons import NeuronDelta
from tl_taskneurons.training.deltas.weights import WeightDelta

KINDS: dict[str, type[Delta]] = {
    kind.__name__: kind for kind in (NeuronDelta, WeightDelta, LoraDelta)
}


def load_delta(path: str | os.PathLike[str]) -> Delta:
    """Read a delta that its ``save`` wrote, of whichever kind it is.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a damaged file, or one that holds something else.
    """
    kind = stored_kind(path)
    if kind not in KINDS:
        raise InputError(
            f"{path} holds no delta (it holds {kind or 'nothing of ours'}); deltas are "
            f"{', '.join(KINDS)}."
        )
    return KINDS[kind].load(path)
