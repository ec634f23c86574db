"""What several commands of the command line have in common."""

import argparse
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path

from tl_taskneurons.builtin.mini_models import mini_model_names
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.runtime.sharing import is_launched, share_work


def add_sources(
    sub: argparse.ArgumentParser, *, required: bool, tasks_required: bool | None = None
) -> None:
    """Add the arguments that say which model and which tasks.

    Args:
        sub: the command's parser.
        required: whether the command needs a model, which then has a default.
        tasks_required: whether it needs tasks; None means as ``required``.
    """
    sub.add_argument(
        "--model", default="smollm2-135m" if required else None,
        help="smollm2-135m, mini-llama or another mini model, a Hugging Face id or folder, or a "
        ".gguf file"
        + (" (default: %(default)s)" if required else "; left out, only tasks are shown"),
    )  # fmt: skip
    sub.add_argument(
        "--kind", default="bridge", choices=("bridge", "hooked"),
        help="TransformerBridge, or HookedTransformer (TransformerLens 3.9 only)",
    )  # fmt: skip
    sub.add_argument(
        "--tasks", type=names, required=required if tasks_required is None else tasks_required,
        default=None,
        help="names with commas between, e.g. present_past,city_country",
    )  # fmt: skip
    sub.add_argument(
        "--data", default="builtin",
        help="'builtin', 'mini', or a folder with your own tasks (default: %(default)s)",
    )  # fmt: skip
    sub.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16")
    sub.add_argument(
        "--device", help="cpu, cuda, cuda:1 ... (default: the first GPU, else the CPU)"
    )


def names(text: str) -> tuple[str, ...]:
    """Split names at commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def shots_of(options: argparse.Namespace) -> int:
    """The demonstrations to put into prompts: as asked for, else what suits the model."""
    if options.shots is not None:
        return options.shots
    return 0 if options.model.lower() in mini_model_names() else 4


def duration(seconds: float) -> str:
    """Write a time in its own unit."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def shared(options: argparse.Namespace) -> Iterator[None]:
    """Work with the other processes where torchrun started several; the first one prints."""
    if not is_launched():
        yield
        return
    if not options.shares:
        raise InputError(
            "this command works in one process; call it without torchrun (detect, deactivate, "
            "finetune, apply and continual share their work)."
        )
    with share_work(options.device) as team, ExitStack() as stack:
        if not team.leads:
            nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(nowhere))
        yield
