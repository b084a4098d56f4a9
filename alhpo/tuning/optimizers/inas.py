"""active-iNAS: grow the architecture by at most one step, judged by a short training.

Algorithm 2 of Geifman, El-Yaniv: Deep Active Learning with a Neural Architecture Search (NeurIPS
2019).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from ConfigSpace import ConfigurationSpace, UniformIntegerHyperparameter

from alhpo.base.errors import ConfigurationError
from alhpo.base.protocols import Configurations

#: The hyperparameters that it searches.
NAMES = ("blocks", "stacks")


def candidates(
    blocks: int, stacks: int, most_blocks: int, most_stacks: int
) -> list[tuple[int, int]]:
    """The architectures that are compared with (blocks, stacks), in the order in which ties are
    decided: to stay, one block more in every stack, one stack more.

    With one stack more there are ⌊blocks · stacks / (stacks + 1)⌋ + 1 blocks in each, so that the
    number of blocks in all grows as little as possible.
    """
    found = [(blocks, stacks)]
    if blocks < most_blocks:
        found.append((blocks + 1, stacks))
    if stacks < most_stacks:
        found.append((blocks * stacks // (stacks + 1) + 1, stacks + 1))
    return found


class INas:
    """Train the candidates from scratch, and go on from the best until that is where it was.

    The metric of a candidate is its best over the epochs; the first of equal ones is chosen. What
    was trained is not trained again. Other hyperparameters keep the values of the first
    configuration.

    Args:
        configurations: the first is the current one; without any, the smallest of the space is.
        search_epochs: the epoch to which candidates are trained.
        rounds: the largest number of steps.
    """

    def __init__(self, configurations: Configurations, search_epochs: int, rounds: int) -> None:
        self._configurations = configurations
        self._epochs = search_epochs
        self._rounds = rounds
        self._most = tuple(configurations.space[name].upper for name in NAMES)
        if not len(configurations):
            space = configurations.space
            smallest = {name: space[name].lower for name in NAMES}
            configurations.add({**dict(space.get_default_configuration()), **smallest})
        self._current = 0
        #: The best metric of each configuration, by number; −inf without any.
        self._best: dict[int, float] = {}
        self._candidates = self._around(0)

    def suggest(self) -> tuple[Sequence[int] | None, Sequence[int] | None]:
        while self._rounds:
            missing = [number for number in self._candidates if number not in self._best]
            if missing:
                return missing, [self._epochs] * len(missing)
            self._rounds -= 1
            chosen = max(self._candidates, key=self._best.__getitem__)  # the first of equal ones
            if chosen == self._current:
                break
            self._current, self._candidates = chosen, self._around(chosen)
        self._rounds = 0
        return None, None

    def observe(self, configuration_results: list[dict[str, Any]]) -> None:
        for result in configuration_results:
            number, metric = result["configuration_id"], result["metric"]
            before = self._best.get(number, -math.inf)
            self._best[number] = before if math.isnan(metric) else max(metric, before)

    def _around(self, number: int) -> list[int]:
        values = self._configurations.get_configuration(number)
        architectures = candidates(*(values[name] for name in NAMES), *self._most)
        return [
            self._configurations.add({**values, **dict(zip(NAMES, one, strict=True))})
            for one in architectures
        ]


class INasFactory:
    """The factories registered as ``"inas"`` and ``"inas:EPOCHS"``.

    Args:
        search_epochs: the epoch to which candidates are trained; None for a quarter of
            ``max_epochs``, rounded up.
        rounds: the largest number of steps of one search.
    """

    #: A search begins at the current configuration and compares it with others itself.
    starts_from_current = True

    def __init__(self, search_epochs: int | None = None, rounds: int = 1) -> None:
        self._search_epochs = search_epochs
        self._rounds = rounds

    @classmethod
    def parse(cls, text: str) -> INasFactory:
        """The factory ``inas:EPOCHS`` or ``inas:EPOCHSxROUNDS`` from the text after the colon."""
        match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
        if match is None:
            raise ConfigurationError(
                f"Optimizer is 'inas:{text}'; expected inas:EPOCHS or inas:EPOCHSxROUNDS with "
                "whole numbers of at least 1, such as inas:50; or inas, a quarter of max_epochs."
            )
        return cls(int(match[1]), int(match[2] or 1))

    def __call__(
        self, configurations: Configurations, *, max_epochs: int, max_budget: int | None, **_: Any
    ) -> INas:
        return INas(configurations, self._epochs(max_epochs), self._rounds)

    def least_budget(self, max_epochs: int) -> int:
        """Epochs that a whole search may take; a smaller budget would cut candidates off.

        Raises:
            ConfigurationError: candidates are to be trained beyond ``max_epochs``.
        """
        return self._epochs(max_epochs) * (2 * self._rounds + 1)

    @staticmethod
    def check_space(space: ConfigurationSpace) -> None:
        """Refuse a space without ``blocks`` and ``stacks`` as unconditional integers.

        Raises:
            ConfigurationError: the message says what is expected.
        """
        found = {hp.name: hp for hp in space.values()}
        if not all(isinstance(found.get(name), UniformIntegerHyperparameter) for name in NAMES):
            raise ConfigurationError(
                f"Optimizer 'inas' grows an architecture: it needs a space with the integers "
                f"{' and '.join(NAMES)}, such as 'architecture' of the recipe 'architecture'. This "
                f"one has {', '.join(found)}."
            )

    def _epochs(self, max_epochs: int) -> int:
        epochs = self._search_epochs or -(-max_epochs // 4)
        if epochs > max_epochs:
            raise ConfigurationError(
                f"Optimizer 'inas:{epochs}' trains candidates for {epochs} epochs, more than "
                f"max_epochs={max_epochs}. Give fewer, or inas for a quarter of max_epochs."
            )
        return epochs
