"""Streams of a GPU on which captured steps run side by side, and the lock that captures share."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch

#: Streams of a device. On an H100, eight ResNet-18 at batch size 32 train as fast as sixteen.
LANES = 8

#: Held while a step is captured. A capture forbids other threads to capture, and allocates memory
#: from a pool that it may share with other graphs.
CAPTURING = threading.RLock()


class Lane:
    """A stream, and the memory that all graphs on it use in turn.

    Graphs on one lane run one after the other, so they can have their activations in the same
    memory. What must outlast a replay is allocated outside a capture.

    Args:
        device: the CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        number = torch.zeros((), device=device)
        self.stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self.stream):
            #: The pool lives as long as a graph that uses it.
            self._first = number, self.capture(number.zero_, ())

    def capture(
        self, step: Callable[[], object], generators: tuple[torch.Generator, ...]
    ) -> torch.cuda.CUDAGraph:
        """A graph of what ``step`` does; ``CAPTURING`` must be held, and ``stream`` current.

        Args:
            step: must have run before, because it may not initialise libraries now.
            generators: those that it draws from.

        Raises:
            RuntimeError: it waits for the device, such as for ``item()``.
        """
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        with _no_garbage_collection():
            # unlike torch.cuda.graph(), without waiting for the whole device
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                step()
            except BaseException:
                with suppress(RuntimeError):  # the capture is void
                    graph.capture_end()
                raise
            graph.capture_end()
        return graph


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection in a capture may delete another graph, which a capture does not allow."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def deterministic_convolutions() -> Iterator[None]:
    """A block in which cuDNN chooses only algorithms that repeat their results in every bit; those
    that a graph captures stay chosen. ``CAPTURING`` must be held, because cuDNN's settings are of
    the process; they are as before afterwards."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


_turns: dict[torch.device, Iterator[Lane]] = {}


def next_lane(device: torch.device) -> Lane:
    """A lane of a CUDA device; successive calls take turns."""
    with CAPTURING:
        if device not in _turns:
            _turns[device] = itertools.cycle([Lane(device) for _ in range(LANES)])
        return next(_turns[device])
