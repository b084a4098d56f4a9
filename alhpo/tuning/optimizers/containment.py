"""Run foreign code that changes global state, and undo the changes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from alhpo.base.process_lock import PROCESS_LOCK


class Containment:
    """Undo what HPO4DL's optimizers do to the process, after each of their calls.

    In a block ``with containment.active():`` the global generators of torch and NumPy continue
    where the previous block left them. So the code in the blocks draws one random stream of its
    own, whatever the user draws in between. After the block, these generators, the cuDNN flags,
    scikit-learn's ``transform_output`` and the named logger are as they were before it. Threads
    take turns: the block holds ``PROCESS_LOCK``.

    Args:
        logger: name of the logger that the foreign code configures; it is silent in the block.
    """

    def __init__(self, logger: str) -> None:
        self._logger = logging.getLogger(logger)
        self._streams: dict[str, Any] | None = None

    @contextmanager
    def active(self) -> Iterator[None]:
        with PROCESS_LOCK, self._contained():
            yield

    @contextmanager
    def _contained(self) -> Iterator[None]:
        import sklearn

        streams = _streams()
        cudnn = torch.backends.cudnn
        flags = cudnn.deterministic, cudnn.benchmark
        transform_output = sklearn.get_config()["transform_output"]
        logger = self._logger
        handlers, propagate, level = list(logger.handlers), logger.propagate, logger.level
        logger.handlers, logger.propagate = [logging.NullHandler()], False
        if self._streams is not None:
            _set_streams(self._streams)
        try:
            yield
        finally:
            self._streams = _streams()
            _set_streams(streams)
            cudnn.deterministic, cudnn.benchmark = flags
            sklearn.set_config(transform_output=transform_output)
            for handler in logger.handlers:
                handler.close()
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)


def _streams() -> dict[str, Any]:
    streams: dict[str, Any] = {
        "numpy": np.random.get_state(),  # noqa: NPY002 - foreign code draws from it
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        torch.cuda.init()  # apply seeds that are still queued, so that the state has them
        streams["cuda"] = torch.cuda.get_rng_state_all()
    return streams


def _set_streams(streams: dict[str, Any]) -> None:
    np.random.set_state(streams["numpy"])  # noqa: NPY002
    torch.set_rng_state(streams["torch"])
    if "cuda" in streams:
        torch.cuda.set_rng_state_all(streams["cuda"])
