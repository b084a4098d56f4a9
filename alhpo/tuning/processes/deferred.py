"""A value that is sent to processes, and unpickled there only if it is asked for."""

from __future__ import annotations

import pickle
from typing import Any, Generic, TypeVar

import cloudpickle

T = TypeVar("T")


class Deferred(Generic[T]):
    """Holds a value whose packages take long to import, and which most processes do not need.

    Args:
        value: any that can be pickled.
    """

    def __init__(self, value: T) -> None:
        self._value = value
        self._packed: bytes | None = None

    @property
    def value(self) -> T:
        if self._packed is not None:
            self._value, self._packed = pickle.loads(self._packed), None
        return self._value

    def __getstate__(self) -> dict[str, Any]:
        packed = cloudpickle.dumps(self._value) if self._packed is None else self._packed
        return {"_value": None, "_packed": packed}
