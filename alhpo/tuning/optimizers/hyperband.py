"""Hyperband: brackets of successive halving, from many short trainings to few full ones.

Li, Jamieson, DeSalvo, Rostamizadeh and Talwalkar, "Hyperband: A Novel Bandit-Based Approach to
Hyperparameter Optimization", JMLR 18(185), 2018, algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alhpo.base.protocols import Configurations
from alhpo.tuning.configurations import fill_up

ETA = 3


@dataclass(frozen=True)
class Bracket:
    """One run of successive halving.

    Attributes:
        num_configurations: how many configurations it starts with.
        rungs: the epochs at which the best are chosen, rising; the last is ``max_epochs``.
    """

    num_configurations: int
    rungs: tuple[int, ...]


def brackets(max_epochs: int, eta: int = ETA) -> list[Bracket]:
    """The brackets of one pass of Hyperband, the one with the shortest trainings first.

    With R = ``max_epochs`` and s_max the largest s with eta^s <= R, bracket s starts
    ceil((s_max + 1) / (s + 1) · eta^s) configurations and has s + 1 rungs, at R / eta^s, ...,
    R / eta, R epochs, each rounded to the nearest whole epoch (halves up).

    Args:
        max_epochs: R, at least 1.
        eta: one of so many configurations goes on at each rung; at least 2.
    """
    s_max = 0
    while eta ** (s_max + 1) <= max_epochs:
        s_max += 1
    return [
        Bracket(
            num_configurations=-(-(s_max + 1) * eta**s // (s + 1)),
            rungs=tuple((2 * max_epochs + eta**k) // (2 * eta**k) for k in range(s, -1, -1)),
        )
        for s in range(s_max, -1, -1)
    ]


class Hyperband:
    """Runs bracket after bracket, each on configurations that were not in one before.

    A suggestion is a whole rung. Of n configurations that a bracket began with, the
    floor(n / eta^i) with the highest metric at rung i go on to the next, from where they are (at
    least one; equal ones by their number); those that diverged or failed never do. After the last
    bracket comes the first again. The search ends with the bracket that takes the last
    configuration, which may begin with fewer than it should, or when the budget is spent.

    Args:
        configurations: what to choose from; filled up to ``num_configurations``. They are taken
            in their order, so that those that are there already are in the first bracket.
        max_epochs: R, the epoch of the last rung of every bracket.
        num_configurations: how many configurations to use in all.
        eta: one of so many configurations goes on at each rung.
    """

    def __init__(
        self,
        configurations: Configurations,
        max_epochs: int,
        num_configurations: int,
        eta: int = ETA,
    ) -> None:
        self._available = fill_up(configurations, num_configurations)
        self._brackets = brackets(max_epochs, eta)
        self._eta = eta
        self._used = 0
        self._begun = 0  # brackets
        self._started = 0  # configurations of the bracket at work
        self._rungs: tuple[int, ...] = ()  # of that bracket, those that are left
        self._waiting: list[int] = []
        self._promoted = 0  # times that this bracket was cut

    def suggest(self) -> tuple[Sequence[int] | None, Sequence[int] | None]:
        if not (self._waiting and self._rungs):
            self._begin()
        if not self._waiting:
            return None, None
        return list(self._waiting), [self._rungs[0]] * len(self._waiting)

    def observe(self, configuration_results: list[dict[str, Any]]) -> None:
        rung, *left = self._rungs
        at_rung = {
            result["configuration_id"]: result["metric"]
            for result in configuration_results
            if result["epoch"] == rung and not math.isnan(result["metric"])
        }
        self._rungs = tuple(left)
        self._promoted += 1
        n = max(1, self._started // self._eta**self._promoted)
        best = sorted(at_rung, key=lambda number: (-at_rung[number], number))
        self._waiting = best[:n]

    def _begin(self) -> None:
        bracket = self._brackets[self._begun % len(self._brackets)]
        first = self._used
        self._used = min(first + bracket.num_configurations, self._available)
        self._waiting = list(range(first, self._used))
        self._started = len(self._waiting)
        self._rungs = bracket.rungs
        self._begun += 1
        self._promoted = 0


def hyperband(
    configurations: Configurations, *, max_epochs: int, num_configurations: int, **_: Any
) -> Hyperband:
    """The factory registered as ``"hyperband"``."""
    return Hyperband(configurations, max_epochs, num_configurations)


#: The Tuner gives ``parallel`` to a factory that says so; suggestions are whole rungs in any case.
hyperband.takes_parallel = True  # type: ignore[attr-defined]
