"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

from alhpo.protocols import OptimizerFactory
from alhpo.tuning import tpe, upstream
from alhpo.tuning.asha import asha
from alhpo.tuning.dyhpo import dyhpo
from alhpo.tuning.hyperband import hyperband
from alhpo.tuning.one_epoch import one_epoch
from alhpo.tuning.random_search import random_search
from alhpo.types import ConfigurationError

#: Entry points of this group offer optimizers of other packages.
ENTRY_POINT_GROUP = "alhpo.optimizers"

_FACTORIES: dict[str, OptimizerFactory] = {}
#: What to call with the optimizer's name to learn whether its factory's packages are installed.
_REQUIREMENTS: list[tuple[OptimizerFactory, Callable[[str], None]]] = [
    (upstream.dyhpo, upstream.require_hpo4dl),
    (upstream.hyperband, upstream.require_hpo4dl),
    (tpe.tpe, tpe.require_optuna),
]


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
        factory = _FACTORIES[name]
        for known, require in _REQUIREMENTS:
            if factory is known:
                require(name)
        return factory
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            return point.load()
    raise ConfigurationError(f"unknown optimizer {name!r}; expected one of {optimizer_names()}")


register_optimizer("dyhpo", dyhpo)
register_optimizer("hpo4dl-dyhpo", upstream.dyhpo)
register_optimizer("hpo4dl-hyperband", upstream.hyperband)
register_optimizer("hyperband", hyperband)
register_optimizer("asha", asha)
register_optimizer("one-epoch", one_epoch)
register_optimizer("random", random_search)
register_optimizer("tpe", tpe.tpe)
