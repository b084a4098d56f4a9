"""Which hyperparameters of a conditional space are active, on ConfigSpace 0.7 and 1.x."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ConfigSpace import AndConjunction, ConfigurationSpace, OrConjunction


def parents_first(space: ConfigurationSpace) -> list[str]:
    """The names of all hyperparameters, each after its parents (those it is conditional on)."""
    names: dict[str, None] = {}

    def add(name: str) -> None:
        if name not in names:
            for condition in _conditions(space, name):
                for literal in _literals(condition):
                    add(literal.parent.name)
            names[name] = None

    for name in space:
        add(name)
    return list(names)


def is_conditional(space: ConfigurationSpace, name: str) -> bool:
    """Whether a hyperparameter may be inactive."""
    return bool(_conditions(space, name))


def is_active(space: ConfigurationSpace, name: str, values: Mapping[str, Any]) -> bool:
    """Whether a hyperparameter is active, given the values of its parents.

    Args:
        space: the space.
        name: the hyperparameter.
        values: the values of its active parents, by name.
    """
    return all(_holds(condition, values) for condition in _conditions(space, name))


def _holds(condition: Any, values: Mapping[str, Any]) -> bool:
    if isinstance(condition, AndConjunction):
        return all(_holds(one, values) for one in condition.components)
    if isinstance(condition, OrConjunction):
        return any(_holds(one, values) for one in condition.components)
    if condition.parent.name not in values:
        return False  # an inactive parent fulfils no condition
    known = {condition.parent.name: values[condition.parent.name]}
    check = getattr(condition, "satisfied_by_value", None) or condition.evaluate
    return bool(check(known))


def _literals(condition: Any) -> list[Any]:
    components = getattr(condition, "components", None)
    if components is None:
        return [condition]
    return [literal for component in components for literal in _literals(component)]


def _conditions(space: Any, name: str) -> list[Any]:
    if hasattr(space, "parent_conditions_of"):
        return list(space.parent_conditions_of[name])
    return list(space.get_parent_conditions_of(name))
