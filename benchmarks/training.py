"""What a training step costs: chosen neurons, all weights, a masked gradient, LoRA.

    python benchmarks/training.py [--model smollm2-135m] [--batch 8] [--tokens 64] [--repeats 3]

Every contender does the same update of the library's loop (gradient, clipping, AdamW, writing the
weights) on the same batch of random tokens whose last 4 tokens are the answer. Memory includes
AdamW's state. "top" neurons are those of a task, "random" ones lie in all layers alike.
"""

import importlib.util
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any

import measure
import pandas as pd
import torch
from targets import Target
from torch import Tensor

import tl_taskneurons as tn
from tl_taskneurons.models.forward import answer_losses, frozen
from tl_taskneurons.models.view import ModelView
from tl_taskneurons.tasks.batches import make_batches
from tl_taskneurons.tasks.prompts import Item
from tl_taskneurons.training.full_trainee import AllWeights
from tl_taskneurons.training.loop import Trainee, adamw, update
from tl_taskneurons.training.lora_trainee import LoraWeights
from tl_taskneurons.training.neuron_trainee import NeuronTrainee

N_ANSWER = 4
FULL, LORA, FORWARD = "all weights", "LoRA rank 16", "forward alone"
MASKED = "top neurons 10%, masked gradient"
SHARES = {"1%": 0.01, "10%": 0.1, "30%": 0.3, "100%": 1.0}
NAMES = [
    FORWARD, FULL, MASKED, LORA, *(f"random neurons {share}" for share in SHARES),
    "top neurons 10%",
]  # fmt: skip
SETTINGS = tn.Training(lr=1e-5, weight_decay=0.01)
SCORED_TASK = "present_past"
QUICK_MEMORY = (FULL, "random neurons 10%", "top neurons 10%")


class MaskedWeights(AllWeights):
    """The usual way: every weight has a gradient, and all but the chosen neurons' are zeroed."""

    def __init__(self, model_view: ModelView, neurons: tn.NeuronSet) -> None:
        super().__init__(model_view)
        chosen: dict[int, Tensor] = {}
        for layer in model_view.layers:
            member = neurons.mask[layer.index].float()
            for part in layer.parameters.values():
                shape = [1] * part.parameter.ndim
                shape[part.axis] = len(member)
                chosen[part.parameter.data_ptr()] = member.reshape(shape)
        self._masks = [chosen.get(p.data_ptr(), torch.zeros(())) for p in self.parameters]

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Zero the gradients of what is not chosen after the backward pass."""
        with super().collecting():
            yield
        for parameter, mask in zip(self.parameters, self._masks, strict=True):
            if parameter.grad is not None:
                parameter.grad *= mask


def make_items(model: Any, n_rows: int, n_tokens: int) -> list[Item]:
    """Random tokens; the last few are the answer."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(100, model.cfg.d_vocab, (n_rows, n_tokens), generator=generator).tolist()
    return [
        Item(i, tuple(row[:-N_ANSWER]), tuple(row[-N_ANSWER:]), ()) for i, row in enumerate(rows)
    ]


def contender(name: str, model: Any, items: list[Item], stack: ExitStack) -> Callable[[], object]:
    """Make the function whose cost is measured; what it opens is closed by ``stack``."""
    model_view = tn.view(model)
    if name == FORWARD:
        (batch,) = make_batches(items, token_budget=len(items) * len(items[0]))
        return torch.no_grad()(lambda: answer_losses(model_view, batch))
    trainee = make_trainee(name, model_view, stack)
    optimiser = adamw(trainee.parameters, SETTINGS)
    settings = tn.Training(batch_size=len(items))

    def step() -> None:
        with frozen(model):
            update(model_view, trainee, optimiser, items, settings, SETTINGS.lr)

    return step


def make_trainee(name: str, model_view: ModelView, stack: ExitStack) -> Trainee:
    """What a contender trains."""
    if name == FULL:
        return AllWeights(model_view)
    if name == LORA:
        lora = LoraWeights(model_view, rank=16)
        stack.enter_context(lora.attached())
        return lora
    if name == MASKED:
        return MaskedWeights(model_view, top_neurons(model_view.model, 0.1))
    kind, _, share = name.split()
    if kind == "top":
        return NeuronTrainee(model_view, top_neurons(model_view.model, SHARES[share]))
    scores = tn.score_neurons(model_view, tn.load_tasks("builtin", [SCORED_TASK])[0], "random")
    return NeuronTrainee(model_view, scores.top(fraction=SHARES[share], per_layer=True))


@lru_cache
def top_neurons(model: Any, fraction: float) -> tn.NeuronSet:
    """A real task's neurons."""
    task = measure.real_task(model, SCORED_TASK)
    return tn.score_neurons(model, task, limit=16).top(fraction=fraction)


def measure_times(given: Namespace) -> measure.Times:
    """Time each contender's step in turn; call it in a process of its own."""
    model = tn.load_model(given.model, device="cpu")
    items = make_items(model, given.batch, given.tokens)
    with ExitStack() as stack:
        runs = {name: contender(name, model, items, stack) for name in given.names if name != LORA}
        if LORA in given.names:
            # Adapters change the model's modules, so they get a model of their own.
            other = tn.load_model(given.model, device="cpu")
            runs[LORA] = contender(LORA, other, items, stack)
        # The first round warms up, and makes AdamW's state.
        return measure.in_turn({name: runs[name] for name in given.names}, given.repeats)


def peak_mib(given: Namespace, name: str) -> float:
    """Run two steps of one contender; call it in a process of its own."""
    model = tn.load_model(given.model, device="cpu")
    items = make_items(model, given.batch, given.tokens)
    if "top" in name:
        # Finding the neurons is not training, but its peak would be counted.
        top_neurons(model, 0.1)
    measure.touch(model)
    with ExitStack() as stack:
        return measure.peak_of(lambda: contender(name, model, items, stack))


def targets_of(table: pd.DataFrame, times: measure.Times) -> list[Target]:
    """A step on 10% of the neurons against the usual ways to train."""
    found = []
    for name in ("random neurons 10%", "top neurons 10%"):
        found.append(Target(f"{name} / all weights", measure.ratio(times, name, FULL), 0.75))
        if LORA in times:
            found.append(Target(f"{name} / LoRA", measure.ratio(times, name, LORA), 1.0))
        peak = float(table.loc[name, "peak / all weights"])
        found.append(Target(f"{name} / all weights, peak memory", peak, 0.5))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table; write it to the results."""
    parser = measure.parser(__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    given = measure.parse(parser, argv, model="mini-llama", batch=2, tokens=16)
    left_out = {}
    if importlib.util.find_spec("peft") is None:
        left_out[LORA] = "peft is not installed (pip install -e '.[compare]')"
    given.names = [name for name in NAMES if name not in left_out]
    times = measure.apart(measure_times, given)
    medians, memory = measure.medians(times), {}
    for name in [name for name in given.names if not given.quick or name in QUICK_MEMORY]:
        memory[name] = measure.apart(peak_mib, given, name)
        print(f"  {name}: {memory[name]:.0f} MiB", flush=True)
    table = pd.DataFrame({"seconds": medians, "peak MiB": memory}).loc[given.names]
    for name, short in ((FORWARD, "forward"), (FULL, "all weights"), (LORA, "LoRA")):
        if name in times:
            table[f"time / {short}"] = measure.ratios(times, name)
    table["peak / all weights"] = table["peak MiB"] / memory[FULL]
    print(f"{given.model}, batch {given.batch} x {given.tokens} tokens")
    measure.write(
        measure.result_name("training"), given, table, targets_of(table, times),
        left_out=left_out, rounds=times,
    )  # fmt: skip


if __name__ == "__main__":
    main()
