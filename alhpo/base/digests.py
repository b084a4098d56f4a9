"""One digest of arrays, tensors and plain values, made block by block and never of a copy.

That of plain values alone, without importing torch, is ``alhpo.base.files.content_hash``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from alhpo.base.files import canonical_json

#: Bytes of a block that is copied, where the memory of an array is not in its order.
BLOCK = 2**20


def digest(*parts: Any, length: int = 16) -> str:
    """Identity of a sequence of values: the first ``length`` hex digits of their SHA-256.

    Arrays and tensors count with type, shape and elements, whatever their strides and their
    device; an array and a tensor of the same content are the same. They are read where they lie:
    beside them, at most some ``BLOCK`` bytes are needed.

    Args:
        parts: arrays, tensors, and values that JSON can hold, in an order that counts.
        length: hex digits, at most 64.

    Raises:
        TypeError: an array of Python objects, or a value that JSON cannot hold.
    """
    hashed = hashlib.sha256()
    for part in parts:
        is_array = isinstance(part, np.ndarray | torch.Tensor)
        # a line that says how many bytes follow: no two sequences of parts give the same text
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
        raise TypeError(f"An array of type {array.dtype} holds Python objects and has no digest.")
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
        # bytes already here, as NumPy has no bfloat16; torch leaves odd strides to single elements
        array = array.as_strided((array.numel(),), (1,)).view(torch.uint8).numpy()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
