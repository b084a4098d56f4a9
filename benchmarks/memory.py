"""The memory that a call takes, and a bound for it (Linux)."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from pathlib import Path


def with_memory(function: Callable[[], object]) -> tuple[object, float, float]:
    """What a function returns, its seconds, and the MB it took at most."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")  # VmHWM starts again from VmRSS
    before = resident("VmRSS")
    start = time.perf_counter()
    result = function()
    seconds = time.perf_counter() - start
    return result, seconds, resident("VmHWM") - before


def resident(field: str) -> float:
    """VmRSS or VmHWM (its highest value) of this process in MB, NaN where the system has none."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    sizes = [float(line.split()[1]) / 1000 for line in lines if line.startswith(field)]
    return sizes[0] if sizes else math.nan


def bound_memory(gigabytes: float) -> None:
    """Let allocations beyond fail, rather than the machine."""
    if platform.system() == "Linux":
        import resource

        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + int(gigabytes * 1e9),) * 2)
