"""Protocols of launchers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from alhpo.base.schema import Settings
from alhpo.runs.observer import Observer
from alhpo.studies.cell_runner import Outcome
from alhpo.studies.config import Cell


class Launcher(Protocol):
    """Runs cells somewhere.

    A cell is sent with all its settings, so that an edit of the study's file does not change the
    cells of a running process.
    """

    @property
    def capacity(self) -> int:
        """How many cells it can run at the same time."""
        ...

    def submit(self, cell: Cell) -> None:
        """Start a cell; never called while ``capacity`` cells are running."""
        ...

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        """Wait for at least one outcome, and return all since the last call.

        A cell whose process died has the status "lost"; it may be submitted again.

        Args:
            timeout: seconds to wait at most; None waits until a running cell ends.
        """
        ...

    def close(self) -> None:
        """End all its processes and threads, also those that are running a cell."""
        ...


class LauncherClass(Protocol):
    """A launcher as registered: its options, and how to make it for the cells of a study."""

    @property
    def options_class(self) -> type[Settings]:
        """The options that users may give, with their defaults."""
        ...

    def for_cells(self, options: Any, cells: Sequence[Cell], observer: Observer | None) -> Launcher:
        """Make the launcher.

        Args:
            options: a checked instance of ``options_class``.
            cells: the cells to run.
            observer: receives the progress within cells that run in this process, one at a time.

        Raises:
            ConfigurationError: the launcher cannot run these cells here.
        """
        ...
