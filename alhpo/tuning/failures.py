"""Failures of memory, disks and devices: not the trial's fault. What they are and what to do."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator

import torch

#: Beginnings of the errors after which this process cannot use the GPU any more.
_BROKEN_DEVICE = ("CUDA error", "cuDNN error", "NCCL error")
_NO_MEMORY = (
    "DefaultCPUAllocator: not enough memory",
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
)
_FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})
_BROKEN_DISK = frozenset({errno.EROFS, errno.EIO})
#: Errors by which torch and safetensors report a failed write without its reason.
_FAILED_WRITE = ("PytorchStreamWriter failed writing", "os error 28")


class LostProcessError(MemoryError):
    """A process ended while it trained a trial; most often the system killed it for lack of memory,
    as which it is handled."""


class UnloadableError(RuntimeError):
    """An objective cannot be loaded in another process."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the CPU or a GPU ran out of memory."""
    return any(map(_no_memory, _chain(error)))


def outside_cause(error: BaseException) -> str | None:
    """What went wrong outside the training and what to do, without a final full stop; else None."""
    for one in _chain(error):
        number = one.errno if isinstance(one, OSError) else None
        if number in _FULL_DISK or any(text in str(one) for text in _FAILED_WRITE):
            return "The disk is full, or a quota is used up. Make room"
        if number in _BROKEN_DISK:
            return "The disk cannot be written. Mount or repair it"
        if isinstance(one, LostProcessError):
            return "If memory ran out, free some, or search smaller batches or models"
        if isinstance(one, UnloadableError):
            return "Put what it needs where every process can import it, or give processes=False"
        if _no_memory(one):
            return (
                "There is not enough memory. Free some (other processes on this device?), or "
                "search smaller batches or models"
            )
        if isinstance(one, RuntimeError) and str(one).startswith(_BROKEN_DEVICE):
            return "The device cannot be used any more in this process. Start a new one"
    return None


def in_one_line(error: BaseException) -> str:
    """The exception and the line of code that raised it, as one line."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" ({one.filename}, line {one.lineno}, in {one.name})" for one in last)
    return f"{type(error).__name__}: {error}{where}"


def _no_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and its causes."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__
