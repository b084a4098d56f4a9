"""Runs one cell of a study, with a log, and a file for a failure."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from alhpo.base.errors import RunLockedError, error_line
from alhpo.base.files import exclusive, write_text
from alhpo.data.dataset import ImageDataset
from alhpo.runs.experiment import run_experiment
from alhpo.runs.observer import Observer, Observers
from alhpo.runs.pool_tuning import pool_record, tune_pool
from alhpo.runs.progress import log_observer
from alhpo.runs.settings import RunConfig, TuneConfig
from alhpo.studies.config import Cell
from alhpo.tuning.failures import is_out_of_memory

#: Names of the files beside those of the run or tuning itself.
LOG, FAILURE = "cell.log", "failed.txt"

#: Loads the data set that the settings of a cell name.
Load = Callable[[RunConfig | TuneConfig], ImageDataset]

Status = Literal["finished", "failed", "elsewhere", "blocked", "lost"]


@dataclass(frozen=True)
class Outcome:
    """Outcome of an attempt to run a cell.

    Attributes:
        cell: index of the cell.
        status: "finished"; "failed" with the error in ``failed.txt``; "elsewhere" if another
            process is running it; "blocked" for a tuning whose run has too few labels yet; or
            "lost" if the process that ran it died.
        message: one line about the failure; empty for a finished cell.
        seconds: wall-clock seconds of the attempt.
        out_of_memory: whether it failed for lack of memory.
    """

    cell: int
    status: Status
    message: str = ""
    seconds: float = 0.0
    out_of_memory: bool = False

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        """The reverse of ``to_json``."""
        return cls(**json.loads(text))


def run_cell(cell: Cell, observer: Observer | None = None, *, load: Load | None = None) -> Outcome:
    """Run a cell, or continue it. Errors are returned as an outcome, not raised.

    Progress is appended to ``cell.log``. An error is written to ``failed.txt``, which the next
    attempt removes.

    Args:
        cell: the cell.
        observer: also receives the progress.
        load: loads the cell's data set, for cells that share one; by default each loads its own.
    """
    start = time.perf_counter()

    def outcome(status: Status, message: str = "", out_of_memory: bool = False) -> Outcome:
        seconds = time.perf_counter() - start
        return Outcome(cell.index, status, message, seconds, out_of_memory)

    try:
        if missing := _missing_labels(cell):
            return outcome("blocked", missing)
        with exclusive(cell.path):  # check the lock before loading anything; the run takes it again
            pass
        with suppress(FileNotFoundError):
            (cell.path / FAILURE).unlink()
        with log_observer(cell.path / LOG, f"cell {cell.index}: {cell.title}") as log:
            _work(cell, Observers(log, observer), load)
    except RunLockedError:
        return outcome("elsewhere", f"another process is running {cell.path}")
    except Exception as error:
        record_failure(cell, traceback.format_exc())
        return outcome("failed", error_line(error), is_out_of_memory(error))
    return outcome("finished")


def record_failure(cell: Cell, text: str) -> None:
    """Write ``failed.txt``, if the disk allows: the failure may be a full disk."""
    when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    with suppress(OSError):
        write_text(cell.path / FAILURE, f"{when} cell {cell.index}: {cell.title}\n{text}\n")


def failure_line(cell: Cell) -> str:
    """The last line of ``failed.txt``, the error."""
    try:
        text = (cell.path / FAILURE).read_text(encoding="utf-8")
    except OSError:
        return ""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


def _work(cell: Cell, observer: Observer, load: Load | None) -> None:
    dataset = load(cell.config) if load else None
    if isinstance(cell.config, RunConfig):
        run_experiment(cell.config, dataset=dataset, observer=observer)
    else:
        tune_pool(cell.config, dataset=dataset, observer=observer)


def _missing_labels(cell: Cell) -> str:
    """Why a tuning cannot run yet; empty if it can."""
    if isinstance(cell.config, RunConfig) or cell.run is None:
        return ""
    if pool_record(cell.config.pool, cell.config.labels) is not None:
        return ""
    run = Path(cell.config.pool).expanduser()
    if (run / "config.yaml").exists():
        lack = f"{run / 'cycles.jsonl'} has no record with that number"
    else:
        lack = f"there is no {run / 'config.yaml'}"
    return (
        f"Cell {cell.index} tunes at {cell.config.labels} labels, but {lack}. Run cell {cell.run} "
        "first. If it is finished, restore the file from a copy."
    )
