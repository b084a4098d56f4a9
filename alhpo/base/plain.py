"""Plain values of NumPy's and torch's, and plain words for numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def to_plain(value: Any) -> Any:
    """The value, with scalars, arrays and tensors of NumPy and torch as plain Python types."""
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def counted(number: int, thing: str) -> str:
    """A number and what is counted: "1 file", "1,200 files"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
