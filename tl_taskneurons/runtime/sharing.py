"""One job for several processes: each does a share, and each gets the whole result.

``torchrun`` starts the processes; each has a model of its own. Inside ``share_work`` detection,
evaluation and training split their examples; outside of it nothing is split, also where
``torch.distributed`` is in use. Sums go through ``torch.distributed``, all else as JSON.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from tl_taskneurons.runtime.errors import (
    ExistsError,
    FileError,
    InputError,
    InputTypeError,
    MissingFileError,
    MissingPackageError,
    OutOfReachError,
    StateError,
    UnknownNameError,
)
from tl_taskneurons.runtime.roles import Role, acting, current_role

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# How many processes other launchers started; they don't set what torchrun sets.
_OTHERS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
_REMEDY = "Start it with torchrun --nproc-per-node N your_script.py"
# What one process raises, all raise, as far as callers tell errors apart.
_ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        FileExistsError, FileNotFoundError, FloatingPointError, ImportError, NotADirectoryError,
        OSError, PermissionError, TypeError, ValueError, InputError, InputTypeError,
        ExistsError, FileError, MissingFileError, MissingPackageError, OutOfReachError, StateError,
        UnknownNameError,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Team(Role):
    """The part of one of several processes that share their work.

    Attributes:
        rank: this process, counted from 0.
        size: how many there are.
        device: where tensors lie when they are summed.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    def own(self, costs: Sequence[int]) -> list[int]:
        """Give the dearest pieces out first, each to whom has least to do."""
        loads = [0] * self.size
        mine = []
        for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
            lightest = loads.index(min(loads))
            loads[lightest] += costs[i]
            if lightest == self.rank:
                mine.append(i)
        return sorted(mine)

    def total(self, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Sum by ``all_reduce``."""
        summed = values.to(self.device, copy=True)
        dist.all_reduce(summed)
        return summed.to(values.device)

    def add_up(self, parameters: Sequence[Tensor], loss: float) -> float:
        """Sum one flat tensor of all gradients and the loss."""
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        there = [float(p.grad is not None) for p in parameters]
        tail = torch.tensor([*there, loss], dtype=torch.float32, device="cpu")
        flat = torch.cat([part.detach().flatten().to(self.device) for part in (*parts, tail)])
        del parts
        dist.all_reduce(flat)
        *sums, tail = flat.split([*(p.numel() for p in parameters), len(tail)])
        for parameter, values, holders in zip(parameters, sums, tail[:-1].tolist(), strict=True):
            summed = values.view(parameter.shape).to(parameter.device, parameter.dtype)
            parameter.grad = summed if holders else None
        return float(tail[-1])

    def gather(self, what: str, value: Any) -> list[Any]:
        """Exchange JSON, padded to one length."""
        text = json.dumps([what, value]).encode()
        length = torch.tensor([len(text)], device=self.device)
        lengths = [torch.zeros_like(length) for _ in range(self.size)]
        dist.all_gather(lengths, length)
        counts = [int(n) for n in lengths]
        own = torch.zeros(max(counts), dtype=torch.uint8, device="cpu")
        own[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        own = own.to(self.device)
        padded = [torch.zeros_like(own) for _ in counts]
        dist.all_gather(padded, own)
        told = [
            json.loads(bytes(part[:n].tolist())) for part, n in zip(padded, counts, strict=True)
        ]
        for rank, (other, _) in enumerate(told):
            if other != told[0][0]:
                raise InputError(
                    f"Process 0 is at {told[0][0]!r}, but process {rank} is at {other!r}. Inside "
                    "share_work every process must call the same functions in the same order, so "
                    "don't call them under a condition that is true in some processes only."
                )
        return [value for _, value in told]

    def require_same(self, what: str, facts: Callable[[], Mapping[str, Any]]) -> None:
        """Compare what each process tells."""
        told = self.gather(what, {name: _short(value) for name, value in facts().items()})
        for rank, theirs in enumerate(told):
            differing = [
                f"{name} is {told[0][name]} in process 0 and {theirs[name]} in process {rank}"
                for name in theirs
                if theirs[name] != told[0][name]
            ]
            if differing:
                raise InputError(
                    f"The processes can't share the work of {what}: {'; '.join(differing)}. Give "
                    "every process the same model, examples and arguments."
                )

    @contextmanager
    def together(self) -> Iterator[None]:
        """Wait at the end, and tell whether an error came."""
        caught: Exception | None = None
        try:
            yield
        except Exception as error:
            caught = error
        told = self.gather(
            "the end of a share", None if caught is None else [type(caught).__name__, str(caught)]
        )
        if caught is not None:
            raise caught
        for rank, failure in enumerate(told):
            if failure is not None:
                kind, text = failure
                raise _ERRORS.get(kind, RuntimeError)(
                    f"Process {rank} of {self.size} stopped ({kind}): {text}"
                )


def is_launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return dist.is_available() and dist.is_torchelastic_launched() and _number("WORLD_SIZE") > 1


@contextmanager
def share_work(
    device: str | torch.device | None = None, *, wait_minutes: float = 60.0
) -> Iterator[Role]:
    """Share the work of this library's functions among the processes that torchrun started.

    While it is open, ``score_neurons``, ``score_items``, ``activation_mean``, ``evaluate``,
    ``evaluate_items``, ``deactivation_items``, ``finetune`` and what is built on them give each
    process a share of the examples, and every process gets the whole result. All processes must
    run the same program. Files that the library writes are written by the first one only.

    ``torch.distributed`` is set up from torchrun's environment (NCCL for GPUs, of which each
    process takes the one of its LOCAL_RANK, else gloo) and taken down at the end, unless it was in
    use before: then its default group shares the work. One process alone just works alone.

    Args:
        device: ``"cuda"`` or ``"cpu"``; by default GPUs where there are any.
        wait_minutes: how long a process waits for the others before it gives up.

    Yields:
        This process's role: ``rank``, ``size``, and ``leads``, which is True in the first process.

    Raises:
        ValueError: for an environment that torchrun did not make, fewer GPUs on this machine than
            processes, or a device with a number. Inside, the functions raise it when the
            processes' models, examples or arguments differ.
    """
    role = current_role()
    if isinstance(role, Team):
        yield role
        return
    began = _begin(device, wait_minutes)
    try:
        role = _role()
        with acting(role):
            yield role
            role.wait()  # for the first one's files
    finally:
        if began:
            dist.destroy_process_group()


def _role() -> Role:
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return Role()
    on_gpu = "nccl" in dist.get_backend()
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    return Team(dist.get_rank(), dist.get_world_size(), device)


def _begin(device: str | torch.device | None, wait_minutes: float) -> bool:
    """Set up torch.distributed where there is more than one process and nobody did."""
    if dist.is_available() and dist.is_initialized():
        return False
    missing = [name for name in _NAMES if name not in os.environ]
    if len(missing) == len(_NAMES):
        for name in _OTHERS:
            if _number(name, 1) > 1:
                raise InputError(
                    f"{name} is {os.environ[name]}, but RANK is not set: the launcher that started "
                    f"this process is not torchrun, so its others can't be found. {_REMEDY}."
                )
        return False
    if missing:
        raise InputError(
            f"{', '.join(missing)} missing in the environment, though torchrun sets "
            f"{', '.join(_NAMES)}. {_REMEDY}, or unset them to work alone."
        )
    if _number("WORLD_SIZE") == 1:
        return False
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if where.type == "cuda":
        where = _own_gpu(where)
        torch.cuda.set_device(where)
    # Where PyTorch was built without it, there is no such module.
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    timeout = timedelta(minutes=wait_minutes)
    store, rank, size = next(rendezvous("env://", timeout=timeout))
    # torchrun's store remembers earlier groups of these processes; each opening has its own names.
    opening = store.add(f"tl_taskneurons/openings/{rank}", 1)
    on_gpu = where.type == "cuda"
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", timeout=timeout, rank=rank, world_size=size,
        store=PrefixStore(f"tl_taskneurons/{opening}", store),
        device_id=where if on_gpu else None,
    )  # fmt: skip
    return True


def _own_gpu(device: torch.device) -> torch.device:
    local, there = _number("LOCAL_RANK"), torch.cuda.device_count()
    if device.index is not None:
        raise InputError(
            f"device is {str(device)!r}, but each process takes the GPU of its LOCAL_RANK (here "
            f"{local}); say 'cuda'."
        )
    if local >= there:
        raise InputError(
            f"LOCAL_RANK is {local}, but this machine has {there} GPUs; start at most as many "
            "processes with --nproc-per-node, or use share_work(device='cpu')."
        )
    return torch.device("cuda", local)


def _number(name: str, default: int = 0) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise InputError(f"{name} is {text!r}, but torchrun sets a number. {_REMEDY}.")
    return int(text)


def _short(value: Any) -> Any:
    if isinstance(value, (str, int, float)) and len(str(value)) <= 80:
        return value
    text = json.dumps(value, default=lambda tensor: tensor.tolist())
    return f"hash {hashlib.sha256(text.encode()).hexdigest()[:12]}"
