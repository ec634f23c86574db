"""How much memory a piece of work needed at its peak."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


class Peak:
    """The highest memory use of a ``with peak_memory(device) as peak`` block.

    Attributes:
        mib: MiB; NaN while the block runs, and on a system that doesn't tell.
    """

    mib: float = float("nan")


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure a block: on a GPU what PyTorch had allocated, else what the whole process held.

    Linux alone can measure a block on the CPU.
    """
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.mib = torch.cuda.max_memory_allocated(device) / 2**20
        return
    measurable = os.access(_RESET, os.W_OK)
    if measurable:
        with suppress(OSError):
            _RESET.write_text("5")  # starts the process's high-water mark anew
    yield peak
    if measurable:
        lines = _STATUS.read_text().splitlines()
        peak.mib = next(int(ln.split()[1]) for ln in lines if ln.startswith("VmHWM")) / 2**10
