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

#: One of so many configurations goes on at each rung.
ETA = 3


@dataclass(frozen=True)
class Bracket:
    """One run of successive halving.

    Attributes:
        num_configurations: the number of configurations at its start.
        rungs: the epochs at which the best are chosen, ascending; the last is ``max_epochs``.
    """

    num_configurations: int
    rungs: tuple[int, ...]


def brackets(max_epochs: int) -> list[Bracket]:
    """The brackets of one pass of Hyperband, that with the shortest trainings first.

    With R = ``max_epochs``, eta = ``ETA`` and s_max the largest s with eta^s <= R, bracket s starts
    ceil((s_max + 1) / (s + 1) · eta^s) configurations and has s + 1 rungs, at R / eta^s, ...,
    R / eta, R epochs, each rounded to the nearest whole epoch (halves up).

    Args:
        max_epochs: R, at least 1.
    """
    s_max = 0
    while ETA ** (s_max + 1) <= max_epochs:
        s_max += 1
    return [
        Bracket(
            num_configurations=-(-(s_max + 1) * ETA**s // (s + 1)),
            rungs=tuple((2 * max_epochs + ETA**k) // (2 * ETA**k) for k in range(s, -1, -1)),
        )
        for s in range(s_max, -1, -1)
    ]


@dataclass
class _AtWork:
    """A bracket that is running.

    Attributes:
        started: the number of configurations at its start.
        rungs: the rungs that are left.
        waiting: the configurations to train to the first of these rungs.
        cuts: the number of rungs that are done.
    """

    started: int
    rungs: tuple[int, ...]
    waiting: list[int]
    cuts: int = 0


class Hyperband:
    """Run one bracket after another, each on new configurations.

    A suggestion is a whole rung. Of the n configurations at the start of a bracket, the
    floor(n / 3^i) with the highest metric at rung i (at least one) continue to the next rung.
    Ties go to the lowest number; those that diverged or failed never continue. After the last
    bracket the first begins again. The search ends with the bracket that takes the last
    configuration and may start with fewer than its size, or when the budget is spent.

    Brackets do not depend on each other. With ``parallel`` above 1, new brackets begin while the
    running ones have fewer than ``parallel`` configurations to train.

    Args:
        configurations: those to choose from, filled up to ``num_configurations`` and taken in the
            order of their numbers: those that are there already are in the first bracket.
        max_epochs: R, the epoch of the last rung of every bracket.
        num_configurations: the number of configurations to use in all.
        parallel: the smallest number of configurations in a suggestion while there are new ones,
            1 by default.
    """

    def __init__(
        self,
        configurations: Configurations,
        max_epochs: int,
        num_configurations: int,
        parallel: int = 1,
    ) -> None:
        self._available = fill_up(configurations, num_configurations)
        self._brackets = brackets(max_epochs)
        self._parallel = parallel
        self._used = 0
        self._begun = 0  # brackets
        self._at_work: list[_AtWork] = []

    def suggest(self) -> tuple[Sequence[int] | None, Sequence[int] | None]:
        self._at_work = [one for one in self._at_work if one.waiting and one.rungs]
        while (
            sum(len(one.waiting) for one in self._at_work) < self._parallel
            and self._used < self._available
        ):
            self._begin()
        if not self._at_work:
            return None, None
        pairs = [(number, one.rungs[0]) for one in self._at_work for number in one.waiting]
        return [number for number, _ in pairs], [rung for _, rung in pairs]

    def observe(self, configuration_results: list[dict[str, Any]]) -> None:
        for one in self._at_work:
            rung, *left = one.rungs
            at_rung = {
                result["configuration_id"]: result["metric"]
                for result in configuration_results
                if result["configuration_id"] in one.waiting
                and result["epoch"] == rung
                and not math.isnan(result["metric"])
            }
            one.rungs = tuple(left)
            one.cuts += 1
            n = max(1, one.started // ETA**one.cuts)
            best = sorted(at_rung, key=lambda number, at=at_rung: (-at[number], number))
            one.waiting = best[:n]

    def _begin(self) -> None:
        bracket = self._brackets[self._begun % len(self._brackets)]
        first = self._used
        self._used = min(first + bracket.num_configurations, self._available)
        waiting = list(range(first, self._used))
        self._at_work.append(_AtWork(len(waiting), bracket.rungs, waiting))
        self._begun += 1


def hyperband(
    configurations: Configurations,
    *,
    max_epochs: int,
    num_configurations: int,
    parallel: int = 1,
    **_: Any,
) -> Hyperband:
    """The factory registered as ``"hyperband"``."""
    return Hyperband(configurations, max_epochs, num_configurations, parallel=parallel)


#: The Tuner passes ``parallel`` to a factory with this trait.
hyperband.takes_parallel = True  # type: ignore[attr-defined]
