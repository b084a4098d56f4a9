"""One digest of arrays, tensors and plain values, computed block by block without a copy.

That of plain values alone, without importing torch, is ``alhpo.base.files.content_hash``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from alhpo.base.files import canonical_json

#: Bytes copied at a time from an array whose memory is not in the order of its elements.
BLOCK = 2**20


def digest(*parts: Any, length: int = 16) -> str:
    """Identity of a sequence of values: the first ``length`` hex digits of their SHA-256.

    Of arrays and tensors, type, shape and elements count; strides and device do not. An array and a
    tensor of the same content have the same digest. Memory: about ``BLOCK`` bytes.

    Args:
        parts: arrays, tensors, and values that JSON can hold; their order counts.
        length: number of hex digits, at most 64, 16 by default.

    Raises:
        TypeError: an array of Python objects, or a value that JSON cannot hold.
    """
    hashed = hashlib.sha256()
    for part in parts:
        is_array = isinstance(part, np.ndarray | torch.Tensor)
        # the line fixes how many bytes follow, so different parts never give the same bytes
        head = ["array", _type(part), list(part.shape)] if is_array else ["value", part]
        hashed.update(canonical_json(head).encode() + b"\n")
        if is_array:
            for block in _blocks(part):
                hashed.update(block.data)
    return hashed.hexdigest()[:length]


def _type(array: np.ndarray | torch.Tensor) -> str:
    if isinstance(array, torch.Tensor):
        return str(array.dtype).removeprefix("torch.")
    if array.dtype.hasobject:
        raise TypeError(
            f"An array of type {array.dtype} holds Python objects; expected numbers or text."
        )
    return str(array.dtype)


def _blocks(array: np.ndarray | torch.Tensor) -> Iterator[np.ndarray]:
    """The bytes of an array in the order of its elements."""
    if isinstance(array, torch.Tensor):
        array = array.detach()
        in_order = array.is_contiguous() and array.device.type == "cpu"
    else:
        in_order = array.flags.c_contiguous
    if in_order or array.nbytes <= BLOCK:
        yield _bytes(array)
        return
    rows = max(BLOCK * len(array) // array.nbytes, 1)
    for start in range(0, len(array), rows):
        yield from _blocks(array[start] if rows == 1 else array[start : start + rows])


def _bytes(array: np.ndarray | torch.Tensor) -> np.ndarray:
    if isinstance(array, torch.Tensor):
        array = array.cpu().contiguous()
        # bytes by torch, as NumPy has no bfloat16; a single element may have any strides
        array = array.as_strided((array.numel(),), (1,)).view(torch.uint8).numpy()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
