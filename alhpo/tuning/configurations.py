"""The numbered configurations of one search: sampled, never twice, the user's own first."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ConfigSpace import (
    CategoricalHyperparameter,
    Configuration,
    ConfigurationSpace,
    OrdinalHyperparameter,
)

from alhpo.base.errors import ConfigurationError
from alhpo.base.protocols import Configurations
from alhpo.hyperparameters.description import is_constant, plain_value, rank, space_size

if TYPE_CHECKING:
    import pandas as pd

_INACTIVE = "inactive"


class SampledConfigurations:
    """Configurations of a space, numbered from 0 in the order in which they were added.

    The samples are those of HPO4DL's ``ConfigurationManager`` with the same seed, without
    duplicates. They are drawn from a copy of the space: the user's space and its generator do not
    change. Values are plain Python; inactive conditional hyperparameters are absent.

    Args:
        space: what to sample from.
        seed: of the samples; taken modulo 2**32.
        initial: configurations that get the first numbers; duplicates count once.

    Raises:
        ConfigurationError: an initial configuration is not in the space.
    """

    def __init__(
        self,
        space: ConfigurationSpace,
        seed: int,
        initial: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        self._space = copy.deepcopy(space)
        self._space.seed(seed % 2**32)
        self._configurations: list[dict[str, Any]] = []
        self._numbers: dict[tuple[tuple[str, str], ...], int] = {}
        for number, values in enumerate(initial):
            self._add(self._checked(f"Initial configuration {number}", values))
        #: How many of the configurations were given by the user; they have the first numbers.
        self.num_initial = len(self)

    def __len__(self) -> int:
        return len(self._configurations)

    def get_configuration(self, configuration_id: int) -> dict[str, Any]:
        """A copy of the configuration with this number."""
        return dict(self._configurations[configuration_id])

    @property
    def space(self) -> ConfigurationSpace:
        """The copy of the space. Only read it: ``add_configurations`` owns its generator."""
        return self._space

    def add(self, values: Mapping[str, Any]) -> int:
        """Add a configuration of your own.

        Args:
            values: hyperparameter names and values, those of active hyperparameters only.

        Returns:
            Its number: a new one, or the number that it already has.

        Raises:
            ConfigurationError: it is not in the space.
        """
        configuration = self._checked("The configuration", values)
        self._add(configuration)
        return self._numbers[_key(configuration)]

    def add_configurations(self, num_configurations: int) -> list[int]:
        """Sample further configurations, different from all before.

        Returns:
            Their numbers; fewer than ``num_configurations`` if the space has no more.
        """
        first = len(self)
        wanted = first + num_configurations
        size = space_size(self._space)
        duplicates = 0  # in a row
        tries = 0
        while len(self) < min(wanted, size) and duplicates <= max(500, 15 * len(self)):
            missing = wanted - len(self)
            for sample in self._sample(missing if tries < 100 else max(missing, 64)):
                if len(self) < wanted:
                    duplicates = 0 if self._add(sample) else duplicates + 1
            tries += 1
        return list(range(first, len(self)))

    def _sample(self, n: int) -> list[dict[str, Any]]:
        if n == 1:
            return [self._plain(self._space.sample_configuration())]
        return [self._plain(sample) for sample in self._space.sample_configuration(n)]

    def _plain(self, configuration: Configuration) -> dict[str, Any]:
        return {
            name: plain_value(self._space[name], value)
            for name, value in dict(configuration).items()
        }

    def _add(self, configuration: dict[str, Any]) -> bool:
        """Number a configuration; returns whether it is new."""
        key = _key(configuration)
        if key in self._numbers:
            return False
        self._numbers[key] = len(self)
        self._configurations.append(configuration)
        return True

    def _checked(self, what: str, values: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(values, Mapping):
            raise ConfigurationError(
                f"{what} is {values!r}; expected a mapping of hyperparameter names to values."
            )
        try:
            return self._plain(Configuration(self._space, values=dict(values)))
        except Exception as error:  # ConfigSpace's own classes differ between versions
            raise ConfigurationError(
                f"{what} is {dict(values)!r}, which is not in the space: {error}. The space:\n"
                f"{self._space}"
            ) from error

    # What HPO4DL's DyHPO asks of its configuration manager.

    @property
    def configuration_names(self) -> list[str]:
        """Columns of ``get_configurations``: log-scaled, other numbers, categorical ones."""
        varying = [name for name, value in self._space.items() if not is_constant(value)]
        names = varying or list(self._space.keys())[:1]
        return sorted(names, key=lambda name: (self._is_categorical(name), not self._is_log(name)))

    def get_configurations(self) -> pd.DataFrame:
        """All configurations as numbers and strings that a preprocessor can read.

        An ordinal is its rank. A categorical value is a string; an inactive one is "inactive". An
        inactive number is NaN. Constants have no column, unless the space has nothing else: then
        one of them has.
        """
        import pandas as pd

        return pd.DataFrame({name: self._column(name) for name in self.configuration_names})

    def get_log_indicator(self) -> list[bool]:
        """Per column, whether it is on a logarithmic scale."""
        return [self._is_log(name) for name in self.configuration_names]

    def get_categorical_indicator(self) -> tuple[list[bool], list[list[str]]]:
        """Per column, whether it is categorical; and of each categorical column, its values."""
        names = self.configuration_names
        return [self._is_categorical(name) for name in names], [
            self._levels(name) for name in names
        ]

    def _column(self, name: str) -> list[Any]:
        hyperparameter = self._space[name]
        if is_constant(hyperparameter):
            return [0] * len(self)
        if isinstance(hyperparameter, CategoricalHyperparameter):
            declared, codes, inactive = hyperparameter.choices, self._levels(name), _INACTIVE
        elif isinstance(hyperparameter, OrdinalHyperparameter):
            declared = hyperparameter.sequence
            codes, inactive = list(range(len(declared))), math.nan
        else:
            return [values.get(name, math.nan) for values in self._configurations]
        return [
            codes[rank(declared, values[name])] if name in values else inactive
            for values in self._configurations
        ]

    def _levels(self, name: str) -> list[str]:
        hyperparameter = self._space[name]
        if not isinstance(hyperparameter, CategoricalHyperparameter):
            return []
        levels = [f"{position}:{value}" for position, value in enumerate(hyperparameter.choices)]
        conditional = any(name not in values for values in self._configurations)
        return [*levels, _INACTIVE] if conditional else levels

    def _is_log(self, name: str) -> bool:
        return bool(getattr(self._space[name], "log", False))

    def _is_categorical(self, name: str) -> bool:
        return isinstance(self._space[name], CategoricalHyperparameter)


def fill_up(configurations: Configurations, n: int) -> int:
    """Sample until there are ``n`` configurations, or the space has no more.

    Returns:
        The number of configurations, at most ``n``.
    """
    missing = n - len(configurations)
    if missing > 0:
        configurations.add_configurations(missing)
    return min(n, len(configurations))


def _key(configuration: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Equal for equal configurations; ``1``, ``1.0`` and ``True`` are kept apart."""
    return tuple(sorted((name, repr(value)) for name, value in configuration.items()))
