"""Runs the cells of a study; a failure of one stops no other.

All state is on disk, so the same call continues a killed study. Several calls on one folder, on one
machine or on many, share the cells.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml

from alhpo.base.errors import ConfigurationError
from alhpo.base.files import write_text
from alhpo.base.formats import claim_format
from alhpo.base.plain import counted
from alhpo.runs.config_files import read_config_file
from alhpo.runs.data import check_data_of_finished, same_data
from alhpo.runs.observer import Observer
from alhpo.studies.cell_runner import FAILURE, Outcome, failure_line, record_failure
from alhpo.studies.config import Cell, StudyConfig, expand
from alhpo.studies.launch import Launcher, make_launcher

#: How many times a cell is submitted again after its process died.
RESUBMISSIONS = 3
#: Seconds until a cell that another process was running is tried again.
PAUSE = 5.0
#: Seconds until the capacity of a launcher is checked again: a cluster may grow.
LOOK = 15.0

Settled = Literal["finished", "failed", "blocked"]


class StudyObserver(Protocol):
    """Receives the progress of a study, for displays."""

    def begun(self, path: Path, total: int, done: int, at_once: int) -> None:
        """``done`` of ``total`` cells are settled already; ``at_once`` run at the same time."""

    def settled(
        self, title: str, status: str, message: str, seconds: float, done: int, left: float | None
    ) -> None:
        """A cell is finished, failed or blocked after ``seconds``. ``done`` cells are settled; the
        others will take about ``left`` seconds (None: not known)."""

    def noted(self, title: str, message: str) -> None:
        """Something else happened to a cell, such as the death of its process."""


@dataclass(frozen=True)
class StudyResult:
    """The result of a study.

    Attributes:
        path: the study's folder.
        finished: finished cells.
        failed: failed cells, each with its error in one line.
        blocked: tunings whose run failed.
    """

    path: Path
    finished: tuple[Cell, ...]
    failed: tuple[tuple[Cell, str], ...]
    blocked: tuple[Cell, ...]

    @property
    def complete(self) -> bool:
        """Whether every cell is finished."""
        return not self.failed and not self.blocked


def begin_study(study: StudyConfig) -> list[Cell]:
    """Write ``study.yaml`` into the study's folder, and return the cells.

    A study may change from one call to the next. Cells that stay keep their results, since their
    folders are named by their settings.

    Raises:
        ConfigurationError: a setting that cannot be used, or the folder of another study.
        FormatError: the folder has the format of another version of alhpo.
    """
    cells = expand(study)
    claim_format(study.path)
    file = study.path / "study.yaml"
    settings = study.model_dump(exclude={"output_dir"})
    before = read_config_file(file) if file.exists() else {}
    if before and before.get("name") != study.name:
        raise ConfigurationError(
            f"{study.path} is the folder of study {before.get('name')!r}; expected that of study "
            f"{study.name!r}, or a new folder. Choose another output_dir."
        )
    if before != settings:
        write_text(file, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    return cells


def run_study(
    study: StudyConfig,
    launcher: str | Launcher = "local",
    *,
    options: Mapping[str, Any] | None = None,
    retry: bool = False,
    observer: StudyObserver | None = None,
    cell_observer: Observer | None = None,
) -> StudyResult:
    """Run a study, or continue it.

    Finished cells are skipped; failed ones too, unless ``retry`` is given. A failure stops no other
    cell. A tuning begins when its run is finished. A cell that another process is running is tried
    again until it is settled.

    Args:
        study: the study.
        launcher: a launcher or the name of one; it is closed at the end.
        options: options of a launcher given by name.
        retry: whether to run failed cells again.
        observer: receives the progress of the study.
        cell_observer: receives the progress of cells that run in this process, one at a time.

    Raises:
        ConfigurationError: as ``begin_study`` and ``make_launcher``, before any cell runs; or a
            node of a cluster cannot see the study's folder.
        DataError: the data are not those of the cells that were begun; raised before any cell runs.
    """
    cells = begin_study(study)
    _check_data(cells)
    if isinstance(launcher, str):
        launcher = make_launcher(launcher, cells, options, cell_observer)
    try:
        scheduler = _Scheduler(cells, launcher, retry, observer or _Silent())
        return scheduler.run(study.path)
    finally:
        launcher.close()


def _check_data(cells: Sequence[Cell]) -> None:
    """Refuse to add cells on other images or labels than those of the cells that were begun.

    Raises:
        DataError: the data changed.
    """
    compared = set()
    for cell in cells:
        record, key = cell.path / "dataset.json", same_data(cell.config)
        if key not in compared and record.exists():
            compared.add(key)
            check_data_of_finished(record, cell.config)


class _Silent(StudyObserver):
    """The observer that shows nothing."""


class _Scheduler:
    def __init__(
        self,
        cells: Sequence[Cell],
        launcher: Launcher,
        retry: bool,
        observer: StudyObserver,
    ) -> None:
        self._cells = cells
        self._launcher = launcher
        self._observer = observer
        self._status: dict[int, Settled] = {}
        self._messages: dict[int, str] = {}
        self._again = {cell.index for cell in cells if retry and (cell.path / FAILURE).exists()}
        self._waiting = list(cells)
        self._not_before: dict[int, float] = {}
        self._running: dict[int, Cell] = {}
        self._lost: Counter[int] = Counter()
        #: Cells that memory suffices for; known once one failed for lack of it beside others.
        self._at_most: int | None = None
        self._seconds: dict[str, list[float]] = {"run": [], "tune": []}
        self._begun = False

    def run(self, path: Path) -> StudyResult:
        self._look()
        done = len(self._status)
        self._observer.begun(path, len(self._cells), done, self._launcher.capacity)
        self._begun = True
        while self._waiting or self._running:
            self._look()
            self._submit()
            self._collect()
        return StudyResult(
            path,
            tuple(cell for cell in self._cells if self._status[cell.index] == "finished"),
            tuple(
                (cell, self._messages[cell.index])
                for cell in self._cells
                if self._status[cell.index] == "failed"
            ),
            tuple(cell for cell in self._cells if self._status[cell.index] == "blocked"),
        )

    def _look(self) -> None:
        """Settle waiting cells that are finished or failed on disk, or whose run failed."""
        for cell in list(self._waiting):
            if cell.finished:
                self._settle(cell, "finished")
            elif cell.index not in self._again and (cell.path / FAILURE).exists():
                self._settle(cell, "failed", f"before: {failure_line(cell)}")
            elif cell.run is not None and self._status.get(cell.run) in ("failed", "blocked"):
                self._settle(cell, "blocked", f"its run, cell {cell.run}, failed")

    def _submit(self) -> None:
        free = self._capacity - len(self._running)
        for cell in sorted(self._waiting, key=lambda cell: (cell.kind == "run", cell.index)):
            if free < 1:
                return
            if self._ready(cell):
                self._waiting.remove(cell)
                self._again.discard(cell.index)
                self._running[cell.index] = cell
                self._launcher.submit(cell)
                free -= 1

    @property
    def _capacity(self) -> int:
        """How many cells may run at the same time."""
        at_once = self._launcher.capacity
        return at_once if self._at_most is None else min(at_once, self._at_most)

    def _ready(self, cell: Cell) -> bool:
        if cell.run is not None and self._status.get(cell.run) != "finished":
            return False
        return self._not_before.get(cell.index, 0.0) <= time.monotonic()

    def _collect(self) -> None:
        """Wait until a cell ends, or until another may be tried again."""
        pauses = [
            pause
            for cell in self._waiting
            if (pause := self._not_before.get(cell.index, 0.0) - time.monotonic()) > 0
        ]
        if any(self._ready(cell) for cell in self._waiting):
            pauses.append(LOOK)
        shortest = min(pauses, default=None)
        if self._running:
            for outcome in self._launcher.wait(shortest):
                self._take(outcome)
        elif shortest is not None:
            time.sleep(shortest)

    def _take(self, outcome: Outcome) -> None:
        cell = self._running.pop(outcome.cell)
        if outcome.status == "finished":
            self._seconds[cell.kind].append(outcome.seconds)
            self._settle(cell, "finished", seconds=outcome.seconds)
        elif outcome.status == "elsewhere":
            if cell.index not in self._not_before:
                self._observer.noted(cell.title, "another process is running it; tried again later")
            self._not_before[cell.index] = time.monotonic() + PAUSE
            self._waiting.append(cell)
        elif outcome.status == "lost" and self._lost[cell.index] < RESUBMISSIONS:
            self._lost[cell.index] += 1
            self._again.add(cell.index)  # an earlier failure may still be on disk
            self._observer.noted(cell.title, f"{outcome.message}; the cell goes on in another")
            self._waiting.append(cell)
        elif outcome.status == "failed" and outcome.out_of_memory and self._running:
            self._at_most = len(self._running)
            self._again.add(cell.index)
            beside = counted(self._at_most, "cell")
            self._observer.noted(cell.title, f"no memory for it beside {beside}; tried again later")
            self._waiting.append(cell)
        else:
            message = outcome.message
            if outcome.status == "lost":
                message = f"{message}, for the {RESUBMISSIONS + 1}th time"
            if not (cell.path / FAILURE).exists():
                record_failure(cell, message)
            self._settle(cell, "failed", message, outcome.seconds)

    def _settle(self, cell: Cell, status: Settled, message: str = "", seconds: float = 0.0) -> None:
        self._status[cell.index] = status
        self._messages[cell.index] = message
        if cell in self._waiting:
            self._waiting.remove(cell)
        if self._begun:
            done = len(self._status)
            self._observer.settled(cell.title, status, message, seconds, done, self._left())

    def _left(self) -> float | None:
        """Estimated seconds for the other cells, from the mean of those that ran."""
        known = [value for values in self._seconds.values() for value in values]
        if not known:
            return None
        rest = 0.0
        for cell in (*self._waiting, *self._running.values()):
            like = self._seconds[cell.kind] or known
            rest += sum(like) / len(like)
        return rest / self._capacity
