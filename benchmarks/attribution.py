"""What scoring all neurons costs, against a forward pass and against other ways to do it.

    python benchmarks/attribution.py [--model smollm2-135m] [--examples 12] [--repeats 3]

The examples are a real task's, with none to four demonstrations, so lengths are mixed. Batches
hold examples of similar length, padded on the right, and every contender gets the same ones at the
batch size that is fastest for it. Memory is compared at this library's batch size, except for the
contenders that take one example at a time. Contenders of the kind "same" compute the same scores,
and are checked to. A rival that isn't here is left out with the reason.
"""

import importlib.util
import math
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import measure
import pandas as pd
import rivals
import torch
from rivals import Score, Work
from targets import Target
from torch import Tensor

import tl_taskneurons as tn
from tl_taskneurons.loading.huggingface import find_source, read_source
from tl_taskneurons.models.forward import answer_losses, frozen
from tl_taskneurons.neurons.scoring import score_batches
from tl_taskneurons.tasks.batches import Batch, make_batches
from tl_taskneurons.tasks.prompts import Item, Prompt, encode

TASK, SHOTS = "present_past", (0, 1, 2, 4)
# Of the highest score; float32 sums in another order differ by about 1e-5 of it.
TOLERANCE = 1e-4
OURS, FORWARD, NOTEBOOK = "tl_taskneurons", "forward, all logits", "notebook way"
TRAINING, FLOOR = "training forward + backward", "floor"
QUICK_MEMORY = (TRAINING, OURS)


@dataclass(frozen=True)
class Contender:
    """One way to do it.

    Attributes:
        score: the function; its result is compared where ``kind`` is ``"same"``.
        kind: ``"same"`` for the same scores, ``"unit"`` to measure by, ``"other"`` for a rival
            that computes something else.
        needs: the package that it needs.
        batches: whether it takes more than one example at a time.
        tl: the TransformerLens version that has it; 0 for any.
    """

    score: Score
    kind: str
    needs: str = ""
    batches: bool = True
    tl: int = 0

    def missing(self, work_model: str) -> str:
        """Say why it cannot run here; empty where it can."""
        if self.tl and measure.tl_major() != self.tl:
            return f"needs TransformerLens {self.tl}"
        if self.needs and importlib.util.find_spec(self.needs) is None:
            return f"{self.needs} is not installed (pip install -e '.[bench]')"
        if self.needs == "nnsight" and "bloom" in work_model:
            return "written for the modules of Llama models"
        return ""


def forward(work: Work, batches: Sequence[Batch]) -> None:
    """Run the model and keep nothing."""
    with torch.no_grad():
        for batch in batches:
            rivals.run_model(work, batch)


def training_step(work: Work, batches: Sequence[Batch]) -> None:
    """Gradients of all weights, logits at all positions."""
    for batch in batches:
        rivals.losses_of(rivals.run_model(work, batch), batch).sum().backward()
        work.view.model.zero_grad(set_to_none=True)


def floor(work: Work, batches: Sequence[Batch]) -> None:
    """Back to the first layer's neurons, parameters frozen, answer logits only, no scores."""
    first = work.view.layers[0].hook
    leaf = [(first, lambda act, hook: act.detach().requires_grad_())]  # noqa: ARG005
    with frozen(work.view.model), torch.enable_grad(), work.view.model.hooks(fwd_hooks=leaf):
        for batch in batches:
            answer_losses(work.view, batch).sum().backward()


def ours(work: Work, batches: Sequence[Batch]) -> Tensor:
    """Score with the library."""
    return score_batches(work.view, batches, "grad_act")


CONTENDERS = {
    FORWARD: Contender(forward, "unit"),
    TRAINING: Contender(training_step, "unit"),
    FLOOR: Contender(floor, "unit"),
    OURS: Contender(ours, "same"),
    NOTEBOOK: Contender(rivals.notebook, "same", batches=False),
    "captum": Contender(rivals.captum, "same", "captum"),
    "captum, answer logits": Contender(rivals.captum_answers, "same", "captum"),
    "nnsight": Contender(rivals.nnsight, "same", "nnsight"),
    "nnsight, frozen": Contender(rivals.nnsight_frozen, "same", "nnsight"),
    "TL 4 cache_activation_and_gradient": Contender(rivals.tl4_cache, "same", tl=4),
    "TL 4 attribution_patch": Contender(rivals.tl4_patch, "other", batches=False, tl=4),
}


def make_work(given: Namespace, names: Sequence[str]) -> Work:
    """Load what some contenders need."""
    hf = None
    if any(CONTENDERS[name].needs == "nnsight" for name in names):
        _, hf, _ = read_source(find_source(given.model), torch.float32, with_tokenizer=False)
        hf.eval()
        measure.touch(hf)
    view = tn.view(tn.load_model(given.model, device="cpu"))
    measure.touch(view.model)
    return Work(view, hf)


def make_items(work: Work, n: int) -> list[Item]:
    """Real examples of mixed lengths, from short to long."""
    task = measure.real_task(work.view.model, TASK)
    items: list[Item] = []
    for k, shots in enumerate(SHOTS):
        count = len(range(k, n, len(SHOTS)))
        if count:
            items += encode(
                task, work.view.model.tokenizer, split="train", prompt=Prompt(shots=shots),
                limit=count, max_length=work.view.n_ctx,
            ).items  # fmt: skip
    return sorted(items, key=len)


def batches_of(items: Sequence[Item], size: int) -> list[Batch]:
    """Pad ``size`` examples at a time."""
    groups = [items[i : i + size] for i in range(0, len(items), size)]
    return [batch for group in groups for batch in make_batches(group, token_budget=10**9)]


def sizes_of(name: str, given: Namespace) -> list[int]:
    """Return the batch sizes that a contender is tried at."""
    if not CONTENDERS[name].batches:
        return [1]
    return [size for size in given.sizes if size <= given.examples]


def measure_times(given: Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Return each contender's best batch size, its seconds, and how far its scores are off."""
    work = make_work(given, names)
    items = make_items(work, given.examples)
    runs: dict[str, Callable[[], object]] = {}
    best: dict[str, int] = {}
    scores: dict[str, Tensor | None] = {}
    for name in names:
        print(f"  batch sizes: {name}", flush=True)
        best[name], scores[name] = best_size(work, items, name, given)
        score, batches = CONTENDERS[name].score, batches_of(items, best[name])
        runs[name] = lambda s=score, b=batches: s(work, b)
    times = measure.in_turn(runs, given.repeats, warm_up=0)
    # One example at a time without padding, the plainest way, is what the others are checked by.
    plain = NOTEBOOK if NOTEBOOK in names else OURS
    apart = {name: _difference(scores[name], scores[plain]) for name in names if _is_same(name)}
    return {"times": times, "best": best, "difference": apart, "tokens": [len(i) for i in items]}


def best_size(
    work: Work, items: Sequence[Item], name: str, given: Namespace
) -> tuple[int, Tensor | None]:
    """Try a contender at each batch size; return the fastest one, and its scores there."""
    score = CONTENDERS[name].score
    score(work, batches_of(items, 1)[:1])  # the first call imports and allocates
    tried: dict[int, float] = {}
    scores: dict[int, Tensor | None] = {}
    for size in sizes_of(name, given):
        batches = batches_of(items, size)
        tried[size] = measure.timed(lambda b=batches, n=size: scores.update({n: score(work, b)}))
    best = min(tried, key=tried.__getitem__)
    return best, scores[best]


def _is_same(name: str) -> bool:
    return CONTENDERS[name].kind == "same"


def _difference(scores: Any, reference: Tensor) -> float:
    """The largest difference, as a share of the highest score."""
    return float((scores - reference).abs().max() / reference.max())


def peak_mib(given: Namespace, name: str, size: int) -> float:
    """Run a contender on the longest batch; call it in a process of its own."""
    work = make_work(given, [name])
    batches = batches_of(make_items(work, given.examples), size)[-1:]
    run = CONTENDERS[name].score
    return measure.peak_of(lambda: lambda: run(work, batches), runs=1)


def targets_of(table: pd.DataFrame, times: measure.Times) -> list[Target]:
    """Return what this benchmark is held to."""
    found = [Target("attribution / forward", measure.ratio(times, OURS, FORWARD), 2.3)]
    if NOTEBOOK in table.index:
        faster = measure.ratio(times, NOTEBOOK, OURS)
        found.append(Target("notebook way / attribution", faster, 3.0, at_least=True))
    plain = NOTEBOOK if NOTEBOOK in table.index else OURS
    for name in filter(_is_same, table.index):
        if name not in (OURS, NOTEBOOK):
            found.append(Target(f"attribution / {name}", measure.ratio(times, OURS, name), 1.0))
        if name != plain:
            off = float(table.loc[name, "difference"])
            found.append(Target(f"scores: {name}, off {plain}", off, TOLERANCE))
    if TRAINING in table.index:
        peak = float(table.loc[OURS, "peak / training"])
        found.append(Target("peak memory / training forward + backward", peak, 1.05))
    return found


def default_names() -> list[str]:
    """All contenders; under TransformerLens 4 only those that 3.9 doesn't have, and the units."""
    if measure.tl_major() < 4:
        return list(CONTENDERS)
    return [
        name for name, one in CONTENDERS.items() if one.tl or one.kind == "unit" or name == OURS
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table; write it to the results."""
    parser = measure.parser(__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--examples", type=int, default=12)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 4, 12])
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=None)
    given = measure.parse(parser, argv, model="mini-llama", examples=4, sizes=[1, 4])
    wanted = {FORWARD, OURS, *(given.contenders or default_names())}
    wanted = [name for name in CONTENDERS if name in wanted]
    missing = {name: CONTENDERS[name].missing(given.model) for name in wanted}
    names = [name for name in wanted if not missing[name]]
    measured = measure.apart(measure_times, given, names)
    times, best = measured["times"], measured["best"]
    for name, in_forwards in measure.ratios(times, FORWARD).items():
        print(f"  {name}: {in_forwards:.2f} forward passes, batch {best[name]}", flush=True)
    memory = {}
    for name in [name for name in names if not given.quick or name in QUICK_MEMORY]:
        size = best[OURS] if CONTENDERS[name].batches else 1
        memory[name] = measure.apart(peak_mib, given, name, size)
        print(f"  {name}: {memory[name]:.0f} MiB", flush=True)
    table = pd.DataFrame(
        {
            "seconds": measure.medians(times),
            "batch": best,
            "time / forward": measure.ratios(times, FORWARD),
            "time / ours": measure.ratios(times, OURS),
            "peak MiB": memory,
            "peak / training": {n: m / memory.get(TRAINING, math.nan) for n, m in memory.items()},
            "difference": measured["difference"],
        }
    ).loc[names]
    left_out = {name: reason for name, reason in missing.items() if reason}
    tokens = measured["tokens"]
    print(f"{given.model}: {len(tokens)} examples of {tokens[0]} to {tokens[-1]} tokens, "
          f"{sum(tokens)} in all; memory at batch {best[OURS]}")  # fmt: skip
    for name, reason in left_out.items():
        print(f"  left out: {name}: {reason}")
    measure.write(
        measure.result_name("attribution"), given, table, targets_of(table, times),
        tolerance=TOLERANCE, tokens=tokens, left_out=left_out, rounds=times,
        kinds={name: CONTENDERS[name].kind for name in names},
    )  # fmt: skip


if __name__ == "__main__":
    main()
