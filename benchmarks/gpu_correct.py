"""Part a: the same calls on the device and, in float32, on the CPU; the largest differences."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import tl_taskneurons as tn

# Differences are relative to the largest number in float32 on the CPU. Where the device computes in
# bfloat16 it may differ twice as much as the CPU does in bfloat16.
TOLERANCE = 1e-3
TASK, LIMIT = "mini_film", 16


def against_the_cpu(name: str, dtype: str) -> Callable[[Any], pd.DataFrame]:
    """Return the unit that compares one model in one dtype."""

    def compare(setting: Any) -> pd.DataFrame:
        torch.backends.cuda.matmul.allow_tf32 = False
        exact = results(name, "float32", torch.device("cpu"))
        rounded = exact if dtype == "float32" else results(name, dtype, torch.device("cpu"))
        found = results(name, dtype, setting.device)
        rows = []
        for what, expected in exact.items():
            limit = max(TOLERANCE, 2 * gap(rounded[what], expected))
            error = gap(found[what], expected)
            rows.append(
                {"model": name, "dtype": dtype, "device": str(setting.device), "what": what,
                 "error": error, "limit": limit, "within": error <= limit}
            )  # fmt: skip
        return pd.DataFrame(rows)

    return compare


def gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference, relative to the largest number."""
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-9))


def results(name: str, dtype: str, device: torch.device) -> dict[str, torch.Tensor]:
    """Return what every kind of call gives, on the CPU."""
    model = tn.load_model(name, dtype=dtype, device=str(device))
    task = tn.load_tasks("mini", [TASK])[0]
    scores = tn.score_neurons(model, task, limit=LIMIT)
    # The same neurons everywhere: rounding may order near ties otherwise.
    neurons = tn.NeuronSet.from_pairs(model, [(layer, j) for layer in (0, 2) for j in range(24)])
    means = tn.activation_mean(model, task, limit=LIMIT)

    def losses() -> torch.Tensor:
        frame = tn.evaluate_items(model, task, limit=LIMIT)
        return torch.tensor(frame["loss"].to_numpy(dtype="float64"))

    found = {"scores": scores.values.double(), "loss": losses()}
    with tn.gradient_checkpointing(model):
        checkpointed = tn.score_neurons(model, task, limit=LIMIT)
        found["scores, gradient checkpointing"] = checkpointed.values.double()
    contexts = {
        "deactivate by hooks": lambda: tn.deactivate(model, neurons),
        "deactivate by weights": lambda: tn.deactivate(model, neurons, how="weights"),
        "scale": lambda: tn.scale(model, neurons, 2.0),
        "mean_ablate": lambda: tn.mean_ablate(model, neurons, means),
    }
    for what, context in contexts.items():
        with context():
            found[f"loss, {what}"] = losses()
    plain = tn.evaluate_items(model, task, limit=LIMIT, share_prefix=True)
    found["loss, shared prefix"] = torch.tensor(plain["loss"].to_numpy(dtype="float64"))
    training = tn.Training(lr=1e-3, steps=4, batch_size=8)
    delta = tn.finetune(model, task, neurons, training, limit=32)
    found["training, losses"] = torch.tensor(delta.history["loss"].to_numpy(dtype="float64"))
    with delta.applied(model):
        found["loss, trained"] = losses()
    found["loss, afterwards"] = losses()
    return found


def device_map(setting: Any) -> pd.DataFrame:
    """Compare a model that accelerate spread with one that it did not."""
    task = tn.load_tasks("mini", [TASK])[0]
    spread = "auto" if setting.device.type == "cuda" else {"": "cpu"}
    one = tn.load_model("mini-llama", device=str(setting.device))
    other = tn.load_model("mini-llama", device_map=spread)
    expected = tn.score_neurons(one, task, limit=LIMIT).values
    found = tn.score_neurons(other, task, limit=LIMIT).values
    error = float((found - expected).abs().max() / expected.abs().max())
    return pd.DataFrame([{"what": "scores, device_map", "error": error, "within": error <= 1e-3}])


_TWO = """
import sys, torch, tl_taskneurons as tn
with tn.share_work() as team:
    model = tn.load_model("mini-llama")
    task = tn.load_tasks("mini", ["mini_film"])[0]
    values = tn.score_neurons(model, task, limit=16).values
    if team.leads:
        torch.save(values.cpu(), sys.argv[1])
"""


def two_processes(setting: Any) -> pd.DataFrame:
    """Score in two processes: NCCL where there are two GPUs, gloo on the CPU."""
    n_gpus = torch.cuda.device_count() if setting.device.type == "cuda" else 0
    if setting.device.type == "cuda" and n_gpus < 2:
        return pd.DataFrame([{"what": "scores, two processes", "note": "needs two GPUs"}])
    script, values = Path(setting.out) / "two.py", Path(setting.out) / "two.pt"
    script.write_text(_TWO, encoding="utf-8")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        str(script), str(values),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, text=True)
    task = tn.load_tasks("mini", [TASK])[0]
    expected = tn.score_neurons(tn.load_model("mini-llama"), task, limit=LIMIT).values.cpu()
    found = torch.load(values, weights_only=True)
    error = float((found - expected).abs().max() / expected.abs().max())
    return pd.DataFrame(
        [{"what": "scores, two processes", "error": error, "note": f"{n_gpus} GPUs"}]
    )
