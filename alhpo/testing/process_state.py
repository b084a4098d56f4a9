"""Watch what belongs to the whole process: global random generators and library settings."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def require(condition: bool, message: str) -> None:
    """Like ``assert``, and not switched off by ``python -O``."""
    if not condition:
        raise AssertionError(message)


@contextmanager
def process_left_alone(who: str) -> Iterator[None]:
    """Raise ``AssertionError`` naming ``who`` if the block changes the process's global state."""
    before = _process_state()
    yield
    after = _process_state()
    changed = [what for what in before if before[what] != after[what]]
    require(not changed, f"{who} changed the state of the whole process: {', '.join(changed)}.")


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch, and put them back afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


def _numpy_state() -> tuple[Any, ...]:
    """NumPy's global generator as values that compare with ==."""
    name, words, *rest = np.random.get_state()  # noqa: NPY002
    return name, np.asarray(words).tobytes(), *rest


def _process_state() -> dict[str, Any]:
    state: dict[str, Any] = {
        "Python's random generator": random.getstate(),
        "NumPy's global generator": _numpy_state(),
        "torch's global generator": torch.random.get_rng_state().numpy().tobytes(),
        "torch.backends.cudnn": (
            torch.backends.cudnn.enabled,
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic,
        ),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's number of threads": torch.get_num_threads(),
        "torch's deterministic mode": torch.are_deterministic_algorithms_enabled(),
        "torch's gradient mode": torch.is_grad_enabled(),
        "handlers of the root logger": tuple(map(id, logging.getLogger().handlers)),
    }
    if torch.cuda.is_initialized():
        states = torch.cuda.get_rng_state_all()
        state["CUDA's global generators"] = [s.numpy().tobytes() for s in states]
    if sklearn := sys.modules.get("sklearn"):
        state["scikit-learn's settings"] = sklearn.get_config()
    return state
