"""Part b: a Llama-2-7b shape with random weights in bfloat16; tiny: a mini shape in float32.

Tokens per second, the share of the card's own matrix peak (measured first, not from a data sheet),
and peak memory above the weights.
"""

import gc
import time
from collections.abc import Callable
from typing import Any

import large
import pandas as pd
import torch

from tl_taskneurons.experiments import costs
from tl_taskneurons.models.forward import answer_losses
from tl_taskneurons.models.view import view
from tl_taskneurons.runtime.memory import peak_of_tensors
from tl_taskneurons.tasks.batches import make_batches

ROUNDS = 3


def matrix_peak(setting: Any) -> pd.DataFrame:
    """Measure the fastest bfloat16 matrix product of the card."""
    rows = []
    for size in (256, 512) if setting.tiny else (4096, 8192, 16384):
        a, b = (torch.randn(size, size, device=setting.device, dtype=_dtype(setting)) for _ in "ab")
        seconds = fastest(lambda a=a, b=b: a @ b, setting.device, rounds=10)
        rows.append({"size": size, "seconds": seconds, "tflops": 2 * size**3 / seconds / 1e12})
    return pd.DataFrame(rows)


def detection(setting: Any) -> pd.DataFrame:
    """Measure detection, and evaluation as it is and with a tenth of the neurons silenced."""
    import tl_taskneurons as tn

    config, model_view = _model(setting)
    peak = matrix_peak(setting)["tflops"].max() * 1e12
    neurons = tn.score_neurons(model_view.model, _no_task(), "random").top(fraction=0.1)
    rows = []
    for tokens, length in (
        ((256, 32),) if setting.tiny else ((8192, 512), (16384, 512), (32768, 512))
    ):
        items = large.items_of(config, tokens // length, length)
        for what in ("detection", "evaluation"):
            job = costs.Job(what, items, costs.Load(tokens, steps=1))
            rows.append(
                _row(what, tokens, job.runner(model_view), setting, job.largest,
                     large.operations(config, what), peak)
            )  # fmt: skip
        (batch,) = make_batches(items, token_budget=tokens)
        batch = batch.to(setting.device)
        forwards = large.operations(config, "evaluation")
        with tn.deactivate(model_view.model, neurons), torch.no_grad():
            rows.append(
                _row("evaluation, 10% silenced", tokens,
                     lambda b=batch: answer_losses(model_view, b), setting, tokens, forwards, peak)
            )  # fmt: skip
        rows.append(_backward(model_view, batch, setting, tokens))
    return pd.DataFrame(rows)


def training(setting: Any) -> pd.DataFrame:
    """Measure a training step of 1% and 10% of the neurons, of LoRA and of all weights."""
    config, model_view = _model(setting)
    length, batch_size = (32, 4) if setting.tiny else (512, 8)
    items = large.items_of(config, batch_size, length)
    rows = []
    for fraction in (0.01, 0.1):
        job = costs.Job("training", items, costs.Load(None, batch_size, 1, fraction))
        rows.append(_row(f"training {fraction:.0%} of the neurons", job.largest,
                         job.runner(model_view), setting, job.largest))  # fmt: skip
    hf = model_view.model.original_model
    tokens = torch.tensor([item.prompt + item.answer for item in items], device=setting.device)
    for what, prepare in (("LoRA, rank 16", _lora), ("all weights, AdamW", _everything)):
        try:
            step = prepare(hf, tokens)
            rows.append(_row(what, tokens.numel(), step, setting, tokens.numel()))
        except torch.OutOfMemoryError:
            rows.append({"what": what, "tokens": tokens.numel(), "note": "does not fit"})
        step = None
        gc.collect()
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()
    return pd.DataFrame(rows)


def plan(setting: Any) -> pd.DataFrame:
    """Compare what ``plan`` foresees from a few layers with what the whole model takes."""
    config = _config(setting)
    tokens, length = (256, 32) if setting.tiny else (8192, 512)
    items = large.items_of(config, 2 * tokens // length, length)
    load = costs.Load(tokens, steps=1, fraction=large.FRACTION)
    dtype = str(_dtype(setting)).removeprefix("torch.")
    foreseen = costs.plan(config, items, load, dtype=dtype, device=str(setting.device))
    _, model_view = _model(setting)
    jobs = {name: costs.Job(name, items, load) for name in costs.JOBS}
    found = large.measured(model_view, jobs, ROUNDS)
    rows = []
    for cost in foreseen:
        seconds, peak = found[cost.job]
        total = seconds * jobs[cost.job].n_tokens / jobs[cost.job].largest
        rows.append(
            {"job": cost.job, "planned_seconds": cost.seconds, "seconds": total,
             "planned_peak_gib": cost.peak / 2**30, "peak_gib": peak / 2**30,
             "seconds_ratio": cost.seconds / total, "peak_ratio": cost.peak / peak}
        )  # fmt: skip
    return pd.DataFrame(rows)


def fastest(run: Callable[[], object], device: torch.device, rounds: int = ROUNDS) -> float:
    """Return the seconds of the fastest round, after one that warms up."""
    best = float("inf")
    for turn in range(rounds + 1):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        if turn:
            best = min(best, time.perf_counter() - start)
    return best


def _row(
    what: str, tokens: int, run: Callable[[], object], setting: Any, n_tokens: int,
    operations: float = float("nan"), peak: float = float("nan"),
) -> dict[str, Any]:  # fmt: skip
    """Time and memory of a piece of work; ``operations`` for a token, ``peak`` of the card."""
    with peak_of_tensors(setting.device) as held:
        run()
        run()
    seconds = fastest(run, setting.device)
    return {
        "what": what, "tokens": tokens, "seconds": seconds, "tokens_per_s": n_tokens / seconds,
        "share_of_peak": operations * n_tokens / seconds / peak, "peak_gib": held.bytes / 2**30,
    }  # fmt: skip


def _backward(model_view: Any, batch: Any, setting: Any, tokens: int) -> dict[str, Any]:
    """Memory of one training forward and backward, which detection's is compared with."""

    def run() -> None:
        with torch.enable_grad():
            answer_losses(model_view, batch).sum().backward()
        for parameter in model_view.model.parameters():
            parameter.grad = None

    try:
        return _row("forward and backward of all weights", tokens, run, setting, tokens)
    except torch.OutOfMemoryError:
        return {"what": "forward and backward of all weights", "note": "does not fit"}


def _lora(hf: Any, tokens: torch.Tensor) -> Callable[[], object]:
    import peft

    target = ["up_proj", "gate_proj", "down_proj", "q_proj", "k_proj", "v_proj", "o_proj"]
    settings = peft.LoraConfig(r=16, target_modules=_names(hf, target))
    adapted = peft.inject_adapter_in_model(settings, hf)
    chosen = [p for name, p in adapted.named_parameters() if "lora_" in name]
    return _step(adapted, chosen, tokens)


def _names(hf: Any, ends: list[str]) -> list[str]:
    """Full names of the matrices; a bridge has wrapped them."""
    return [
        name for name, module in hf.named_modules()
        if isinstance(module, torch.nn.Linear) and any(f".{end}" in f".{name}" for end in ends)
    ]  # fmt: skip


def _everything(hf: Any, tokens: torch.Tensor) -> Callable[[], object]:
    return _step(hf, [p for name, p in hf.named_parameters() if "lora_" not in name], tokens)


def _step(model: Any, parameters: list[Any], tokens: torch.Tensor) -> Callable[[], object]:
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(parameters, lr=1e-5)

    def step() -> None:
        logits = model(tokens).logits[:, -5:-1].float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, -4:].flatten())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def _config(setting: Any) -> Any:
    return large.config_of("mini" if setting.tiny else "llama-2-7b")


def _dtype(setting: Any) -> torch.dtype:
    return torch.float32 if setting.tiny else torch.bfloat16


def _model(setting: Any) -> tuple[Any, Any]:
    config = _config(setting)
    dtype = str(_dtype(setting)).removeprefix("torch.")
    return config, view(costs.random_model(config, dtype, setting.device))


def _no_task() -> Any:
    import tl_taskneurons as tn

    return tn.task_from_dicts(
        "none", [{"input": each, "target": "b"} for each in "acd"], metric="loss"
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
