"""A process that trains trials: ``python -m alhpo.tuning.processes.worker CHANNEL FILE``.

CHANNEL is the descriptor of a connection to the process that asks, FILE that of the packed
objective. It ends at once when the connection does, even within an epoch: the system closes it when
the other process ends. Its trials can be continued as after any other kill.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

import cloudpickle

from alhpo.tuning.failures import UnloadableError
from alhpo.tuning.processes.packing import unpack
from alhpo.tuning.processes.raised import Raised


def serve(channel: Connection, file: int) -> None:
    """Answer one request after the other, until the connection ends.

    The first message says where the objective is in the file; each later one is a request, the
    arguments of a call. The answer is what the call returns, or the exceptions that it ends with:
    the one that it raises and the causes of that.
    """
    received: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_receive, args=(channel, received), daemon=True).start()
    objective = _loaded(file, received.get())
    while True:
        request = received.get()
        try:
            answer = objective(*request)
        except BaseException as error:
            answer = Raised(error)
        with suppress(OSError):  # nobody listens any more, which the other thread hears, too
            channel.send_bytes(_dumped(answer))


def _receive(channel: Connection, received: SimpleQueue[Any]) -> None:
    try:
        while True:
            received.put(channel.recv())
    finally:  # the end of the connection, or nonsense on it
        os._exit(0)


def _loaded(file: int, spans: Any) -> Any:
    try:
        return unpack(file, spans)
    except Exception as error:
        failure = UnloadableError(f"The objective cannot be loaded in another process: {error!r}")
        failure.__cause__ = error

        def unloadable(*_: Any) -> None:
            raise failure

        return unloadable


def _dumped(answer: Any) -> bytes:
    try:
        data = cloudpickle.dumps(answer)
        pickle.loads(data)  # exceptions with arguments of their own often cannot be
        return data
    except Exception as error:
        if isinstance(answer, Raised):
            first, text = answer.chain[0], answer.text
            stands_for = RuntimeError(f"{type(first).__name__}: {first}")
        else:
            text = ""
            stands_for = TypeError(
                f"The objective returned {answer!r}, which cannot be sent to another process "
                f"({error!r}). Return plain values."
            )
        raised = Raised(stands_for)
        raised.text = text or raised.text
        return cloudpickle.dumps(raised)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
