"""How many kernels and synchronisations each job needs for a layer and for a batch, by theory.

    python benchmarks/launches.py

On a GPU a small kernel costs its launch, and a synchronisation makes the processor wait until all
launched work is done. Both can be counted without one: every operation that writes memory is taken
for a kernel, and every operation whose result the processor reads (``item``, ``nonzero``, a boolean
index, ...) for a synchronisation. Models of one width with two and with four layers, and jobs of
one and of two batches, give by difference what a layer and what a batch adds. The last column
counts reads of a tensor by Python itself (``tolist``, ``numpy``, ``cpu``), of which those of
tensors that never leave the processor, such as the tokens of the examples, cost nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import measure
import pandas as pd
import torch
from large import items_of
from targets import Target
from torch.utils._python_dispatch import TorchDispatchMode

import tl_taskneurons as tn
from tl_taskneurons.experiments.costs import random_model, with_layers
from tl_taskneurons.models.forward import answer_losses
from tl_taskneurons.models.view import ModelView, view
from tl_taskneurons.neurons.scoring import score_batches
from tl_taskneurons.tasks.batches import make_batches

_LAYERS, _BATCHES, _LENGTH, _EACH = (2, 4), (1, 2), 16, 4
_READ_BY_PROCESSOR = {
    "_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "_unique2",
    "unique_dim", "unique_consecutive",
}  # fmt: skip
_NO_KERNEL = {"detach", "empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view"}
_READERS = ("tolist", "numpy", "cpu")


class Launches(TorchDispatchMode):
    """Counts operations by name while it is entered: ``kernels``, ``waits``."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Count one operation and run it."""
        name = func.overloadpacket.__name__
        if name in _READ_BY_PROCESSOR or (name.startswith("index") and _has_mask(args)):
            self.waits[name] += 1
        if not func.is_view and name not in _NO_KERNEL:
            self.kernels[name] += 1
        return func(*args, **(kwargs or {}))


def _has_mask(args: Any) -> bool:
    indices = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()
    return any(isinstance(one, torch.Tensor) and one.dtype == torch.bool for one in indices)


@contextmanager
def reads() -> Iterator[list[str]]:
    """Note each call of a tensor's methods that hand its values to Python."""
    found: list[str] = []
    kept = {name: getattr(torch.Tensor, name) for name in _READERS}

    def noted(name: str) -> Callable[..., Any]:
        def call(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            found.append(name)
            return kept[name](tensor, *args, **kwargs)

        return call

    try:
        for name in _READERS:
            setattr(torch.Tensor, name, noted(name))
        yield found
    finally:
        for name, method in kept.items():
            setattr(torch.Tensor, name, method)


def count(run: Callable[[], object]) -> tuple[int, int, int]:
    """Return the kernels, the synchronisations and the reads of one call."""
    run()
    with reads() as found, Launches() as launches:
        run()
    return launches.kernels.total(), launches.waits.total(), len(found)


def jobs(model_view: ModelView, n_batches: int, config: Any) -> dict[str, Callable[[], object]]:
    """Return each job as a function that does it once."""
    items = items_of(config, n_batches * _EACH, _LENGTH)
    batches = list(make_batches(items, token_budget=_EACH * _LENGTH))
    assert len(batches) == n_batches
    neurons = tn.score_neurons(model_view.model, _nothing(), "random").top(fraction=0.1)

    def training_pass() -> None:
        for batch in batches:
            answer_losses(model_view, batch).sum().backward()
        model_view.model.zero_grad()

    @torch.no_grad()
    def forward() -> None:
        for batch in batches:
            answer_losses(model_view, batch)

    def silenced() -> None:
        with tn.deactivate(model_view.model, neurons):
            forward()

    return {
        "a training forward and backward": training_pass,
        "detection": lambda: score_batches(model_view, batches, "grad_act"),
        "evaluation": forward,
        "evaluation, 10% silenced": silenced,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Count, print and write the table."""
    given = measure.parse(measure.parser(__doc__), argv)
    rows = {}
    for kind in ("bridge", "hooked"):
        if kind == "hooked" and measure.tl_major() >= 4:
            continue
        counted: dict[tuple[int, int, str], tuple[int, int, int]] = {}
        for n_layers in _LAYERS:
            config = with_layers(_config(), n_layers)
            model_view = view(random_model(config, "float32", torch.device("cpu"), kind))
            for n_batches in _BATCHES:
                for job, run in jobs(model_view, n_batches, config).items():
                    counted[n_layers, n_batches, job] = count(run)
        for job in dict.fromkeys(key[2] for key in counted):
            rows[f"{job} ({kind})"] = _differences(counted, job)
    table = pd.DataFrame(rows).T
    # One names the example whose loss is not finite; TransformerBridge asks the mask once.
    targets = [
        Target(
            f"waits per batch: {name}",
            float(row["waits per batch"]),
            2.0 if "bridge" in name else 1.0,
        )
        for name, row in ((str(name), row) for name, row in table.iterrows())
        if not name.startswith("a training")
    ]
    measure.write(measure.result_name("launches"), given, table, targets)


def _differences(
    counted: dict[tuple[int, int, str], tuple[int, int, int]], job: str
) -> dict[str, float]:
    (few, many), (one, two) = _LAYERS, _BATCHES
    small, deep, twice = (counted[k, n, job] for k, n in ((few, one), (many, one), (few, two)))
    return {
        "kernels per layer": (deep[0] - small[0]) / (many - few),
        "kernels per batch, 2 layers": twice[0] - small[0],
        "waits per layer": (deep[1] - small[1]) / (many - few),
        "waits per batch": twice[1] - small[1],
        "reads per batch": twice[2] - small[2],
    }


def _config() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=64, intermediate_size=176, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=128, max_position_embeddings=256,
    )  # fmt: skip


def _nothing() -> tn.Task:
    rows = [{"input": each, "target": "b"} for each in "acd"]
    return tn.task_from_dicts("none", rows, metric="loss")


if __name__ == "__main__":
    main()
