"""Processes that train trials, forked where everything is imported already: Python takes seconds to
start and to import PyTorch."""

from __future__ import annotations

import os
import subprocess
from multiprocessing.connection import Connection
from typing import IO

import torch
from killing import PROCESSES

from alhpo.tuning.processes import together
from alhpo.tuning.processes.worker import serve


class Forked:
    """Stands for the ``Popen`` of a process."""

    def __init__(self, channel: Connection, file: IO[bytes], threads: int) -> None:
        with Connection(os.dup(file.fileno())) as copy:  # which goes where a descriptor cannot
            self._process = PROCESSES.Process(
                target=_serve, args=(channel, copy, threads), daemon=True
            )
            self._process.start()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("serve", timeout or 0)
        return self.returncode

    def kill(self) -> None:
        self._process.kill()


def _serve(channel: Connection, file: Connection, threads: int) -> None:
    torch.set_num_threads(threads)
    serve(channel, file.fileno())


def fork_processes() -> None:
    """Have trials trained in forks, in this process until its end."""
    together._started = Forked  # type: ignore[assignment]
