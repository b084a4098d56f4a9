"""Cells in threads of this process, which share its GPU.

On a GPU, the work of several processes takes turns; that of threads of one process runs side by
side, each on a CUDA stream of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, ClassVar

import torch
from pydantic import Field

from alhpo.base.errors import DeviceError
from alhpo.base.schema import Settings
from alhpo.runs.data import SharedData
from alhpo.runs.observer import Observer
from alhpo.studies.cell_runner import FAILURE, Outcome, run_cell
from alhpo.studies.config import Cell
from alhpo.studies.launch.machine import physical_cores

#: Cells that share a GPU, unless the options say otherwise.
ON_GPU = 4


class ThreadsOptions(Settings):
    """Options of the threads launcher."""

    workers: int | None = Field(
        None,
        ge=1,
        description=f"Cells that run at the same time; by default {ON_GPU} if they use a GPU, else "
        "as many as fill the cores with the threads that torch uses for each.",
    )


class ThreadsLauncher:
    """Threads that live as long as the study and run one cell after the other.

    Cells of the same data share one loaded data set. A cell computes with the number of threads of
    this process, so that its records are those of launcher ``in-process``.
    """

    options_class: ClassVar[type[Settings]] = ThreadsOptions

    @classmethod
    def for_cells(
        cls, options: ThreadsOptions, cells: Sequence[Cell], observer: Observer | None
    ) -> ThreadsLauncher:
        """See ``LauncherClass``. The observer is not used: the progress of several cells would
        mix."""
        return cls(options, gpu=any(cell.config.device != "cpu" for cell in cells))

    def __init__(self, options: ThreadsOptions, *, gpu: bool = True) -> None:
        """
        Args:
            options: the options of the launcher.
            gpu: whether cells may use a GPU.
        """
        self._gpu = gpu and torch.cuda.is_available()
        on_cpu = max(1, physical_cores() // torch.get_num_threads())
        self.capacity = options.workers or (ON_GPU if self._gpu else on_cpu)
        self._data = SharedData()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._running = 0
        self._cells: SimpleQueue[Cell | None] = SimpleQueue()
        self._answers: SimpleQueue[Outcome | BaseException] = SimpleQueue()

    def submit(self, cell: Cell) -> None:
        if len(self._threads) == self._running:  # none is idle
            # a daemon: a second Ctrl-C, while close() waits, ends the process at once
            self._threads.append(threading.Thread(target=self._work, daemon=True))
            self._threads[-1].start()
        self._running += 1
        self._cells.put(cell)

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        """See ``Launcher``.

        Raises:
            DeviceError: a CUDA error broke the GPU for this process, and so for all of its cells.
        """
        if not self._running:
            return []
        answers = []
        with suppress(Empty):
            answers.append(self._answers.get(timeout=timeout))
            while True:
                answers.append(self._answers.get_nowait())
        self._running -= len(answers)
        outcomes = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            outcomes.append(answer)
        return outcomes

    def close(self) -> None:
        """Stop running cells, each after its epoch or query, and wait for that."""
        self._stop.set()
        for _ in self._threads:
            self._cells.put(None)
        for thread in self._threads:
            thread.join()
        self._threads, self._running = [], 0

    def _work(self) -> None:
        with torch.cuda.stream(torch.cuda.Stream() if self._gpu else None):
            while (cell := self._cells.get()) is not None:
                with suppress(_Stopped):
                    self._answers.put(self._answer(cell))

    def _answer(self, cell: Cell) -> Outcome | BaseException:
        try:
            outcome = run_cell(cell, _StopsWhenTold(self._stop), load=self._data.load)
        except _Stopped:
            raise
        except BaseException as error:
            return error
        if outcome.status == "failed" and _is_broken(cell.config.device):
            # perhaps the error of another cell: CUDA reports it to whoever asks next
            (cell.path / FAILURE).unlink(missing_ok=True)
            return DeviceError(
                f"The GPU cannot be used any more in this process ({outcome.message}). All records "
                "are safe: start the study again, and its cells go on. If it happens again, run it "
                "with launcher local, which tells the cell whose fault it is."
            )
        return outcome


class _Stopped(BaseException):
    """A cell was told to stop. No error of the cell, so not an Exception, as KeyboardInterrupt."""


class _StopsWhenTold:
    """An observer that ends the run or tuning at its next event, once this is asked for."""

    def __init__(self, asked: threading.Event) -> None:
        self._asked = asked

    def _event(self, *_: Any, **__: Any) -> None:
        if self._asked.is_set():
            raise _Stopped

    started = loaded = encoded = progressed = recorded = _event


def _is_broken(device: str) -> bool:
    """Whether an earlier CUDA error broke the device: every later call then fails as well."""
    if device == "cpu" or not torch.cuda.is_initialized():
        return False
    try:
        gpu = torch.device("cuda" if device == "auto" else device)
        if (gpu.index or 0) < torch.cuda.device_count():  # else it is not there at all
            torch.zeros(1, device=gpu).tolist()
    except torch.cuda.OutOfMemoryError:
        return False
    except RuntimeError as error:
        return "out of memory" not in str(error)
    return False
