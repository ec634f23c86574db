"""How much memory a piece of work takes, and how to go on in smaller pieces when it runs out."""

import math
import os
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")
_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """The most memory that was held at once in a ``with`` block.

    Attributes:
        bytes: known when the block is left; NaN on a system that doesn't tell.
    """

    bytes: float = math.nan

    @property
    def mib(self) -> float:
        """The same in MiB."""
        return self.bytes / 2**20


@contextmanager
def peak_of_tensors(device: torch.device) -> Iterator[Peak]:
    """Measure the peak of the tensors made in a block, above what was held at its start.

    On a GPU the allocator's own figure; on the CPU every tensor's storage is counted as it comes
    and goes, which shows neither the kernels' workspaces nor freed memory that the system keeps.
    """
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        torch.cuda.synchronize(device)
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    with _StorageCounter() as counter:
        yield peak
    peak.bytes = counter.peak


@contextmanager
def peak_of_process(device: torch.device) -> Iterator[Peak]:
    """Measure the peak of a whole process in a block, what it held before included.

    On a GPU what PyTorch had allocated there, else the process's high-water mark, which Linux
    alone can start anew.
    """
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated(device)
        return
    measurable = os.access(_RESET, os.W_OK)
    if measurable:
        with suppress(OSError):
            _RESET.write_text("5")  # starts the process's high-water mark anew
    yield peak
    if measurable:
        lines = _STATUS.read_text().splitlines()
        peak.bytes = next(int(ln.split()[1]) for ln in lines if ln.startswith("VmHWM")) * 2**10


class _StorageCounter(TorchDispatchMode):
    """Adds up the storages that operations make, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],  # noqa: ARG002 (part of the protocol)
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        # What goes in was there before, or has been counted when it was made.
        known = {_key(value) for value in _tensors([args, kwargs or {}])}
        result = func(*args, **(kwargs or {}))
        for value in _tensors(result):
            if (key := _key(value)) not in known and key not in self._seen:
                self._count(key, value)
        return result

    def _count(self, key: int, value: Tensor) -> None:
        storage = value.untyped_storage()
        self._seen[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._seen.pop(key)


def _key(value: Tensor) -> int:
    return value.untyped_storage()._cdata


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def pieces_in_memory(
    pieces: Iterable[T],
    run: Callable[[T], None],
    shape: Callable[[T], tuple[int, int]],
    halve: Callable[[T], Sequence[T]],
) -> None:
    """Do what ``in_memory`` does, for pieces of any kind.

    Args:
        pieces: what to run.
        run: called with each piece.
        shape: returns a piece's rows and tokens in a row.
        halve: cuts a piece of two rows or more in two.

    Raises:
        torch.OutOfMemoryError: when a single row is too large.
    """
    most: int | None = None
    for piece in pieces:
        waiting = [piece]
        while waiting:
            piece = waiting.pop()
            rows, width = shape(piece)
            if most is None or rows == 1 or rows * width <= most:
                failed = _try(run, piece)
                if failed is None:
                    continue
                if rows == 1:
                    raise torch.OutOfMemoryError(
                        f"There is not enough memory for a single example of {width} tokens "
                        f"({failed}). Use shorter prompts, bfloat16, gradient_checkpointing where "
                        "gradients are taken, or a larger device."
                    )
                most = -(-rows // 2) * width
                warnings.warn(
                    f"Not enough memory for {rows} x {width} tokens; going on with {most} at "
                    f"once. token_budget={most} avoids the detour.",
                    RuntimeWarning,
                    stacklevel=3,
                )
            waiting += reversed(halve(piece))


def _try(run: Callable[[T], None], piece: T) -> str | None:
    """Run a piece; when memory runs out, say how, with all that the failure held set free."""
    try:
        run(piece)
        return None
    except RuntimeError as error:  # OutOfMemoryError is one
        if not is_out_of_memory(error):
            raise
        said = str(error).strip().splitlines()[0][:120]
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return said


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
