"""What the scheduler asks of a launcher."""

from __future__ import annotations

from typing import Protocol

from alhpo.studies.cell_runner import Outcome
from alhpo.studies.config import Cell


class Launcher(Protocol):
    """Runs cells somewhere.

    Cells travel whole, so that an edit of the study's file cannot change what their numbers mean
    to a process that is at work.
    """

    @property
    def capacity(self) -> int:
        """How many cells it can have in work at once."""
        ...

    def submit(self, cell: Cell) -> None:
        """Begin with a cell; never called with more than ``capacity`` in work."""
        ...

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        """Outcomes since the last call, at least one where some cell is in work and no timeout
        passes. A cell whose process died has the status "lost"; it may be submitted again.

        Args:
            timeout: in seconds; without one for as long as it takes.
        """
        ...

    def close(self) -> None:
        """End all processes it started, those that have a cell in work too."""
        ...
