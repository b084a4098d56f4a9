"""Checking the Tuner's arguments before anything happens."""

from __future__ import annotations

import contextlib
import functools
import math
import numbers
import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from ConfigSpace import ConfigurationSpace

from alhpo.protocols import OptimizerFactory
from alhpo.tuning.configurations import SampledConfigurations
from alhpo.tuning.registry import get_optimizer_factory
from alhpo.types import ConfigurationError


def whole_number(name: str, value: Any, least: int) -> int:
    """``value`` as an int, at least ``least``."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        raise ConfigurationError(f"{name} is {value!r}; expected an integer of at least {least}")
    return number


def flag(name: str, value: Any) -> bool:
    """``value``, which is True or False."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} is {value!r}; expected True or False")
    return value


def function(name: str, value: Any) -> Any:
    """``value``, which can be called."""
    if not callable(value):
        raise ConfigurationError(f"{name} is {value!r}; expected a function")
    return value


def folder(name: str, value: Any) -> Path:
    """``value`` as an absolute path that is no file."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ConfigurationError(f"{name} is {value!r}; expected the path of a folder")
    path = Path(value).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise ConfigurationError(f"{name} is {str(path)!r}, a file; expected a folder")
    return path


def space(value: Any) -> ConfigurationSpace:
    """``value``, which is a space with at least one hyperparameter."""
    if not isinstance(value, ConfigurationSpace):
        raise ConfigurationError(
            f"configuration_space is {value!r}; expected a ConfigSpace.ConfigurationSpace"
        )
    if not len(value):
        raise ConfigurationError(
            "configuration_space holds no hyperparameter; expected one or more"
        )
    return value


def configurations(space: ConfigurationSpace, value: Any) -> list[dict[str, Any]]:
    """The configurations in ``value``, all of them of the space."""
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        raise ConfigurationError(
            f"initial_configurations is {value!r}; expected a list of configurations"
        )
    checked = SampledConfigurations(space, 0, value)
    return [checked.get_configuration(number) for number in range(len(checked))]


def torch_device(value: Any) -> str | None:
    """The name of a device, or None."""
    try:
        return None if value is None else str(torch.device(value))
    except (RuntimeError, TypeError) as error:
        raise ConfigurationError(
            f"device is {value!r}; expected None or a torch device such as 'cpu' or 'cuda:0'"
        ) from error


def optimizer_factory(value: Any, max_budget: int | None) -> OptimizerFactory:
    """The factory that ``value`` names or is."""
    if isinstance(value, str):
        factory = get_optimizer_factory(value)
    elif callable(value):
        factory = cast(OptimizerFactory, value)
    else:
        raise ConfigurationError(
            f"optimizer is {value!r}; expected a name or an optimizer factory "
            "(alhpo.protocols.OptimizerFactory)"
        )
    if max_budget is None and says(factory, "requires_budget"):
        raise ConfigurationError(
            f"max_budget is None; optimizer {value!r} does not end by itself and needs a number "
            "of epochs"
        )
    return factory


def says(factory: Any, trait: str) -> bool:
    """Whether an optimizer factory, or what a ``functools.partial`` of it wraps, has a trait."""
    return bool(getattr(_innermost(factory), trait, False))


def packages(factory: Any) -> tuple[str, ...]:
    """The packages whose versions decide what an optimizer suggests."""
    return tuple(getattr(_innermost(factory), "packages", ()))


def _innermost(factory: Any) -> Any:
    while isinstance(factory, functools.partial):
        factory = factory.func
    return factory


def gain(value: Any) -> float | None:
    """``value`` as a number above zero, or None."""
    if value is None:
        return None
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not 0 < float(value) < math.inf:
        raise ConfigurationError(
            f"min_gain is {value!r}; expected None or a number above 0, in units of the metric"
        )
    return float(value)


def of_space(space: ConfigurationSpace, value: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Those of the configurations that are of the space."""
    known = SampledConfigurations(space, 0)
    for one in value:
        with contextlib.suppress(ConfigurationError):
            known.add(one)
    return [known.get_configuration(number) for number in range(len(known))]
