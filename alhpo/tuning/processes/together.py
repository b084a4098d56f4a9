"""Several trials at a time on the CPU: in processes that share the cores."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from typing import IO, Any

import torch

from alhpo.base.errors import ConfigurationError
from alhpo.tuning.evaluation import Objective
from alhpo.tuning.failures import LostProcessError, is_out_of_memory
from alhpo.tuning.processes.packing import Spans, pack
from alhpo.tuning.processes.process import TrialProcess, TrialProcesses
from alhpo.tuning.processes.raised import Raised

logger = logging.getLogger("alhpo.tuning")

#: Seconds after which it is noticed that a process has ended whose own children live on.
PULSE = 1.0

#: Of a trial: its configuration, the epoch to reach, the one reached before, its checkpoint.
Request = tuple[Any, int, int, Any]


@contextlib.contextmanager
def side_by_side(
    objective: Objective, parallel: int, processes: bool | TrialProcesses | None
) -> Iterator[Objective]:
    """The objective, or one that trains its trials in processes, which end with the block unless
    they were given.

    The threads that torch has here are the share of the cores that this search may use. The
    processes divide them: each has ``threads // parallel``, at least 1. So the number of threads
    that a trial is trained with, which decides the last bits of its metrics, is a function of these
    two numbers, however many trials are trained beside it.

    Args:
        objective: the user's.
        parallel: the number of trials that are trained at a time.
        processes: whether to use processes, or some to use. None asks the attribute
            ``in_processes`` of the objective. There are not more processes than threads to divide,
            unless this is True.

    Raises:
        ConfigurationError: ``processes`` is True, and the objective cannot be pickled.
    """
    threads = torch.get_num_threads()
    given = isinstance(processes, TrialProcesses)
    asked = getattr(objective, "in_processes", False) if processes is None else processes
    must = processes is True
    count = parallel if must else min(parallel, threads)
    packed = _packed(objective, must) if (given or asked) and count > 1 else None
    if packed is None:
        yield objective
        return
    lag = bool(getattr(objective, "checkpoints_lag", False))
    with contextlib.ExitStack() as stack:
        stack.enter_context(packed[0])
        kept = processes if given else stack.enter_context(TrialProcesses())
        together = InProcesses(kept, packed, count, max(1, threads // parallel), lag)
        stack.callback(together.give_back)
        yield together


def _packed(objective: Objective, must: bool) -> tuple[IO[bytes], Spans] | None:
    """See ``pack``; None if the objective cannot be pickled, unless it must be."""
    try:
        return pack(objective)
    except OSError:  # no room
        raise
    except Exception as error:
        why = f"the objective cannot be pickled ({type(error).__name__}: {error})"
        if must:
            raise ConfigurationError(
                f"Argument processes is True, but {why}, and so cannot be sent to processes. Make "
                "what cannot be pickled when the objective is called, or leave out processes."
            ) from error
        logger.warning("Trials are trained one after the other: %s.", why)
        return None


class InProcesses:
    """An objective that calls another one in processes, each of which keeps a copy of it.

    A trial stays with its process, which may have its model in memory, unless that would leave
    another one idle; it then goes on from its checkpoint. Processes start when they are needed
    first. One that has ended makes the call that it was busy with a ``LostProcessError``. Where
    memory was short, all end, and one alone takes every later call, with as many threads as before.

    Args:
        kept: where the processes come from and go to.
        packed: the objective; see ``pack``.
        count: of processes.
        threads: of each process.
        checkpoints_lag: of the objective; trials then never change their process.
    """

    def __init__(
        self,
        kept: TrialProcesses,
        packed: tuple[IO[bytes], Spans],
        count: int,
        threads: int,
        checkpoints_lag: bool,
    ) -> None:
        self.checkpoints_lag = checkpoints_lag
        self._kept = kept
        self._packed = packed
        self._count = count
        self._threads = threads
        self._processes: dict[int, TrialProcess] = {}
        #: Which process trained a trial last, by the path of its checkpoint.
        self._homes: dict[Any, int] = {}

    def __call__(self, *request: Any) -> Any:
        """What the objective returns."""
        (answer,) = self.train_together([request])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def train_together(self, requests: Sequence[tuple[Any, ...]]) -> list[Any]:
        """For each request, what the objective returns or the exception that it raises.

        If this itself raises an exception, the processes end, so that no late answer of theirs is
        taken for that of another request.
        """
        try:
            answers = self._answers(requests)
        except BaseException:
            self._end()
            raise
        if any(isinstance(one, Exception) and is_out_of_memory(one) for one in answers):
            self._end()
            self._count = 1
        return answers

    def _answers(self, requests: Sequence[tuple[Any, ...]]) -> list[Any]:
        answers: list[Any] = [None] * len(requests)
        waiting = self._shared_out(requests)
        for number, positions in waiting.items():
            self._process(number).ask(requests[positions[0]])
        while waiting:
            for number in self._ready(waiting):
                positions = waiting[number]
                answers[positions.popleft()] = self._answer(number)
                if positions:
                    self._process(number).ask(requests[positions[0]])
                else:
                    del waiting[number]
        return answers

    def _end(self) -> None:
        """End the processes, also those that are training."""
        while self._processes:
            self._processes.popitem()[1].close()

    def give_back(self) -> None:
        """Leave the processes, none of which is training, to later searches."""
        while self._processes:
            self._kept.give_back(self._processes.popitem()[1])

    def _shared_out(self, requests: Sequence[tuple[Any, ...]]) -> dict[int, deque[int]]:
        """The positions of the requests that each process gets."""
        most = len(requests) if self.checkpoints_lag else -(-len(requests) // self._count)
        load: Counter[int] = Counter()
        chosen: dict[int, int] = {}
        for position, (_, _, previous_epoch, path) in enumerate(requests):
            home = self._homes.get(path, self._count) if previous_epoch else self._count
            if home < self._count and load[home] < most:
                chosen[position] = home
                load[home] += 1
        for position in range(len(requests)):
            if position not in chosen:
                chosen[position] = min(range(self._count), key=lambda number: load[number])
                load[chosen[position]] += 1
        shares: dict[int, deque[int]] = {}
        for position in range(len(requests)):
            self._homes[requests[position][3]] = chosen[position]
            shares.setdefault(chosen[position], deque()).append(position)
        return shares

    def _process(self, number: int) -> TrialProcess:
        """The process of this number; a new one if it was not needed yet, or has ended."""
        process = self._processes.get(number)
        if process is None or process.ended:
            if process is not None:
                process.close()
            self._processes[number] = process = self._kept.take(self._threads)
            process.load(*self._packed)
        return process

    def _ready(self, waiting: Sequence[int] | dict[int, Any]) -> list[int]:
        """Those of the processes that have answered or ended; waits for one."""
        while True:
            channels = {self._processes[number].channel: number for number in waiting}
            ready = [channels[channel] for channel in wait(channels, PULSE)]  # type: ignore[index]
            if ready := ready or [one for one in waiting if self._processes[one].ended]:
                return ready

    def _answer(self, number: int) -> Any:
        """The answer of a process, or its exception.

        Raises:
            BaseException: the objective ended with an exception that is no ``Exception``.
        """
        process = self._processes[number]
        try:
            answer = process.answer()
        except (EOFError, OSError):
            return LostProcessError(
                f"The process that trained it {self._processes.pop(number).close()}"
            )
        if not isinstance(answer, Raised):
            return answer
        error = answer.again()
        if not isinstance(error, Exception):
            raise error
        return error
