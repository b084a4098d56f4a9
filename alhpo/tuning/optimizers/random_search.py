"""Random search: each configuration is trained to the end, in the order of sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alhpo.base.protocols import Configurations
from alhpo.tuning.configurations import fill_up


class RandomSearch:
    """Train configurations to the end in the order of their numbers; no results are used.

    Args:
        configurations: those to choose from, filled up to ``num_configurations``.
        max_epochs: the epoch every configuration is trained to.
        num_configurations: the number of configurations after which the search ends.
        parallel: the number of configurations in a suggestion, 1 by default.
    """

    def __init__(
        self,
        configurations: Configurations,
        max_epochs: int,
        num_configurations: int,
        parallel: int = 1,
    ) -> None:
        self._n = fill_up(configurations, num_configurations)
        self._max_epochs = max_epochs
        self._parallel = parallel
        self._next = 0

    def suggest(self) -> tuple[Sequence[int] | None, Sequence[int] | None]:
        if self._next >= self._n:
            return None, None
        numbers = list(range(self._next, min(self._next + self._parallel, self._n)))
        self._next += len(numbers)
        return numbers, [self._max_epochs] * len(numbers)

    def observe(self, configuration_results: list[dict[str, Any]]) -> None:
        """Do nothing: results are not used."""


def random_search(
    configurations: Configurations,
    *,
    max_epochs: int,
    num_configurations: int,
    parallel: int = 1,
    **_: Any,
) -> RandomSearch:
    """The factory registered as ``"random"``."""
    return RandomSearch(configurations, max_epochs, num_configurations, parallel)


#: The Tuner passes ``parallel`` to a factory with this trait.
random_search.takes_parallel = True  # type: ignore[attr-defined]
