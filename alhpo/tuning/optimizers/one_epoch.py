"""Train every candidate for one epoch, then the best of them to the end.

The baseline of Egele, Guyon, Sun and Balaprakash, "Is One Epoch All You Need For Multi-Fidelity
Hyperparameter Optimization?", ESANN 2023, arXiv:2307.15422. The paper does not fix the
numbers of candidates and of survivors; ``plan`` does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from alhpo.base.protocols import Configurations
from alhpo.tuning.configurations import fill_up


def plan(max_epochs: int, max_budget: int | None, num_configurations: int) -> tuple[int, int]:
    """The number n of configurations to train for one epoch, and k of those to train to the end.

    Half of the budget B is for first epochs. The other half is for the best configurations, R - 1
    epochs each, which makes k = max(1, floor(B / 2 / (R - 1))) of them. The remainder is for more
    first epochs, so that n + k (R - 1) = B. If B is too small for one full training besides, half
    of it (rounded up) is still for first epochs. If there are fewer than n configurations, all of
    them get a first epoch and the rest of the budget gives k. Without a budget, all get a first
    epoch, and the same number of epochs is for the best.

    Args:
        max_epochs: R.
        max_budget: B, or None for no limit.
        num_configurations: the number of configurations that there are.

    Returns:
        (n, k) with 1 <= k <= n <= ``num_configurations``.
    """
    to_the_end = max_epochs - 1
    if to_the_end == 0:
        n = num_configurations if max_budget is None else min(num_configurations, max_budget)
        return n, n
    if max_budget is None:
        n = num_configurations
        return n, max(1, n // to_the_end)
    k = max(1, max_budget // (2 * to_the_end))
    n = max(max_budget - k * to_the_end, -(-max_budget // 2))
    if n > num_configurations:
        n = num_configurations
        k = max(1, -(-(max_budget - n) // to_the_end))
    return n, min(n, k)


class OneEpoch:
    """One epoch for each of n configurations, then the k best to ``max_epochs`` (see ``plan``).

    The candidates are one suggestion, the best of them another, best first; ties go to the lowest
    number. If one of the best diverges or fails, the next best takes its place. With another
    budget (``extend``) n and k are those of the new one: first epochs for more candidates if n has
    grown, then the best of all to the end, until k of them were.

    Args:
        configurations: those to choose from, filled up to n and started in the order of their
            numbers.
        max_epochs: the epoch that the best are trained to.
        max_budget: epochs the search may spend, or None.
        num_configurations: the largest number of configurations to choose from.
    """

    def __init__(
        self,
        configurations: Configurations,
        max_epochs: int,
        max_budget: int | None,
        num_configurations: int,
    ) -> None:
        self._available = fill_up(configurations, num_configurations)
        self._max_epochs = max_epochs
        #: The metric after the first epoch of the candidates that can be continued.
        self._first: dict[int, float] = {}
        self._begun = 0  # candidates
        self._trained = 0  # to the end
        self.extend(max_budget)

    def extend(self, max_budget: int | None) -> None:
        """Plan with a budget, whatever was trained so far."""
        self._n, self._k = plan(self._max_epochs, max_budget, self._available)

    def suggest(self) -> tuple[Sequence[int] | None, Sequence[int] | None]:
        if self._begun < self._n:
            candidates = list(range(self._begun, self._n))
            return candidates, [1] * len(candidates)
        ranked = sorted(self._first, key=lambda number: (-self._first[number], number))
        best = ranked[: max(self._k - self._trained, 0)]
        return (best, [self._max_epochs] * len(best)) if best else (None, None)

    def observe(self, configuration_results: list[dict[str, Any]]) -> None:
        for result in configuration_results:
            number, epoch, metric = (result[k] for k in ("configuration_id", "epoch", "metric"))
            self._begun = max(self._begun, number + 1)
            ended = epoch == self._max_epochs
            if math.isnan(metric) or epoch > 1 or ended:
                self._first.pop(number, None)
                self._trained += ended and not math.isnan(metric)
            else:
                self._first[number] = metric


def one_epoch(
    configurations: Configurations,
    *,
    max_epochs: int,
    max_budget: int | None,
    num_configurations: int,
    **_: Any,
) -> OneEpoch:
    """The factory registered as ``"one-epoch"``."""
    return OneEpoch(configurations, max_epochs, max_budget, num_configurations)


#: The Tuner passes ``parallel`` to a factory with this trait; suggestions hold many in any case.
one_epoch.takes_parallel = True  # type: ignore[attr-defined]
