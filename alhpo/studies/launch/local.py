"""Cells in processes on this machine, which share its cores or its GPUs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import ClassVar

from pydantic import Field

from alhpo.base.child_processes import how_it_ended, thread_settings
from alhpo.base.schema import Settings
from alhpo.runs.observer import Observer
from alhpo.studies.cell_runner import Outcome
from alhpo.studies.config import Cell
from alhpo.studies.launch.machine import may_use_gpus, physical_cores, visible_gpus
from alhpo.studies.launch.remote import pack

#: Share of a GPU's memory that the processes on it divide; the rest is for their contexts.
USABLE = 0.9
#: Seconds that a worker has to end before it is killed.
GRACE = 5.0


class LocalOptions(Settings):
    """Options of the local launcher."""

    workers: int | None = Field(
        None, ge=1, description="Number of processes; by default GPUs x per_gpu, or one per core."
    )
    threads: int | None = Field(
        None, ge=1, description="Threads of each process; by default cores / workers."
    )
    per_gpu: int = Field(
        1, ge=1, description="Processes that share a GPU, each with its part of the memory."
    )


class LocalLauncher:
    """Worker processes that live as long as the study and run one cell after the other.

    The number of threads changes the last bits of results. So it depends only on the machine and
    the options, not on the number of cells left.
    """

    options_class: ClassVar[type[Settings]] = LocalOptions

    @classmethod
    def for_cells(
        cls, options: LocalOptions, cells: Sequence[Cell], observer: Observer | None
    ) -> LocalLauncher:
        """See ``LauncherClass``."""
        return cls(options, gpus=may_use_gpus(cells, "local"))

    def __init__(self, options: LocalOptions, *, gpus: bool = True) -> None:
        """
        Args:
            options: the options of the launcher.
            gpus: whether cells may use GPUs.
        """
        cores = physical_cores()
        self._gpus = visible_gpus() if gpus else []
        self.capacity = options.workers or len(self._gpus) * options.per_gpu or cores
        self.threads = options.threads or max(1, cores // self.capacity)
        on_a_gpu = -(-self.capacity // max(len(self._gpus), 1))
        self._gpu_share = 1.0 if on_a_gpu == 1 else USABLE / on_a_gpu
        self._idle: list[_Worker] = []
        self._busy: dict[_Worker, Cell] = {}
        self._answers: SimpleQueue[tuple[_Worker, Outcome | None]] = SimpleQueue()

    def submit(self, cell: Cell) -> None:
        worker = self._idle.pop() if self._idle else self._start()
        self._busy[worker] = cell
        worker.send(pack(cell))

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        try:
            answers = [self._answers.get(timeout=timeout)]
        except Empty:
            return []
        with suppress(Empty):
            while True:
                answers.append(self._answers.get_nowait())
        settled = [self._settle(worker, outcome) for worker, outcome in answers]
        outcomes = [outcome for outcome in settled if outcome]
        if not outcomes and timeout is None and self._busy:  # only a worker without a cell ended
            return self.wait()
        return outcomes

    def close(self) -> None:
        workers = [*self._idle, *self._busy]
        self._idle, self._busy = [], {}
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join()

    def _start(self) -> _Worker:
        """Start a worker, on the GPU with the fewest workers."""
        environment = os.environ | thread_settings(self.threads)
        gpu = None
        if self._gpus:
            taken = [worker.gpu for worker in (*self._idle, *self._busy)]
            gpu = min(self._gpus, key=taken.count)
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        return _Worker(environment, gpu, self._answers, self._gpu_share)

    def _settle(self, worker: _Worker, outcome: Outcome | None) -> Outcome | None:
        """The outcome of a worker's cell; ``outcome`` is None when the worker has ended."""
        cell = self._busy.pop(worker, None)
        if outcome is None:
            if worker in self._idle:
                self._idle.remove(worker)
            worker.join()
            return cell and Outcome(cell.index, "lost", f"its process {worker.end}")
        if outcome.status == "failed":  # its memory or CUDA context may be broken: do not reuse it
            worker.stop()
        else:
            self._idle.append(worker)
        return outcome


class _Worker:
    """A process, and the thread here that reads its answers into a queue."""

    def __init__(
        self,
        environment: dict[str, str],
        gpu: str | None,
        answers: SimpleQueue[tuple[_Worker, Outcome | None]],
        gpu_share: float,
    ) -> None:
        self.gpu = gpu
        self._answers = answers
        self._process = subprocess.Popen(
            [sys.executable, "-m", "alhpo.studies.launch.worker", str(gpu_share if gpu else 1.0)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C goes to the main process, which ends its workers
        )
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, line: str) -> None:
        assert self._process.stdin
        with suppress(BrokenPipeError):  # the worker has ended, which the queue tells
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def stop(self) -> None:
        """Tell the worker to end at once."""
        assert self._process.stdin
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def join(self) -> None:
        """Wait until the worker has ended; kill it if it does not."""
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def end(self) -> str:
        """How the worker ended, in words."""
        return how_it_ended(self._process.returncode)

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            with suppress(ValueError, TypeError):  # not an answer: printed by an import
                self._answers.put((self, Outcome.from_json(line)))
        self._answers.put((self, None))
