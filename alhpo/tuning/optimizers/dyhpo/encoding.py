"""Configurations as points of a cube, so that distances between them mean something."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ConfigSpace import CategoricalHyperparameter, ConfigurationSpace, OrdinalHyperparameter
from ConfigSpace.hyperparameters import IntegerHyperparameter

from alhpo.hyperparameters.conditions import is_conditional
from alhpo.hyperparameters.description import is_constant, plain_value, rank

#: Hyperparameters without bounds (normal ones of ConfigSpace) span so many standard deviations.
_DEVIATIONS = 3.0


class Encoder:
    """Maps configurations of a space to rows of numbers and, for numbers, back.

    Numbers are scaled by their bounds, on a log scale where they have one, and ordinals by their
    rank, to [0, 1]; categories are one-hot, any two of them 1 apart. A hyperparameter that can be
    inactive has a further column that says whether it is active; its value counts as the middle
    where it is not, so that two configurations in which it is inactive do not differ by it.
    Constants have no columns.

    Args:
        space: whose configurations are encoded.

    Attributes:
        names: the hyperparameters that have columns.
        groups: the columns of each, in the order of ``names``.
        width: number of columns.
    """

    def __init__(self, space: ConfigurationSpace) -> None:
        self._space = space
        self.names = [name for name, one in space.items() if not is_constant(one)]
        self._conditional = [is_conditional(space, name) for name in self.names]
        self.groups: list[slice] = []
        self.width = 0
        for name, optional in zip(self.names, self._conditional, strict=True):
            hyperparameter = space[name]
            categorical = isinstance(hyperparameter, CategoricalHyperparameter)
            columns = (len(hyperparameter.choices) if categorical else 1) + optional
            self.groups.append(slice(self.width, self.width + columns))
            self.width += columns

    def encode(self, configuration: Mapping[str, Any]) -> np.ndarray:
        """(width,) float64; inactive hyperparameters are absent from the configuration."""
        row = np.zeros(self.width)
        for name, columns, optional in zip(self.names, self.groups, self._conditional, strict=True):
            hyperparameter = self._space[name]
            active = name in configuration
            if isinstance(hyperparameter, CategoricalHyperparameter):
                if active:
                    place = rank(hyperparameter.choices, configuration[name])
                    row[columns.start + place] = math.sqrt(0.5)
            else:
                row[columns.start] = self.unit(name, configuration[name]) if active else 0.5
            if optional:
                row[columns.stop - 1] = float(active)
        return row

    def unit(self, name: str, value: Any) -> float:
        """Where in [0, 1] a number or ordinal lies."""
        hyperparameter = self._space[name]
        if isinstance(hyperparameter, OrdinalHyperparameter):
            last = len(hyperparameter.sequence) - 1
            return rank(hyperparameter.sequence, value) / last if last else 0.5
        lower, upper, log = _scale(hyperparameter)
        value = math.log(value) if log else float(value)
        return min(max((value - lower) / (upper - lower), 0.0), 1.0) if upper > lower else 0.5

    def neighbour(
        self, configuration: Mapping[str, Any], generator: np.random.Generator
    ) -> dict[str, Any]:
        """The configuration with one or two of its hyperparameters changed: numbers and ordinals
        by a normal step of a tenth of their range, categories to any. It may be outside
        the space (conditions, forbidden clauses)."""
        changed = dict(configuration)
        names = [name for name in self.names if name in configuration]
        count = min(len(names), int(generator.integers(1, 3)))
        for place in generator.permutation(len(names))[:count]:
            name = names[int(place)]
            changed[name] = self._step(name, changed[name], generator)
        return changed

    def _step(self, name: str, value: Any, generator: np.random.Generator) -> Any:
        hyperparameter = self._space[name]
        if isinstance(hyperparameter, CategoricalHyperparameter):
            choices = hyperparameter.choices
            return plain_value(hyperparameter, choices[int(generator.integers(len(choices)))])
        moved = float(np.clip(self.unit(name, value) + 0.1 * generator.normal(), 0.0, 1.0))
        if isinstance(hyperparameter, OrdinalHyperparameter):
            sequence = hyperparameter.sequence
            return plain_value(hyperparameter, sequence[round(moved * (len(sequence) - 1))])
        lower, upper, log = _scale(hyperparameter)
        number = lower + moved * (upper - lower)
        number = math.exp(number) if log else number
        smallest, largest = _bounds(hyperparameter)
        number = min(max(number, smallest), largest)
        return round(number) if isinstance(hyperparameter, IntegerHyperparameter) else number


def _scale(hyperparameter: Any) -> tuple[float, float, bool]:
    """The bounds on the scale of the hyperparameter, and whether that is logarithmic."""
    lower, upper = _bounds(hyperparameter)
    log = bool(getattr(hyperparameter, "log", False))
    return (math.log(lower), math.log(upper), True) if log else (lower, upper, False)


def _bounds(hyperparameter: Any) -> tuple[float, float]:
    lower, upper = getattr(hyperparameter, "lower", None), getattr(hyperparameter, "upper", None)
    if lower is not None and upper is not None and math.isfinite(lower) and math.isfinite(upper):
        return float(lower), float(upper)
    spread = _DEVIATIONS * float(hyperparameter.sigma)
    return float(hyperparameter.mu) - spread, float(hyperparameter.mu) + spread
