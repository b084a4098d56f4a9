"""Random streams by name. Global generators are neither read nor changed.

A stream is named by a key such as ``(run seed, "order", cycle, split, epoch)``. Because a stream
depends on its name alone, a resumed run needs no saved generator state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from alhpo.base.process_lock import PROCESS_LOCK

Key = int | str


def derive_seed(*key: Key) -> int:
    """A seed in [0, 2**63) that is a function of the whole key only."""
    named = (f"str:{part}" if isinstance(part, str) else f"int:{int(part)}" for part in key)
    text = "\x1f".join(named)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(*key: Key) -> np.random.Generator:
    """NumPy's default generator for the stream named by ``key``."""
    return np.random.default_rng(derive_seed(*key))


def torch_generator(*key: Key) -> torch.Generator:
    """A CPU generator for the stream named by ``key``."""
    return torch.Generator().manual_seed(derive_seed(*key))


@contextmanager
def isolated_torch_rng(device: torch.device, *key: Key) -> Iterator[None]:
    """A block in which torch's global generators (for dropout, initialisation) draw from a named
    stream. Afterwards they are as they were before.

    Threads take turns: the block holds ``PROCESS_LOCK``."""
    devices = [device] if device.type == "cuda" else []
    with PROCESS_LOCK, torch.random.fork_rng(devices=devices):
        seed = derive_seed(*key)
        torch.default_generator.manual_seed(seed)
        for cuda in devices:
            with torch.cuda.device(cuda):
                torch.cuda.manual_seed(seed)
        yield
