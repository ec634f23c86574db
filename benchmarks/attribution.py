"""What attribution costs: time against a forward pass, peak memory against a training step.

    python benchmarks/attribution.py [--model smollm2-135m] [--batch 8] [--tokens 64] [--repeats 7]

Times are medians of runs taken in turn in one process; read the ratios, not the seconds. Memory
is the peak of the process above what it held after loading, each contender in a process of its
own, in MiB. The batch is random tokens of equal length whose last 4 tokens are the answer.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import tl_taskneurons as tn
from tl_taskneurons.attribution import score_batches
from tl_taskneurons.forward import frozen
from tl_taskneurons.prompts import Batch
from tl_taskneurons.results import provenance

N_ANSWER = 4


def make_batch(model: Any, n_rows: int, n_tokens: int) -> Batch:
    """Random tokens; the last few are the answer."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(100, model.cfg.d_vocab, (n_rows, n_tokens), generator=generator)
    answer = torch.zeros_like(tokens, dtype=torch.bool)
    answer[:, -N_ANSWER:] = True
    return Batch(tokens, torch.ones_like(answer), answer, tuple(range(n_rows)))


def contenders(model: Any, batch: Batch) -> dict[str, Callable[[], object]]:
    """The functions that are compared, all on the same batch."""
    mask = batch.attention_mask.long()

    def forward() -> None:
        with torch.no_grad():
            model(batch.tokens, attention_mask=mask)

    def training_step() -> None:
        logits = model(batch.tokens, attention_mask=mask)
        targets = batch.tokens[:, -N_ANSWER:]
        predicted = logits[:, -N_ANSWER - 1 : -1].flatten(0, 1)
        torch.nn.functional.cross_entropy(predicted, targets.flatten()).backward()
        model.zero_grad(set_to_none=True)

    def attribution() -> None:
        score_batches(tn.view(model), [batch], "grad_act")

    def activation_floor() -> None:
        """Forward and backward to the first layer's neurons, with no hook that reduces."""
        from tl_taskneurons.forward import answer_losses

        first = tn.view(model).layers[0].hook
        leaf = [(first, lambda act, hook: act.detach().requires_grad_())]  # noqa: ARG005
        with frozen(model), torch.enable_grad(), model.hooks(fwd_hooks=leaf):
            answer_losses(tn.view(model), batch).sum().backward()

    return {
        "forward, all logits": forward,
        "training forward + backward": training_step,
        "activation-only backward, answer logits": activation_floor,
        "attribution (grad_act)": attribution,
    }


def peak_mib(arguments: argparse.Namespace, name: str) -> float:
    """Run one contender twice in a fresh process; its peak above the loaded model."""
    command = [sys.executable, __file__, "--only", name, "--model", arguments.model]
    command += ["--batch", str(arguments.batch), "--tokens", str(arguments.tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure and print a table; write it to benchmarks/results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    given = parser.parse_args()
    model = tn.load_model(given.model)
    batch = make_batch(model, given.batch, given.tokens)
    runs = contenders(model, batch)
    if given.only:
        # The peak of loading (a checkpoint held twice) must not hide what follows.
        Path("/proc/self/clear_refs").write_text("5")
        before = _status_kib("VmRSS")
        for _ in range(2):
            runs[given.only]()
        print(json.dumps((_status_kib("VmHWM") - before) / 1024))
        return
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(given.repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if repeat:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    memory = {name: peak_mib(given, name) for name in runs}
    table = pd.DataFrame(
        {
            "seconds": medians,
            "time / forward": {n: t / medians["forward, all logits"] for n, t in medians.items()},
            "peak MiB": memory,
            "peak / training step": {
                n: m / memory["training forward + backward"] for n, m in memory.items()
            },
        }
    )
    size = f"batch {given.batch} x {given.tokens} tokens, {torch.get_num_threads()} threads"
    print(f"{given.model}, {size}")
    print(table.round(3).to_string())
    out = Path(__file__).parent / "results" / "attribution.json"
    out.parent.mkdir(exist_ok=True)
    facts = {key: value for key, value in provenance().items() if key != "time"}
    arguments = {key: value for key, value in vars(given).items() if key != "only"}
    content = {"arguments": arguments, "machine": facts, "table": table.to_dict("index")}
    out.write_text(json.dumps(content, indent=2) + "\n")


def _status_kib(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return float(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
