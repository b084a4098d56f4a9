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
from alhpo.tuning.processes import TrialProcesses

#: The keywords that every optimizer factory is called with.
_FACTORY_ARGUMENTS = ("max_epochs", "max_budget", "num_configurations", "seed", "device")


def whole_number(name: str, value: Any, least: int) -> int:
    """Return ``value`` as an int of at least ``least``."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        raise ConfigurationError(
            f"Argument {name} is {value!r}; expected an integer of at least {least}."
        )
    return number


def flag(name: str, value: Any) -> bool:
    """Return ``value``, which must be True or False."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"Argument {name} is {value!r}; expected True or False.")
    return value


def progress(value: Any) -> Any:
    """Return ``value``, which must be True, False or a function."""
    if isinstance(value, bool) or callable(value):
        return value
    raise ConfigurationError(
        f"Argument progress is {value!r}; expected True, False or a function that takes a "
        "SearchStatus."
    )


def resume(value: Any) -> Any:
    """Return ``value``, which must be True, False or "quiet"."""
    if isinstance(value, bool) or (isinstance(value, str) and value == "quiet"):
        return value
    raise ConfigurationError(f"Argument resume is {value!r}. Legal: True, False, 'quiet'.")


def identity(value: Any, objective: Any) -> Any:
    """Return the identity of the objective: ``value``, or by default ``identity_of(objective)``."""
    name = "The objective's identity" if value is None else "Argument identity"
    value = identity_of(objective) if value is None else value
    try:
        canonical_json(value)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{name} is {value!r}; expected a value that JSON can hold ({error})."
        ) from error
    return value


def objective(value: Any) -> Any:
    """Return ``value``, which must be callable; so must its ``train_together``, if it has one."""
    function("objective_function", value)
    together = getattr(value, "train_together", None)
    if together is not None and not callable(together):
        raise ConfigurationError(
            f"The objective's train_together is {together!r}; expected a method that takes a list "
            "of requests. Without such a method, trials are trained one by one."
        )
    return value


def function(name: str, value: Any) -> Any:
    """Return ``value``, which must be callable."""
    if not callable(value):
        raise ConfigurationError(f"Argument {name} is {value!r}; expected a function.")
    return value


def folder(name: str, value: Any) -> Path:
    """Return ``value`` as the absolute path of a folder that exists or can be made."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ConfigurationError(f"Argument {name} is {value!r}; expected the path of a folder.")
    path = Path(value).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise ConfigurationError(f"Argument {name} is {str(path)!r}, a file; expected a folder.")
    there = next(one for one in (path, *path.parents) if one.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise ConfigurationError(
            f"Argument {name} is {str(path)!r}, but {str(there)!r} cannot be written. Choose a "
            "folder that can be written, or that can be made."
        )
    return path


def file(name: str, value: Any) -> Path:
    """Return ``value`` as the absolute path of a file that exists or can be made."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ConfigurationError(f"Argument {name} is {value!r}; expected the path of a file.")
    path = Path(value).expanduser().absolute()
    if path.is_dir():
        raise ConfigurationError(f"Argument {name} is {str(path)!r}, a folder; expected a file.")
    folder(name, path.parent)
    return path


def space(value: Any) -> ConfigurationSpace:
    """Return ``value``, which must be a space with at least one hyperparameter."""
    if not isinstance(value, ConfigurationSpace):
        raise ConfigurationError(
            f"Argument configuration_space is {value!r}; expected a ConfigSpace.ConfigurationSpace."
        )
    if not len(value):
        raise ConfigurationError(
            "Argument configuration_space has no hyperparameter; expected at least one."
        )
    return value


def configurations(space: ConfigurationSpace, value: Any) -> list[dict[str, Any]]:
    """Return the configurations in ``value``, which must all be in the space."""
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        raise ConfigurationError(
            f"Argument initial_configurations is {value!r}; expected a list of configurations."
        )
    checked = SampledConfigurations(space, 0, value)
    return [checked.get_configuration(number) for number in range(len(checked))]


def torch_device(value: Any) -> str | None:
    """Return the name of a torch device, or None."""
    try:
        return None if value is None else str(torch.device(value))
    except (RuntimeError, TypeError) as error:
        raise ConfigurationError(
            f"Argument device is {value!r}; expected None, or a torch device such as 'cpu' or "
            "'cuda:0'."
        ) from error


def optimizer_factory(
    value: Any, max_budget: int | None, space: ConfigurationSpace
) -> OptimizerFactory:
    """Return the factory that ``value`` names or is; it must be able to search the space."""
    if isinstance(value, str):
        factory = get_optimizer_factory(value)
    elif callable(value):
        factory = cast(OptimizerFactory, value)
    else:
        raise ConfigurationError(
            f"Argument optimizer is {value!r}; expected a name or an optimizer factory "
            "(alhpo.base.protocols.OptimizerFactory)."
        )
    if max_budget is None and has_trait(factory, "requires_budget"):
        raise ConfigurationError(
            f"Argument max_budget is None, but optimizer {value!r} does not end by itself. Give a "
            "number of epochs."
        )
    _check_signature(factory, ("parallel",) if has_trait(factory, "takes_parallel") else ())
    check_space = trait(factory, "check_space")
    if check_space is not None:
        check_space(space)
    return factory


def parallel(value: Any, factory: Any, optimizer: Any) -> int:
    """Return ``value`` as an int; it may exceed 1 only if the optimizer takes ``parallel``."""
    number = whole_number("parallel", value, 1)
    if number > 1 and not has_trait(factory, "takes_parallel"):
        raise ConfigurationError(
            f"Argument parallel is {number}, but optimizer {optimizer!r} suggests one trial at a "
            "time. Give parallel=1, or another optimizer, such as 'dyhpo', 'asha' or 'hyperband'."
        )
    return number


def processes(value: Any, parallel: int) -> bool | TrialProcesses | None:
    """Return ``value``, which must be None, False, processes that are kept, or with several trials
    at a time True."""
    if value is None or isinstance(value, TrialProcesses):
        return value
    if flag("processes", value) is False or parallel > 1:
        return value
    raise ConfigurationError(
        "Argument processes is True, but parallel is 1, so that there is nothing to share out. "
        "Give parallel=2 or more, or leave out processes."
    )


def _check_signature(factory: Any, further: tuple[str, ...]) -> None:
    try:
        signature = inspect.signature(factory)
    except ValueError:  # a built-in without a signature
        return
    keywords = (*_FACTORY_ARGUMENTS, *further)
    try:
        signature.bind(None, **dict.fromkeys(keywords))
    except TypeError as error:
        raise ConfigurationError(
            f"Argument optimizer is {factory!r}, which cannot be called as an optimizer factory: "
            f"{error}. Expected: factory(configurations, {'=, '.join(keywords)}=)."
        ) from error


def has_trait(factory: Any, name: str) -> bool:
    """Whether a factory, or the function in its ``functools.partial``, has a trait set to true."""
    return bool(trait(factory, name))


def least_budget(factory: Any, max_epochs: int) -> int:
    """Epochs without which a search of the optimizer means nothing; 1 for most."""
    least = trait(factory, "least_budget")
    return 1 if least is None else least(max_epochs)


def packages(factory: Any) -> tuple[str, ...]:
    """The packages whose versions decide what the optimizer suggests."""
    return tuple(trait(factory, "packages") or ())


def trait(factory: Any, name: str) -> Any:
    """An attribute of a factory, or of the function in its ``functools.partial``; or None."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    return getattr(factory, name, None)


def min_gain(value: Any) -> float | None:
    """Return ``value`` as a finite number above 0, or None."""
    if value is None:
        return None
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not 0 < float(value) < math.inf:
        raise ConfigurationError(
            f"Argument min_gain is {value!r}; expected None, or a number above 0 in units of the "
            "metric."
        )
    return float(value)


def in_space(space: ConfigurationSpace, value: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the configurations that are in the space; leave out the others."""
    known = SampledConfigurations(space, 0)
    for one in value:
        with contextlib.suppress(ConfigurationError):
            known.add(one)
    return [known.get_configuration(number) for number in range(len(known))]
