"""Digests of tensors' bytes, at the speed of memory, on the CPU and on a GPU."""

import torch
import xxhash
from torch import Tensor

from tl_taskneurons.runtime.errors import InputError

_MIXERS = (0x9E3779B97F4A7C15 - 2**64, 0x2545F4914F6CDD1D)
_COLUMNS = 4093


def digests(tensors: dict[str, Tensor]) -> dict[str, str]:
    """A digest of each tensor's bytes and layout; each storage is read once."""
    storages: dict[int, str] = {}
    waiting: list[tuple[int, Tensor]] = []  # sums on a GPU, fetched together
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if tensor.device.type == "meta":
            raise InputError(
                f"The weight {name!r} lies nowhere (device 'meta'): load the model without "
                "offloading, so that its weights can be read."
            )
        if address in storages or storage.nbytes() == 0:
            continue
        octets = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
        storages[address] = ""
        if tensor.device.type == "cpu":
            storages[address] = xxhash.xxh3_128_hexdigest(octets.numpy().data)
        else:
            waiting.append((address, device_sum(octets)))
    for address, value in waiting:
        storages[address] = f"{int(value) % 2**64:016x}"
    return {
        name: f"{storages.get(tensor.untyped_storage().data_ptr(), '')}{_layout(tensor)}"
        for name, tensor in tensors.items()
    }


def digest(tensor: Tensor) -> str:
    """A digest of one tensor's bytes and layout."""
    return digests({"": tensor})[""]


def _layout(tensor: Tensor) -> str:
    return f"/{tensor.storage_offset()}{tuple(tensor.shape)}{tensor.stride()}{tensor.dtype}"


@torch.no_grad()
def device_sum(octets: Tensor) -> Tensor:
    """A position-dependent sum of bytes, on their device: one integer of 64 bits."""
    whole = octets.numel() // 4 * 4
    words, tail = octets[:whole].view(torch.int32), octets[whole:]
    rows = words[: words.numel() // _COLUMNS * _COLUMNS].view(-1, _COLUMNS)
    left = words[rows.numel() :]
    total = torch.zeros((), dtype=torch.int64, device=octets.device)
    # By row and by column, so that two values that change places are noticed; nothing is widened
    # in memory.
    sums = [
        rows.sum(0, dtype=torch.int64),
        rows.sum(1, dtype=torch.int64),
        left.long(),
        tail.long(),
    ]
    for values in sums:
        total = total * _MIXERS[1] + (values * _factors(values)).sum()
    return total


def _factors(values: Tensor) -> Tensor:
    """Odd numbers that look random, one for each value."""
    mixed = (torch.arange(len(values), device=values.device) + 1) * _MIXERS[0]
    mixed = (mixed ^ (mixed >> 29)) * _MIXERS[1]
    return (mixed ^ (mixed >> 32)) | 1


def span(tensor: Tensor) -> tuple[int, int, int]:
    """The storage of a tensor, and the bytes of it from the first to behind the last."""
    reach = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    start = int(tensor.storage_offset())
    size = tensor.element_size()
    return tensor.untyped_storage().data_ptr(), start * size, int(start + reach + 1) * size
