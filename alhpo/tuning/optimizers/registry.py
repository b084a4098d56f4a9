"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from alhpo.base.errors import ConfigurationError
from alhpo.base.protocols import OptimizerFactory
from alhpo.base.registry import Registry
from alhpo.tuning.optimizers import hpo4dl, tpe
from alhpo.tuning.optimizers.asha import asha
from alhpo.tuning.optimizers.dyhpo import dyhpo
from alhpo.tuning.optimizers.hyperband import hyperband
from alhpo.tuning.optimizers.inas import INasFactory
from alhpo.tuning.optimizers.one_epoch import one_epoch
from alhpo.tuning.optimizers.random_search import random_search

#: Functions that take the name of an optimizer and raise ConfigurationError if its packages are
#: not installed.
_REQUIREMENTS: list[tuple[OptimizerFactory, Callable[[str], None]]] = [
    (hpo4dl.dyhpo, hpo4dl.require_hpo4dl),
    (hpo4dl.hyperband, hpo4dl.require_hpo4dl),
    (tpe.tpe, tpe.require_optuna),
]


def _check(name: str, factory: Any) -> OptimizerFactory:
    if not callable(factory):
        raise ConfigurationError(
            f"The factory of optimizer {name!r} is {factory!r}; expected a function. Give an "
            "alhpo.base.protocols.OptimizerFactory."
        )
    return cast(OptimizerFactory, factory)


OPTIMIZERS: Registry[OptimizerFactory] = Registry("optimizer", "alhpo.optimizers", check=_check)


def register_optimizer(name: str, factory: OptimizerFactory) -> None:
    """Make an optimizer available as ``Tuner(optimizer=name)``.

    Args:
        name: the name that users write.
        factory: see ``alhpo.base.protocols.OptimizerFactory``. An attribute
            ``requires_budget = True`` makes the Tuner refuse ``max_budget=None``.

    Raises:
        ConfigurationError: the name is empty or not a string, another optimizer has it, or the
            factory is not callable. A factory of the same module and name replaces the earlier
            one, as when a notebook cell is run again.
    """
    OPTIMIZERS.register(name, factory)


def optimizer_names() -> list[str]:
    """All names that ``Tuner(optimizer=...)`` knows, sorted."""
    return list(OPTIMIZERS.names())


def get_optimizer_factory(name: str) -> OptimizerFactory:
    """The factory of this name: registered, or offered by a plug-in as an entry point.

    Raises:
        ConfigurationError: no factory has this name, a package it needs is not installed, or the
            plug-in cannot be imported or is not a factory.
    """
    factory = OPTIMIZERS.get(name)
    for known, require in _REQUIREMENTS:
        if factory is known:
            require(name)
    return factory


register_optimizer("dyhpo", dyhpo)
register_optimizer("hpo4dl-dyhpo", hpo4dl.dyhpo)
register_optimizer("hpo4dl-hyperband", hpo4dl.hyperband)
register_optimizer("hyperband", hyperband)
register_optimizer("asha", asha)
register_optimizer("inas", INasFactory())
OPTIMIZERS.register_family("inas", INasFactory.parse, "EPOCHS")
register_optimizer("one-epoch", one_epoch)
register_optimizer("random", random_search)
register_optimizer("tpe", tpe.tpe)
