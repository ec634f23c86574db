"""The command ``plan``: memory and time of a job, before it is run."""

from dataclasses import dataclass, field
from typing import Annotated

from tl_taskneurons.cli.options import Flat, Names, Source, duration, usual_shots
from tl_taskneurons.cli.settings import require_at_least
from tl_taskneurons.loading.tasks import load_tasks
from tl_taskneurons.runtime.console import console, table
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.tasks.prompts import Prompt, encode

_EXAMPLE = """\
example:
  tl-taskneurons plan --model smollm2-135m --tasks present_past --limit 48
  tl-taskneurons plan --model meta-llama/Llama-2-7b-hf --data hub --tasks mnli \\
      --limit 1000 --dtype bfloat16 --device cuda --token-budget 8192

Runs a model of the same widths with two and with six layers and random weights on this machine: \
the weights themselves are not needed, and not downloaded.
"""


@dataclass(frozen=True, kw_only=True)
class Planned(Source):
    """The job.

    Attributes:
        tasks: names with commas between, e.g. present_past,city_country.
        limit: train examples per task (default: all).
        shots: solved examples in a prompt (default: 4; 0 for the mini models).
        fraction: share of neurons to train.
        steps: updates.
        batch_size: examples in an update.
        token_budget: the most tokens in a batch of detection (default: what suits the device).
    """

    tasks: Names = field()
    limit: int | None = None
    shots: int | None = None
    fraction: float = 0.10
    steps: int = 100
    batch_size: int = 8
    token_budget: int | None = None

    def __post_init__(self) -> None:
        """Refuse what could not work, before any model is built."""
        require_at_least(self, shots=0, limit=1, steps=1, batch_size=1, token_budget=1)
        if not 0 < self.fraction <= 1:
            raise InputError(f"fraction is {self.fraction}; it must be in (0, 1].")


def plan(job: Annotated[Planned, Flat]) -> None:
    """Predict the memory and time of detection, evaluation and training."""
    tasks = load_tasks(job.data, job.tasks)
    from tl_taskneurons.experiments.costs import Load
    from tl_taskneurons.experiments.costs import plan as costs_of
    from tl_taskneurons.loading.huggingface import find_source, read_config

    config, tokenizer = read_config(find_source(job.model))
    n_ctx = getattr(config, "max_position_embeddings", None)
    prompt = Prompt(shots=usual_shots(job.model, job.shots))
    for task in tasks:
        encoded = encode(
            task, tokenizer, split="train", prompt=prompt, limit=job.limit, max_length=n_ctx
        )
        load = Load(job.token_budget, job.batch_size, job.steps, job.fraction)
        costs = costs_of(
            config, encoded.items, load, dtype=job.dtype, device=job.device, kind=job.kind
        )
        title = f"{job.model}, {job.dtype}: {task.name}, {len(encoded.items)} examples"
        headings = ("job", "batches", "tokens", "tokens/s", "time", "weights", "peak", "memory")
        rows = [
            (
                cost.job, f"{cost.n_batches:,}", f"{cost.n_tokens:,}",
                f"{cost.n_tokens / cost.seconds:,.0f}", duration(cost.seconds),
                _size(cost.weights), _size(cost.peak), _size(cost.memory),
            )
            for cost in costs
        ]  # fmt: skip
        made = table(title, headings, rows)
        for column in made.columns:
            column.no_wrap = column.justify == "left"
        console().print(made)


COMMANDS = {plan: _EXAMPLE}


def _size(n_bytes: int) -> str:
    mib = n_bytes / 2**20
    return f"{mib:.0f} MiB" if mib < 1000 else f"{mib / 1024:.1f} GiB"
