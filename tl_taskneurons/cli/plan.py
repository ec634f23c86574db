"""The command ``plan``: memory and time of a job, before it is run."""

import argparse
from typing import Any

from rich.console import Console
from rich.table import Table

from tl_taskneurons.cli.costs import Cost, plan
from tl_taskneurons.cli.options import add_sources, duration, shots_of
from tl_taskneurons.loading.huggingface import find_source, read_config
from tl_taskneurons.loading.tasks import load_tasks
from tl_taskneurons.tasks.prompts import Prompt, encode

_EXAMPLE = """\
example:
  tl-taskneurons plan --model smollm2-135m --tasks present_past --limit 48
  tl-taskneurons plan --model meta-llama/Llama-2-7b-hf --data hub --tasks mnli --limit 1000 \\
      --dtype bfloat16 --device cuda --token-budget 8192

Runs a model of the same widths with two and with six layers and random weights on this machine:
the weights themselves are not needed, and not downloaded.
"""


def add_plan_command(commands: Any) -> None:
    """Add the command to the command line's parser."""
    about = "predict the memory and time of detection, evaluation and training"
    sub = commands.add_parser(
        "plan", help=about, description=about.capitalize() + ".", epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    sub.set_defaults(command=_plan)
    sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
    add_sources(sub, required=True)
    sub.add_argument("--limit", type=int, help="train examples per task (default: all)")
    sub.add_argument("--shots", type=int, help="solved examples in a prompt (default: 4)")
    sub.add_argument("--fraction", type=float, default=0.10, help="share of neurons to train")
    sub.add_argument("--steps", type=int, default=100, help="updates (default: %(default)s)")
    sub.add_argument(
        "--batch-size", type=int, default=8, help="examples in an update (default: %(default)s)"
    )
    sub.add_argument(
        "--token-budget", type=int,
        help="the most tokens in a batch of detection (default: what suits the device)",
    )  # fmt: skip


def _plan(options: argparse.Namespace) -> int:
    config, tokenizer = read_config(find_source(options.model))
    console = Console()
    n_ctx = getattr(config, "max_position_embeddings", None)
    for task in load_tasks(options.data, options.tasks):
        encoded = encode(
            task, tokenizer, split="train", prompt=Prompt(shots=shots_of(options)),
            limit=options.limit, max_length=n_ctx,
        )  # fmt: skip
        costs = plan(
            config, encoded.items, token_budget=options.token_budget, steps=options.steps,
            batch_size=options.batch_size, fraction=options.fraction, dtype=options.dtype,
            device=options.device, kind=options.kind,
        )  # fmt: skip
        title = f"{options.model}, {options.dtype}: {task.name}, {len(encoded.items)} examples"
        console.print(_table(title, costs))
    return 0


def _table(title: str, costs: list[Cost]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in ("job", "batches", "tokens", "tokens/s", "time", "weights", "peak", "memory"):
        left = heading == "job"
        table.add_column(heading, justify="left" if left else "right", no_wrap=left)
    for cost in costs:
        table.add_row(
            cost.job, f"{cost.n_batches:,}", f"{cost.n_tokens:,}",
            f"{cost.n_tokens / cost.seconds:,.0f}", duration(cost.seconds), _size(cost.weights),
            _size(cost.peak), _size(cost.memory),
        )  # fmt: skip
    return table


def _size(n_bytes: int) -> str:
    mib = n_bytes / 2**20
    return f"{mib:.0f} MiB" if mib < 1000 else f"{mib / 1024:.1f} GiB"
