"""Cells one after the other in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from alhpo.base.schema import Settings
from alhpo.runs.observer import Observer
from alhpo.studies.cell_runner import Outcome, run_cell
from alhpo.studies.config import Cell


class InProcessOptions(Settings):
    """The in-process launcher has no options; it uses the threads of this process."""


class InProcessLauncher:
    """Runs cells in this process, for debugging and for the progress within a cell."""

    options_class: ClassVar[type[Settings]] = InProcessOptions
    capacity = 1

    def __init__(self, observer: Observer | None = None) -> None:
        self._observer = observer
        self._cell: Cell | None = None

    @classmethod
    def for_cells(
        cls, options: InProcessOptions, cells: Sequence[Cell], observer: Observer | None
    ) -> InProcessLauncher:
        """See ``LauncherClass``."""
        return cls(observer)

    def submit(self, cell: Cell) -> None:
        self._cell = cell

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        cell, self._cell = self._cell, None
        return [] if cell is None else [run_cell(cell, self._observer)]

    def close(self) -> None:
        self._cell = None
