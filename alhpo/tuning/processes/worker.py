"""What a process that trains trials does.

It ends at once when its connection to the process that asks does, even within an epoch: the system
closes it when the other process ends. Its trials can be continued as after any other kill.
"""

from __future__ import annotations

import gc
import os
import pickle
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from queue import SimpleQueue
from typing import Any

import cloudpickle

from alhpo.tuning.failures import UnloadableError
from alhpo.tuning.processes.packing import unpack
from alhpo.tuning.processes.raised import Raised


def serve_descriptor(channel: int) -> None:
    """See ``serve``; the connection has this descriptor."""
    serve(Connection(channel))


def serve(channel: Connection) -> None:
    """Do what one message after the other says, until the connection ends.

    Messages are pairs: ``"load"`` and where the objective is in a file, whose descriptor follows;
    ``"call"`` and the arguments of a call; ``"drop"`` and None. A call is answered with what it
    returns, or with the exceptions that it ends with: the one that it raises and its causes.
    """
    received: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    threading.Thread(target=_receive, args=(channel, received), daemon=True).start()
    objective: Callable[..., Any] | None = None
    while True:
        kind, content = received.get()
        if kind == "load":
            objective = _loaded(*content)
            gc.enable()
        elif kind == "drop":
            objective = None
            gc.collect()
        else:
            assert objective is not None
            with suppress(OSError):  # nobody listens any more, which the other thread hears, too
                channel.send_bytes(_answer(objective, content))


def _receive(channel: Connection, received: SimpleQueue[tuple[str, Any]]) -> None:
    try:
        while True:
            kind, content = channel.recv()
            received.put((kind, (recv_handle(channel), content) if kind == "load" else content))
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
    finally:
        os.close(file)  # what is mapped of it stays


def _answer(objective: Callable[..., Any], request: tuple[Any, ...]) -> bytes:
    try:
        answer = objective(*request)
    except BaseException as error:
        answer = Raised(error)
    return _dumped(answer)


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
