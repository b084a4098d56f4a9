"""Configuration spaces and their values in plain Python and JSON, on ConfigSpace 0.7 and 1.x."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ConfigSpace import (
    CategoricalHyperparameter,
    ConfigurationSpace,
    Constant,
    OrdinalHyperparameter,
)
from ConfigSpace.hyperparameters import FloatHyperparameter, IntegerHyperparameter

from alhpo.base.plain import to_plain

#: All attributes in which two hyperparameters of the same name and type may differ.
_ATTRIBUTES = (
    *("lower", "upper", "log", "q", "mu", "sigma", "alpha", "beta"),
    *("choices", "sequence", "value", "weights", "probabilities"),
)


def plain_value(hyperparameter: Any, value: Any) -> Any:
    """A sampled value in plain Python: a choice as it was declared, a number as float or int."""
    if isinstance(hyperparameter, CategoricalHyperparameter):
        return _as_declared(hyperparameter.choices, value)
    if isinstance(hyperparameter, OrdinalHyperparameter):
        return _as_declared(hyperparameter.sequence, value)
    if isinstance(hyperparameter, FloatHyperparameter):
        return float(value)
    if isinstance(hyperparameter, IntegerHyperparameter):
        return int(value)
    return _scalar(value)


def _as_declared(declared: Any, value: Any) -> Any:
    return _scalar(declared[rank(declared, value)])


def _scalar(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def rank(declared: Any, value: Any) -> int:
    """Position of a value among the declared ones; ``1``, ``1.0`` and ``True`` differ."""
    value = _scalar(value)
    plain = [_scalar(item) for item in declared]
    for position, item in enumerate(plain):
        if type(item) is type(value) and item == value:
            return position
    return plain.index(value)


def space_to_json(space: ConfigurationSpace) -> list[dict[str, Any]]:
    """HPO4DL's ``configuration_space.json``: name, type, default, values, bounds and log."""
    described = []
    for hyperparameter in space.values():
        choices = getattr(hyperparameter, "choices", None)
        bounded = hasattr(hyperparameter, "lower")
        described.append(
            {
                "name": hyperparameter.name,
                "type": type(hyperparameter).__name__,
                "default": _json_safe(hyperparameter.default_value),
                "values": None if choices is None else _json_safe(list(choices)),
                "bounds": _json_safe([hyperparameter.lower, hyperparameter.upper])  # pyright: ignore[reportAttributeAccessIssue]
                if bounded
                else None,
                "log": getattr(hyperparameter, "log", None),
            }
        )
    return described


def space_identity(space: ConfigurationSpace) -> dict[str, Any]:
    """The identity of a space: a JSON-able value, equal for equal spaces."""
    hyperparameters = [
        {"name": hyperparameter.name, "type": type(hyperparameter).__name__}
        | {
            name: _json_safe(getattr(hyperparameter, name))
            for name in _ATTRIBUTES
            if getattr(hyperparameter, name, None) is not None
        }
        for hyperparameter in space.values()
    ]
    conditions = space.conditions if hasattr(space, "conditions") else space.get_conditions()  # pyright: ignore[reportAttributeAccessIssue]
    return {
        "hyperparameters": sorted(hyperparameters, key=lambda described: described["name"]),
        "conditions": sorted(map(str, conditions)),
        "forbidden": sorted(map(str, space.forbidden_clauses)),
    }


def space_size(space: ConfigurationSpace) -> float:
    """An upper bound of the number of configurations, without conditions and forbidden clauses.

    ``estimate_size`` of ConfigSpace 0.7 fails on some spaces with normal integers.
    """
    return math.prod(map(_number_of_values, space.values()))


def _number_of_values(hyperparameter: Any) -> float:
    if isinstance(hyperparameter, CategoricalHyperparameter):
        return len(hyperparameter.choices)
    if isinstance(hyperparameter, OrdinalHyperparameter):
        return len(hyperparameter.sequence)
    if is_constant(hyperparameter):
        return 1
    lower, upper = getattr(hyperparameter, "lower", None), getattr(hyperparameter, "upper", None)
    step = getattr(hyperparameter, "q", None)
    if isinstance(hyperparameter, IntegerHyperparameter):
        step = step or 1
    if lower is None or upper is None or step is None:
        return math.inf
    return round((upper - lower) / step) + 1


def is_constant(hyperparameter: Any) -> bool:
    """Whether a hyperparameter is a constant."""
    return isinstance(hyperparameter, Constant)


def _json_safe(value: Any) -> Any:
    plain = to_plain(value)
    if isinstance(plain, list):
        return [_json_safe(item) for item in plain]
    if isinstance(plain, float) and not math.isfinite(plain):
        return str(plain)
    return plain
