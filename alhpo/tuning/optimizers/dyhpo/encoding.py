"""Configurations as points in the unit cube, where distances are meaningful."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ConfigSpace import CategoricalHyperparameter, ConfigurationSpace, OrdinalHyperparameter
from ConfigSpace.hyperparameters import IntegerHyperparameter

from alhpo.hyperparameters.conditions import is_conditional
from alhpo.hyperparameters.description import is_constant, plain_value, rank

#: Range of a hyperparameter without bounds (normal ones of ConfigSpace), in standard deviations.
_DEVIATIONS = 3.0


class Encoder:
    """Map configurations of a space to rows of numbers.

    Numbers are scaled by their bounds to [0, 1], on a log scale if they have one; so are the ranks
    of ordinals. Categories are one-hot, with a distance of 1 between any two. A hyperparameter that
    can be inactive has one more column, which says whether it is active. An inactive value counts
    as the middle of the range, so that two configurations without it do not differ by it.
    Constants have no columns.

    Args:
        space: the space of the configurations.

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
        """Encode a configuration, without its inactive hyperparameters, as (width,) float64."""
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
        """The position of a number or ordinal in [0, 1]."""
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
        """The configuration with one or two of its hyperparameters changed.

        Numbers and ordinals move by a normal step with a standard deviation of a tenth of their
        range; a category becomes any other. Conditions and forbidden clauses are ignored, so that
        the result may be outside the space.
        """
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
    """The bounds on the scale of the hyperparameter, and whether the scale is logarithmic."""
    lower, upper = _bounds(hyperparameter)
    log = bool(getattr(hyperparameter, "log", False))
    return (math.log(lower), math.log(upper), True) if log else (lower, upper, False)


def _bounds(hyperparameter: Any) -> tuple[float, float]:
    lower, upper = getattr(hyperparameter, "lower", None), getattr(hyperparameter, "upper", None)
    if lower is not None and upper is not None and math.isfinite(lower) and math.isfinite(upper):
        return float(lower), float(upper)
    spread = _DEVIATIONS * float(hyperparameter.sigma)
    return float(hyperparameter.mu) - spread, float(hyperparameter.mu) + spread
