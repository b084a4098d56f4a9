"""Running foreign code that changes the process, without the process noticing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


class Containment:
    """Keeps what HPO4DL's optimizers do to the process inside their calls.

    Within ``with containment.active():`` the global generators of torch and NumPy continue where
    the previous such block left them, so that the code in it draws one stream of its own, whatever
    the user draws in between. Afterwards these generators, the cuDNN flags, scikit-learn's
    ``transform_output`` and the named logger are as they were before the block.

    Args:
        logger: the logger that the foreign code configures; silent inside the block.
    """

    def __init__(self, logger: str) -> None:
        self._logger = logging.getLogger(logger)
        self._streams: dict[str, Any] | None = None

    @contextmanager
    def active(self) -> Iterator[None]:
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
        torch.cuda.init()  # seeds given before are queued; they must be in the state
        streams["cuda"] = torch.cuda.get_rng_state_all()
    return streams


def _set_streams(streams: dict[str, Any]) -> None:
    np.random.set_state(streams["numpy"])  # noqa: NPY002
    torch.set_rng_state(streams["torch"])
    if "cuda" in streams:
        torch.cuda.set_rng_state_all(streams["cuda"])
