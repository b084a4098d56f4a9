"""What the scheduler asks of a launcher, and how one is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from alhpo.base.schema import Settings
from alhpo.runs.observer import Observer
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


class LauncherClass(Protocol):
    """A launcher as it is registered: its options, and how it is made for the cells of a study."""

    @property
    def options_class(self) -> type[Settings]:
        """The options that users may give, with their defaults."""
        ...

    def for_cells(self, options: Any, cells: Sequence[Cell], observer: Observer | None) -> Launcher:
        """Make it.

        Args:
            options: an ``options_class``, checked.
            cells: those it will be given.
            observer: for the progress within a cell; of use where cells run in this process.

        Raises:
            ConfigurationError: it cannot run these cells here.
        """
        ...
