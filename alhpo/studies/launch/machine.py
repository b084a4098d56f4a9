"""The cores and GPUs that this process may use."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch

from alhpo.base.errors import ConfigurationError
from alhpo.studies.config import Cell


def physical_cores() -> int:
    """Physical cores within this process's affinity and its container's quota; at least 1."""
    logical = psutil.cpu_count() or 1
    per_core = max(1, logical // (psutil.cpu_count(logical=False) or logical))
    # cpu_affinity is not there on macOS, where processes cannot be bound to cores
    affinity = getattr(psutil.Process(), "cpu_affinity", lambda: range(logical))()
    return max(1, min(len(affinity) // per_core, _quota(logical)))


def _quota(logical: int) -> int:
    """The number of cores that the control group grants."""
    try:
        granted, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        return int(granted) // int(period)
    except (OSError, ValueError):  # no such file, or "max"
        return logical


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls each GPU that this process may use.

    Counting them initialises no CUDA context here: PyTorch asks the driver's management library.
    """
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def may_use_gpus(cells: Sequence[Cell], launcher: str) -> bool:
    """Whether any of these cells may use a GPU, where the launcher gives each process one.

    Raises:
        ConfigurationError: a cell asks for a GPU by its number.
    """
    for cell in cells:
        if cell.config.device not in ("auto", "cpu", "cuda", "cuda:0"):
            raise ConfigurationError(
                f"Setting 'device' of cell {cell.index} is {cell.config.device!r}, but launcher "
                f"{launcher!r} chooses a GPU for each process. Legal: auto, cpu, cuda, cuda:0."
            )
    return any(cell.config.device != "cpu" for cell in cells)
