"""What a job will cost on this machine: memory and time, found by running a few of its layers.

A model of the same widths with two layers and one with six are made with random weights and run on
the largest batch of the task. Time and memory grow linearly with the layers, so two sizes give both
the cost of a layer and that of the rest (embedding, logits, loss).
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pandas as pd
import torch

from tl_taskneurons.loading.models import as_dtype, load_model
from tl_taskneurons.models.forward import answer_losses, frozen
from tl_taskneurons.models.view import ModelView, view
from tl_taskneurons.neurons.scores import NeuronScores
from tl_taskneurons.neurons.scoring import score_batches
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.memory import peak_of_tensors
from tl_taskneurons.tasks.batches import make_batches, token_budget_for
from tl_taskneurons.tasks.prompts import Item
from tl_taskneurons.training.loop import adamw, update
from tl_taskneurons.training.neuron_trainee import NeuronTrainee
from tl_taskneurons.training.settings import Training

JOBS = ("evaluation", "detection", "training")
# From two layers on each further one adds the same. The sizes should not be close: the line through
# them goes on to the whole model, and an error in their difference grows on the way.
_SIZES = (2, 6)


@dataclass(frozen=True)
class Load:
    """How large batches are and how much is trained.

    Attributes:
        token_budget: the most tokens in a batch of detection and evaluation; None suits the
            device, as in ``score_neurons``.
        batch_size: examples in an update.
        steps: updates of the chosen neurons.
        fraction: share of the neurons that are trained, as many in each layer.

    Raises:
        ValueError: when a number is below 1.
    """

    token_budget: int | None = None
    batch_size: int = 8
    steps: int = 100
    fraction: float = 0.10

    def __post_init__(self) -> None:
        for name in ("batch_size", "steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give 1 or more.")


@dataclass(frozen=True)
class Cost:
    """What one job takes.

    Attributes:
        job: one of ``JOBS``.
        n_batches: batches of the whole job; updates, for training.
        n_tokens: tokens of the whole job, padding included.
        seconds: for the whole job.
        weights: bytes of the model's weights.
        peak: bytes above the weights in the largest batch.
    """

    job: str
    n_batches: int
    n_tokens: int
    seconds: float
    weights: int
    peak: int

    @property
    def memory(self) -> int:
        """Bytes that the job needs, weights included."""
        return self.weights + self.peak


def plan(
    config: Any,
    items: Sequence[Item],
    load: Load = Load(),
    *,
    dtype: str = "float32",
    device: str | None = None,
    kind: str = "bridge",
    repeats: int = 2,
) -> list[Cost]:
    """Predict what it costs to score neurons on a task's examples, to evaluate, and to train.

    No weights are needed: only the shape of the model counts. Evaluation means one pass over the
    examples with their answers; a label of several tokens, or a generated answer, takes more.

    Args:
        config: the model's Hugging Face config.
        items: the tokenised examples of the task.
        load: how large batches are and how much is trained.
        dtype: of the weights.
        device: where it will run; by default the first GPU, else the CPU.
        kind: the class of the model, see ``load_model``.
        repeats: runs of each size; the fastest counts.

    Returns:
        One entry for each of ``JOBS``.

    Raises:
        ValueError: when there are no items, a number is below 1, the dtype is unknown, or the
            model's class is not supported.
    """
    if not items:
        raise InputError("There are no examples to plan for; give the task's items.")
    if repeats < 1:
        raise InputError(f"repeats is {repeats}; give 1 or more.")
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    load = replace(load, token_budget=token_budget_for(where, load.token_budget))
    n_layers = int(config.num_hidden_layers)
    sizes = sorted({min(size, n_layers) for size in _SIZES})
    runs = {job: Job(job, items, load) for job in JOBS}
    views = [view(random_model(with_layers(config, size), dtype, where, kind)) for size in sizes]
    measured = {job: run.measure(views, repeats) for job, run in runs.items()}
    del views
    weights = n_weights(config) * as_dtype(dtype).itemsize
    costs = []
    for job, run in runs.items():
        seconds = _at(n_layers, sizes, [found[0] for found in measured[job]])
        peak = _at(n_layers, sizes, [float(found[1]) for found in measured[job]])
        total = seconds * run.n_tokens / run.largest
        costs.append(Cost(job, run.n_batches, run.n_tokens, total, weights, round(peak)))
    return costs


def frame(costs: Sequence[Cost]) -> pd.DataFrame:
    """Return costs as a table: ``job, batches, tokens, seconds, tokens_per_s``, and GiB."""
    return pd.DataFrame(
        [
            {
                "job": cost.job, "batches": cost.n_batches, "tokens": cost.n_tokens,
                "seconds": cost.seconds, "tokens_per_s": cost.n_tokens / cost.seconds,
                "weights_gib": cost.weights / 2**30, "peak_gib": cost.peak / 2**30,
                "memory_gib": cost.memory / 2**30,
            }
            for cost in costs
        ]
    )  # fmt: skip


def n_weights(config: Any) -> int:
    """Count a model's weights without making them."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(weight.numel() for weight in model.parameters())


def with_layers(config: Any, n_layers: int) -> Any:
    """Return a copy of a config with fewer layers."""
    changed = copy.deepcopy(config)
    before = int(config.num_hidden_layers)
    changed.num_hidden_layers = n_layers
    # Some configs say for each layer what it is.
    if len(getattr(config, "layer_types", None) or ()) == before:
        changed.layer_types = config.layer_types[:n_layers]
    return changed


class Job:
    """The work of one job: its pieces, and the largest of them.

    Attributes:
        n_batches: pieces of the whole job.
        n_tokens: tokens of the whole job, padding included.
        largest: tokens of the largest piece.
    """

    def __init__(self, name: str, items: Sequence[Item], load: Load) -> None:
        self._name, self._fraction = name, load.fraction
        if name == "training":
            longest = sorted(items, key=_length, reverse=True)[: load.batch_size]
            self._items, self.n_batches = longest, load.steps
            self.largest = len(longest) * _length(longest[0])
            self.n_tokens = round(load.steps * _mean_tokens(items, len(longest)))
            return
        assert load.token_budget is not None
        batches = list(make_batches(items, token_budget=load.token_budget))
        self._batch = max(batches, key=lambda batch: batch.tokens.numel())
        self.largest = self._batch.tokens.numel()
        self.n_tokens = sum(batch.tokens.numel() for batch in batches)
        self.n_batches = len(batches)

    def measure(self, views: Sequence[ModelView], repeats: int) -> list[tuple[float, int]]:
        """Return the seconds and the peak, in bytes, of the largest piece in each model.

        The models take turns, so that a slow moment of the machine is none of one size alone.
        """
        runners = [self.runner(model_view) for model_view in views]
        peaks = []
        for model_view, run in zip(views, runners, strict=True):
            with peak_of_tensors(model_view.device) as peak:
                run()  # warms up, and makes the optimiser's state
                run()
            peaks.append(peak.bytes)
        best = [float("inf")] * len(views)
        for _ in range(repeats):
            for k, (model_view, run) in enumerate(zip(views, runners, strict=True)):
                best[k] = min(best[k], _timed(run, model_view.device))
        return list(zip(best, peaks, strict=True))

    def runner(self, model_view: ModelView) -> Callable[[], object]:
        """Return a function that does the largest piece once."""
        if self._name == "detection":
            return lambda: score_batches(model_view, [self._batch], "grad_act")
        if self._name == "evaluation":
            batch = self._batch.to(model_view.device)
            return torch.no_grad()(lambda: answer_losses(model_view, batch))
        return self._training_step(model_view)

    def _training_step(self, model_view: ModelView) -> Callable[[], object]:
        generator = torch.Generator().manual_seed(0)
        values = torch.rand(
            model_view.shape, generator=generator, device="cpu", dtype=torch.float32
        )
        scores = NeuronScores(values, model_view.fingerprint, "plan", "random")
        neurons = scores.top(fraction=self._fraction, per_layer=True)
        settings = Training(lr=1e-5, batch_size=len(self._items))
        made: list[tuple[NeuronTrainee, torch.optim.Optimizer]] = []

        def step() -> None:
            if not made:  # the masters and AdamW's state belong to the peak
                trainee = NeuronTrainee(model_view, neurons)
                made.append((trainee, adamw(trainee.parameters, settings)))
            trainee, optimiser = made[0]
            with frozen(model_view.model):
                update(model_view, trainee, optimiser, self._items, settings, settings.lr)

        return step


def random_model(config: Any, dtype: str, device: torch.device, kind: str = "bridge") -> Any:
    """Make a model of a config's shape with random weights, where it will run.

    Args:
        config: a Hugging Face config.
        dtype: of the weights.
        device: where to make it.
        kind: see ``load_model``.
    """
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(), device:
        hf = AutoModelForCausalLM.from_config(config, dtype=as_dtype(dtype))
    return load_model(hf, kind=kind, dtype=dtype, device=device)


def _length(item: Item) -> int:
    return len(item) + len(item.end)


def _mean_tokens(items: Sequence[Item], batch_size: int) -> float:
    """Tokens of an update on average, padding included."""
    random = Random(0)
    lengths = [_length(item) for item in items]
    drawn = [max(random.sample(lengths, batch_size)) for _ in range(200)]
    return batch_size * sum(drawn) / len(drawn)


def _timed(run: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _at(n_layers: int, sizes: Sequence[int], values: Sequence[float]) -> float:
    """Go on in a straight line through two sizes."""
    if len(sizes) == 1:
        return values[0]
    slope = (values[1] - values[0]) / (sizes[1] - sizes[0])
    return max(values[-1], values[0] + slope * (n_layers - sizes[0]))
