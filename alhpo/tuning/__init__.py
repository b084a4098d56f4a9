"""Hyperparameter search: HPO4DL's interface, resumable, with any optimizer.

Each name is imported from its module when it is first used. A process that trains trials needs none
of them, and starts sooner.
"""

from typing import TYPE_CHECKING

from alhpo.base.names import on_first_use

if TYPE_CHECKING:
    from alhpo.tuning.configurations import SampledConfigurations as SampledConfigurations
    from alhpo.tuning.history import recorded_results as recorded_results
    from alhpo.tuning.optimizers.dyhpo import DyHPO as DyHPO
    from alhpo.tuning.optimizers.dyhpo import dyhpo as dyhpo
    from alhpo.tuning.optimizers.registry import get_optimizer_factory as get_optimizer_factory
    from alhpo.tuning.optimizers.registry import optimizer_names as optimizer_names
    from alhpo.tuning.optimizers.registry import register_optimizer as register_optimizer
    from alhpo.tuning.processes import TrialProcesses as TrialProcesses
    from alhpo.tuning.tuner import Tuner as Tuner

_MODULES = {
    "DyHPO": "optimizers.dyhpo",
    "SampledConfigurations": "configurations",
    "TrialProcesses": "processes",
    "Tuner": "tuner",
    "dyhpo": "optimizers.dyhpo",
    "get_optimizer_factory": "optimizers.registry",
    "optimizer_names": "optimizers.registry",
    "recorded_results": "history",
    "register_optimizer": "optimizers.registry",
}

__all__ = [*_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__, __dir__ = on_first_use(__name__, _MODULES)
