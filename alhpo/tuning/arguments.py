"""Checking the Tuner's arguments before anything happens."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import numbers
import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from ConfigSpace import ConfigurationSpace

from alhpo.base.errors import ConfigurationError
from alhpo.base.files import canonical_json
from alhpo.base.protocols import OptimizerFactory
from alhpo.tuning.configurations import SampledConfigurations
from alhpo.tuning.identity import identity_of
from alhpo.tuning.optimizers.registry import get_optimizer_factory

#: The keywords that every optimizer factory is called with.
_FACTORY_ARGUMENTS = ("max_epochs", "max_budget", "num_configurations", "seed", "device")


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


def resume(value: Any) -> Any:
    """``value``, which is True, False or "quiet"."""
    if isinstance(value, bool) or (isinstance(value, str) and value == "quiet"):
        return value
    raise ConfigurationError(f"resume is {value!r}; expected True, False or 'quiet'")


def identity(value: Any, objective: Any) -> Any:
    """``value``, or where it is None what tells the objective from others, as JSON holds it."""
    name = "the objective's identity" if value is None else "identity"
    value = identity_of(objective) if value is None else value
    try:
        canonical_json(value)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{name} is {value!r}; expected a value that JSON can hold ({error})"
        ) from error
    return value


def objective(value: Any) -> Any:
    """``value``, which can be called, as its ``train_together`` can where it has one."""
    function("objective_function", value)
    together = getattr(value, "train_together", None)
    if together is not None and not callable(together):
        raise ConfigurationError(
            f"the objective's train_together is {together!r}; expected a method that takes a list "
            "of requests, or none"
        )
    return value


def function(name: str, value: Any) -> Any:
    """``value``, which can be called."""
    if not callable(value):
        raise ConfigurationError(f"{name} is {value!r}; expected a function")
    return value


def folder(name: str, value: Any) -> Path:
    """``value`` as an absolute path of a folder that is there or can be made."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ConfigurationError(f"{name} is {value!r}; expected the path of a folder")
    path = Path(value).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise ConfigurationError(f"{name} is {str(path)!r}, a file; expected a folder")
    there = next(one for one in (path, *path.parents) if one.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise ConfigurationError(
            f"{name} is {str(path)!r}, but {str(there)!r} cannot be written; expected a folder "
            "that can, or that can be made"
        )
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


def optimizer_factory(
    value: Any, max_budget: int | None, space: ConfigurationSpace
) -> OptimizerFactory:
    """The factory that ``value`` names or is, which can search the space."""
    if isinstance(value, str):
        factory = get_optimizer_factory(value)
    elif callable(value):
        factory = cast(OptimizerFactory, value)
    else:
        raise ConfigurationError(
            f"optimizer is {value!r}; expected a name or an optimizer factory "
            "(alhpo.base.protocols.OptimizerFactory)"
        )
    if max_budget is None and says(factory, "requires_budget"):
        raise ConfigurationError(
            f"max_budget is None; optimizer {value!r} does not end by itself and needs a number "
            "of epochs"
        )
    _check_signature(factory, ("parallel",) if says(factory, "takes_parallel") else ())
    check_space = _trait(factory, "check_space")
    if check_space is not None:
        check_space(space)
    return factory


def parallel(value: Any, factory: Any, optimizer: Any) -> int:
    """``value`` as an int; above 1 only where the optimizer can suggest several trials at once."""
    number = whole_number("parallel", value, 1)
    if number > 1 and not says(factory, "takes_parallel"):
        raise ConfigurationError(
            f"parallel is {number}, but optimizer {optimizer!r} suggests one trial at a time. Give "
            "parallel=1, or another optimizer, such as 'dyhpo', 'asha' or 'hyperband'."
        )
    return number


def _check_signature(factory: Any, further: tuple[str, ...]) -> None:
    try:
        signature = inspect.signature(factory)
    except ValueError:  # one of C, that does not tell its arguments
        return
    keywords = (*_FACTORY_ARGUMENTS, *further)
    try:
        signature.bind(None, **dict.fromkeys(keywords))
    except TypeError as error:
        raise ConfigurationError(
            f"optimizer is {factory!r}, which cannot be called as an optimizer factory, with the "
            f"configurations and the keywords {', '.join(keywords)}: {error}"
        ) from error


def says(factory: Any, trait: str) -> bool:
    """Whether an optimizer factory, or what a ``functools.partial`` of it wraps, has a trait."""
    return bool(_trait(factory, trait))


def packages(factory: Any) -> tuple[str, ...]:
    """The packages whose versions decide what an optimizer suggests."""
    return tuple(_trait(factory, "packages") or ())


def _trait(factory: Any, name: str) -> Any:
    while isinstance(factory, functools.partial):
        factory = factory.func
    return getattr(factory, name, None)


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
