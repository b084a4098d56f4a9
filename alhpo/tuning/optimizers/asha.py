"""ASHA: successive halving that never waits for a rung to fill.

Li, Jamieson, Rostamizadeh, Gonina, Ben-tzur, Hardt, Recht and Talwalkar, "A System for Massively
Parallel Hyperparameter Tuning", MLSys 2020, algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from alhpo.base.protocols import Configurations
from alhpo.tuning.configurations import fill_up

#: One of so many configurations goes on at each rung.
ETA = 3


def rungs(max_epochs: int) -> list[int]:
    """The epochs at which configurations are compared: 1, 3, 9, ... and ``max_epochs``."""
    epochs = [1]
    while epochs[-1] * ETA < max_epochs:
        epochs.append(epochs[-1] * ETA)
    return epochs if max_epochs == 1 else [*epochs, max_epochs]


class ASHA:
    """Promote a configuration as soon as it is among the best of its rung; else start a new one.

    The highest rung with a configuration to promote goes first. Of the n configurations that
    reached a rung, the floor(n / 3) with the highest metrics can be promoted; ties go to the
    lowest number. Those that diverged or failed count in n and are never promoted. When nothing
    can be promoted or started and no configuration has reached ``max_epochs``, the best of the
    highest rung is trained further. The search ends when a configuration has reached
    ``max_epochs`` and nothing is left, or when the budget is spent.

    With ``parallel`` above 1 a suggestion holds up to ``parallel`` configurations, chosen as the
    paper's algorithm does for workers that ask before any result has come in.

    Args:
        configurations: those to choose from, filled up to ``num_configurations`` and started in
            the order of their numbers.
        max_epochs: the epoch of the last rung.
        num_configurations: the number of configurations to start.
        parallel: the largest number of configurations in a suggestion, 1 by default.
    """

    def __init__(
        self,
        configurations: Configurations,
        max_epochs: int,
        num_configurations: int,
        parallel: int = 1,
    ) -> None:
        self._parallel = parallel
        self._available = fill_up(configurations, num_configurations)
        self._epochs = rungs(max_epochs)
        self._started = 0
        #: Per rung, the metric of every configuration that was trained to it.
        self._metrics: list[dict[int, float]] = [{} for _ in self._epochs]
        #: Per rung, the configurations that were promoted from it.
        self._promoted: list[set[int]] = [set() for _ in self._epochs]

    def suggest(self) -> tuple[Sequence[int] | None, Sequence[int] | None]:
        lower = range(len(self._epochs) - 2, -1, -1)  # the rungs below the last, highest first
        chosen = [
            (number, self._epochs[rung + 1])
            for rung in lower
            for number in self._promotable(rung, len(self._metrics[rung]) // ETA)
        ]
        fresh = range(self._started, min(self._started + self._parallel, self._available))
        chosen += [(number, self._epochs[0]) for number in fresh]
        if not chosen and not self._promotable(-1, 1):
            chosen = [
                (number, self._epochs[rung + 1])
                for rung in lower
                for number in self._promotable(rung, len(self._metrics[rung]))
            ][:1]
        if not chosen:
            return None, None
        numbers, epochs = zip(*chosen[: self._parallel], strict=True)
        return list(numbers), list(epochs)

    def observe(self, configuration_results: list[dict[str, Any]]) -> None:
        latest = {result["configuration_id"]: result for result in configuration_results}
        for number, result in latest.items():
            epoch, metric = result["epoch"], result["metric"]
            failed = math.isnan(metric)
            if not failed and epoch not in self._epochs:
                continue  # the budget ended between two rungs
            rung = next(k for k, target in enumerate(self._epochs) if target >= epoch)
            self._metrics[rung][number] = -math.inf if failed else metric
            if rung:
                self._promoted[rung - 1].add(number)
            else:
                self._started = max(self._started, number + 1)

    def _promotable(self, rung: int, n: int) -> list[int]:
        """Those among the best ``n`` of a rung that can go on, best first."""
        metrics = self._metrics[rung]
        best = sorted(metrics, key=lambda number: (-metrics[number], number))[:n]
        gone = self._promoted[rung]
        return [one for one in best if one not in gone and metrics[one] > -math.inf]


def asha(
    configurations: Configurations,
    *,
    max_epochs: int,
    num_configurations: int,
    parallel: int = 1,
    **_: Any,
) -> ASHA:
    """The factory registered as ``"asha"``."""
    return ASHA(configurations, max_epochs, num_configurations, parallel=parallel)


#: The Tuner passes ``parallel`` to a factory with this trait.
asha.takes_parallel = True  # type: ignore[attr-defined]
