"""Cells in processes of this machine, which share its cores or its GPUs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import ClassVar

from pydantic import Field

from alhpo.base.schema import Settings
from alhpo.runs.observer import Observer
from alhpo.studies.cell_runner import Outcome
from alhpo.studies.config import Cell
from alhpo.studies.launch.machine import may_use_gpus, physical_cores, thread_settings, visible_gpus
from alhpo.studies.launch.remote import pack

#: Seconds that a worker has to end by itself.
GRACE = 5.0


class LocalOptions(Settings):
    """Options of the local launcher."""

    workers: int | None = Field(
        None, ge=1, description="Processes; by default GPUs x per_gpu, or one for each core."
    )
    threads: int | None = Field(
        None, ge=1, description="Threads of each process; by default cores / workers."
    )
    per_gpu: int = Field(1, ge=1, description="Processes that share a GPU.")


class LocalLauncher:
    """Worker processes that live as long as the study and take one cell after the other.

    Threads follow from the machine and the options alone, not from how many cells are left:
    results depend on their number in the last bits, and a continued study must not.
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
            options: see there.
            gpus: whether cells may use GPUs.
        """
        cores = physical_cores()
        self._gpus = visible_gpus() if gpus else []
        self.capacity = options.workers or len(self._gpus) * options.per_gpu or cores
        self.threads = options.threads or max(1, cores // self.capacity)
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
        return [outcome for outcome in settled if outcome]

    def close(self) -> None:
        workers = [*self._idle, *self._busy]
        self._idle, self._busy = [], {}
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join()

    def _start(self) -> _Worker:
        """A worker on the GPU that has fewest."""
        environment = os.environ | thread_settings(self.threads)
        gpu = None
        if self._gpus:
            taken = [worker.gpu for worker in (*self._idle, *self._busy)]
            gpu = min(self._gpus, key=taken.count)
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        return _Worker(environment, gpu, self._answers)

    def _settle(self, worker: _Worker, outcome: Outcome | None) -> Outcome | None:
        """What an answer of a worker, or its end, means for its cell."""
        cell = self._busy.pop(worker, None)
        if outcome is None:
            if worker in self._idle:
                self._idle.remove(worker)
            worker.join()
            return cell and Outcome(cell.index, "lost", f"its process {worker.end}")
        if outcome.status == "failed":  # memory not freed, a broken CUDA context: not for others
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
    ) -> None:
        self.gpu = gpu
        self._answers = answers
        self._process = subprocess.Popen(
            [sys.executable, "-m", "alhpo.studies.launch.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for the driver, which ends its workers
        )
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, line: str) -> None:
        assert self._process.stdin
        with suppress(BrokenPipeError):  # its end is in the queue, or soon will be
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def stop(self) -> None:
        """Tell it to end, whatever it is doing."""
        assert self._process.stdin
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def join(self) -> None:
        """Wait for its end, and make sure of it."""
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def end(self) -> str:
        """How it ended."""
        code = self._process.returncode
        if code == -signal.SIGKILL:
            return "was killed (SIGKILL), perhaps for lack of memory"
        return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            with suppress(ValueError, TypeError):  # not an answer: printed by an import
                self._answers.put((self, Outcome.from_json(line)))
        self._answers.put((self, None))
