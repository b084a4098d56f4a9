"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from alhpo.base.errors import ConfigurationError
from alhpo.base.protocols import OptimizerFactory
from alhpo.base.registry import refuse_taken
from alhpo.tuning.optimizers import hpo4dl, tpe
from alhpo.tuning.optimizers.asha import asha
from alhpo.tuning.optimizers.dyhpo import dyhpo
from alhpo.tuning.optimizers.hyperband import hyperband
from alhpo.tuning.optimizers.one_epoch import one_epoch
from alhpo.tuning.optimizers.random_search import random_search

#: Entry points of this group offer optimizers of other packages.
ENTRY_POINT_GROUP = "alhpo.optimizers"

_FACTORIES: dict[str, OptimizerFactory] = {}
#: What to call with the optimizer's name to learn whether its factory's packages are installed.
_REQUIREMENTS: list[tuple[OptimizerFactory, Callable[[str], None]]] = [
    (hpo4dl.dyhpo, hpo4dl.require_hpo4dl),
    (hpo4dl.hyperband, hpo4dl.require_hpo4dl),
    (tpe.tpe, tpe.require_optuna),
]


def register_optimizer(name: str, factory: OptimizerFactory) -> None:
    """Make an optimizer available as ``Tuner(optimizer=name)``.

    Args:
        name: how users call it.
        factory: see ``alhpo.base.protocols.OptimizerFactory``. An attribute
            ``requires_budget = True`` makes the Tuner refuse ``max_budget=None``.

    Raises:
        ConfigurationError: the name is empty or no string, or another optimizer has it, or the
            factory is not callable. A named factory of the same module replaces its former self,
            as when a notebook cell is run again.
    """
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"the name of an optimizer is a non-empty string, not {name!r}")
    if not callable(factory):
        raise ConfigurationError(f"the factory of optimizer {name!r} is not callable: {factory!r}")
    refuse_taken("optimizer", name, _FACTORIES.get(name), factory)
    _FACTORIES[name] = factory


def optimizer_names() -> list[str]:
    """All names that ``Tuner(optimizer=...)`` knows, sorted."""
    return sorted({*_FACTORIES, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))})


def get_optimizer_factory(name: str) -> OptimizerFactory:
    """The factory registered under a name, or offered as an entry point.

    Raises:
        ConfigurationError: there is none of this name, what it needs is not installed, or an
            installed plug-in cannot be imported or is no factory.
    """
    if name in _FACTORIES:
        factory = _FACTORIES[name]
        for known, require in _REQUIREMENTS:
            if factory is known:
                require(name)
        return factory
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            return _load(point)
    raise ConfigurationError(f"unknown optimizer {name!r}; expected one of {optimizer_names()}")


def _load(plugin: EntryPoint) -> OptimizerFactory:
    try:
        factory = plugin.load()
    except Exception as error:  # whatever a foreign module raises while it is imported
        raise ConfigurationError(
            f"The plug-in optimizer {plugin.name!r} ({plugin.value}) cannot be imported: {error!r}"
        ) from error
    if not callable(factory):
        raise ConfigurationError(
            f"The plug-in optimizer {plugin.name!r} ({plugin.value}) is {factory!r}; expected a "
            "factory (alhpo.base.protocols.OptimizerFactory)"
        )
    return cast(OptimizerFactory, factory)


register_optimizer("dyhpo", dyhpo)
register_optimizer("hpo4dl-dyhpo", hpo4dl.dyhpo)
register_optimizer("hpo4dl-hyperband", hpo4dl.hyperband)
register_optimizer("hyperband", hyperband)
register_optimizer("asha", asha)
register_optimizer("one-epoch", one_epoch)
register_optimizer("random", random_search)
register_optimizer("tpe", tpe.tpe)
