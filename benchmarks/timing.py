"""Seconds of contestants that take turns in one process, on any device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date

import torch


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of one call, the work that it gives a GPU included."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def interleaved(
    contestants: Mapping[str, Callable[[], object]],
    device: torch.device,
    rounds: int,
    *,
    warm_up: bool = True,
) -> dict[str, list[float]]:
    """Seconds of each contestant per round; the order turns from round to round.

    With ``warm_up``, each is called once before.
    """
    names = list(contestants)
    for name in names if warm_up else ():
        contestants[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds[name].append(seconds_of(contestants[name], device))
    return seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def beside_products(
    seconds: Sequence[float],
    busy: Sequence[float],
    bare: Sequence[float],
    extra_mb: float,
    indices: object,
    passes: Sequence[float] = (),
) -> dict[str, object]:
    """What a strategy took beside its bare products, round by round, as a record.

    Args:
        seconds: of the query in each round, as the clock on the wall has them.
        busy: of the query, as the processor has them.
        bare: of the products, as the processor has them.
        extra_mb: memory beyond what was there.
        indices: what it chose.
        passes: of the products of all pairs, as the processor has them, if it makes them.
    """
    result: dict[str, object] = {
        "seconds": statistics.median(seconds),
        "cpu_seconds": statistics.median(busy),
        "extra_mb": extra_mb,
        "products_seconds": statistics.median(bare),
        "ratio": statistics.median(a / b for a, b in zip(busy, bare, strict=True)),
        "rounds": len(seconds),
        "measured": date.today().isoformat(),
        "indices": indices,
    }
    if passes:
        result["passes"] = statistics.median(a / b for a, b in zip(busy, passes, strict=True))
    return result
