"""Processes that train trials, forked where everything is imported already: Python takes seconds to
start and to import PyTorch."""

from __future__ import annotations

import subprocess
from multiprocessing.connection import Connection

import torch
from killing import PROCESSES

from alhpo.tuning.processes import process
from alhpo.tuning.processes.worker import serve


class Forked:
    """Stands for the ``Popen`` of a process."""

    def __init__(self, channel: Connection, threads: int) -> None:
        self._process = PROCESSES.Process(target=_serve, args=(channel, threads), daemon=True)
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


def _serve(channel: Connection, threads: int) -> None:
    torch.set_num_threads(threads)
    serve(channel)


def fork_processes() -> None:
    """Have trials trained in forks, in this process until its end."""
    process._started = Forked  # type: ignore[assignment]
