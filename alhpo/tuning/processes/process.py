"""Processes that train trials, as the process that asks them sees them."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from typing import IO, Any

from alhpo.base.child_processes import how_it_ended, import_settings, thread_settings
from alhpo.tuning.processes.packing import Spans

#: What a process runs. No garbage is collected before the objective is loaded: what is imported
#: stays, and looking through it takes a tenth of the time of a start.
_MAIN = """
import gc, sys
gc.disable()
from alhpo.tuning.processes.worker import serve_descriptor
serve_descriptor(int(sys.argv[1]))
"""
#: Seconds that a process has to end before it is killed.
GRACE = 5.0


class TrialProcesses:
    """Processes that are kept from one search to the next, because starting them takes seconds.

    ``with TrialProcesses() as kept: Tuner(..., parallel=2, processes=kept).run()``: a search takes
    those that it needs, starts what is missing, and gives all back. They end with the block, or
    with this process. Between searches they hold no objective, but what they have imported, as it
    was then.
    """

    def __init__(self) -> None:
        self._idle: list[TrialProcess] = []

    def __enter__(self) -> TrialProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        while self._idle:
            self._idle.pop().close()

    def take(self, threads: int) -> TrialProcess:
        """A process with this number of threads and without an objective."""
        for process in [one for one in self._idle if one.threads == threads]:
            self._idle.remove(process)
            if not process.ended:
                return process
            process.close()
        return TrialProcess(threads)

    def give_back(self, process: TrialProcess) -> None:
        """Keep a process that has answered all that it was asked."""
        process.drop()
        self._idle.append(process)


class TrialProcess:
    """A process of ``alhpo.tuning.processes.worker``.

    Args:
        threads: of its numerical libraries.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.channel, theirs = Pipe()
        with theirs:
            self._process = _started(theirs, threads)

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def load(self, file: IO[bytes], spans: Spans) -> None:
        """Make it read a packed objective, which it calls from then on."""
        self._say("load", spans)
        with contextlib.suppress(OSError):
            send_handle(self.channel, file.fileno(), self._process.pid)

    def ask(self, request: tuple[Any, ...]) -> None:
        """Make it call the objective with these arguments."""
        self._say("call", request)

    def drop(self) -> None:
        """Make it forget the objective."""
        self._say("drop", None)

    def _say(self, kind: str, content: Any) -> None:
        with contextlib.suppress(OSError):  # it has ended, which ``answer`` tells
            self.channel.send((kind, content))

    def answer(self) -> Any:
        """What the next call returned.

        Raises:
            EOFError, OSError: the process has ended.
        """
        ended = self.ended  # asked first: what it said before is still to be heard
        if ended and not self.channel.poll():
            raise EOFError
        return pickle.loads(self.channel.recv_bytes())

    def close(self) -> str:
        """End it at once, if it has not ended; how it ended, in words."""
        self.channel.close()
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        return how_it_ended(self._process.returncode)


def _started(channel: Connection, threads: int) -> subprocess.Popen[bytes]:
    """A new process; see ``alhpo.tuning.processes.worker``."""
    options = (f"-W{option}" for option in sys.warnoptions)
    environment = os.environ | thread_settings(threads) | import_settings()
    descriptor = channel.fileno()
    return subprocess.Popen(
        [sys.executable, *options, "-c", _MAIN, str(descriptor)],
        pass_fds=[descriptor],
        stdin=subprocess.DEVNULL,
        env=environment | {"PYTHONUNBUFFERED": "1"},  # it ends without flushing
        start_new_session=True,  # Ctrl-C goes to this process, which ends the others
    )
