"""What a training step costs: chosen neurons, all weights, a masked gradient, LoRA.

    python benchmarks/training.py [--model smollm2-135m] [--batch 8] [--tokens 64] [--repeats 5]

Every contender does the same update of the library's loop (gradient, clipping, AdamW, writing the
weights) on the same batch of random tokens whose last 4 tokens are the answer. Times are medians
of runs taken in turn in one process, in seconds of processor time (other work on the machine would
stretch the clock's); read the ratios, not the seconds. Memory is the peak of the
process above what it held after loading (AdamW's state included), each contender in a process of
its own, in MiB. "top" neurons are those of a task, "random" ones lie in all layers alike.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

import tl_taskneurons as tn
from tl_taskneurons.adapters import AllWeights, LoraWeights
from tl_taskneurons.forward import answer_losses, frozen
from tl_taskneurons.model import ModelView
from tl_taskneurons.prompts import Item, make_batches
from tl_taskneurons.results import provenance
from tl_taskneurons.slices import NeuronTrainee
from tl_taskneurons.training_loop import Trainee, adamw, update

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
    (task,) = tn.load_tasks("builtin", [SCORED_TASK])
    return tn.score_neurons(model, task, limit=16).top(fraction=fraction)


def seconds(given: argparse.Namespace) -> dict[str, float]:
    """Median seconds of each contender's step, taken in turn."""
    model = tn.load_model(given.model, device="cpu")
    items = make_items(model, given.batch, given.tokens)
    with ExitStack() as stack:
        runs = {name: contender(name, model, items, stack) for name in NAMES if name != LORA}
        # Adapters change the model's modules, so they get a model of their own.
        other = tn.load_model(given.model, device="cpu")
        runs[LORA] = contender(LORA, other, items, stack)
        times: dict[str, list[float]] = {name: [] for name in NAMES}
        for repeat in range(given.repeats + 1):
            print(f"round {repeat} of {given.repeats}", flush=True)
            for name in NAMES:
                start = time.process_time()
                runs[name]()
                if repeat:  # the first round warms up, and makes AdamW's state
                    times[name].append(time.process_time() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


def peak_mib(given: argparse.Namespace, name: str) -> float:
    """Run two steps of one contender; the peak of this process above the loaded model, in MiB."""
    model = tn.load_model(given.model, device="cpu")
    items = make_items(model, given.batch, given.tokens)
    if "top" in name:
        # Finding the neurons is not training, but its peak would be counted.
        top_neurons(model, 0.1)
    for weight in model.parameters():
        weight.detach().sum()  # weights that still lie in the file come into memory now
    Path("/proc/self/clear_refs").write_text("5")
    before = status_kib("VmRSS")
    with ExitStack() as stack:
        run = contender(name, model, items, stack)
        for _ in range(2):
            run()
    return (status_kib("VmHWM") - before) / 1024


def apart(measure: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process of its own, forked before this one has loaded a model."""
    with get_context("fork").Pool(1) as pool:
        return pool.apply(measure, arguments)


def status_kib(field: str) -> float:
    """A line of the kernel's account of this process, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(field))


def main() -> None:
    """Measure and print a table; write it to benchmarks/results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    medians = apart(seconds, given)
    memory = {}
    for name in NAMES:
        memory[name] = apart(peak_mib, given, name)
        print(f"{name}: {medians[name]:.3f} s, {memory[name]:.0f} MiB", flush=True)
    table = pd.DataFrame({"seconds": medians, "peak MiB": memory})
    for name, short in ((FORWARD, "forward"), (FULL, "all weights"), (LORA, "LoRA")):
        table[f"time / {short}"] = table["seconds"] / medians[name]
    table["peak / all weights"] = table["peak MiB"] / memory[FULL]
    size = f"batch {given.batch} x {given.tokens} tokens, {torch.get_num_threads()} threads"
    print(f"{given.model}, {size}")
    print(table.round(3).to_string())
    out = Path(__file__).parent / "results" / "training.json"
    facts = {key: value for key, value in provenance().items() if key != "time"}
    content = {"arguments": vars(given), "machine": facts, "table": table.to_dict("index")}
    out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
