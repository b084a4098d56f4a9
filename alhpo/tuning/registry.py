"""Optimizers by name."""

from __future__ import annotations

from importlib.metadata import entry_points

from alhpo.protocols import OptimizerFactory
from alhpo.tuning import upstream
from alhpo.tuning.random_search import random_search
from alhpo.types import ConfigurationError

#: Entry points of this group offer optimizers of other packages.
ENTRY_POINT_GROUP = "alhpo.optimizers"

_FACTORIES: dict[str, OptimizerFactory] = {}
_NEEDS_HPO4DL = frozenset({"dyhpo", "hyperband"})


def register_optimizer(name: str, factory: OptimizerFactory) -> None:
    """Make an optimizer available as ``Tuner(optimizer=name)``.

    Args:
        name: how users call it; a name that exists is replaced.
        factory: see ``alhpo.protocols.OptimizerFactory``. An attribute ``requires_budget = True``
            makes the Tuner refuse ``max_budget=None``.

    Raises:
        ConfigurationError: the name is empty or no string, or the factory is not callable.
    """
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"the name of an optimizer is a non-empty string, not {name!r}")
    if not callable(factory):
        raise ConfigurationError(f"the factory of optimizer {name!r} is not callable: {factory!r}")
    _FACTORIES[name] = factory


def optimizer_names() -> list[str]:
    """All names that ``Tuner(optimizer=...)`` knows, sorted."""
    return sorted({*_FACTORIES, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))})


def get_optimizer_factory(name: str) -> OptimizerFactory:
    """The factory registered under a name, or offered as an entry point.

    Raises:
        ConfigurationError: there is none of this name, or what it needs is not installed.
    """
    if name in _FACTORIES:
        if name in _NEEDS_HPO4DL and _FACTORIES[name] is getattr(upstream, name):
            upstream.require_hpo4dl(name)
        return _FACTORIES[name]
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            return point.load()
    raise ConfigurationError(f"unknown optimizer {name!r}; expected one of {optimizer_names()}")


register_optimizer("dyhpo", upstream.dyhpo)
register_optimizer("hyperband", upstream.hyperband)
register_optimizer("random", random_search)
