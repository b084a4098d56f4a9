"""Times the parts of a cycle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds per part of a cycle."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time of the block to the part's."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[part] = self._seconds.get(part, 0.0) + time.perf_counter() - start

    @property
    def seconds(self) -> dict[str, float]:
        """Per part, to the millisecond."""
        return {part: round(value, 3) for part, value in self._seconds.items()}
