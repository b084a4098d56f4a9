"""Hyperparameter search: HPO4DL's interface, resumable, with any optimizer."""

from alhpo.tuning.configurations import SampledConfigurations
from alhpo.tuning.history import recorded_results
from alhpo.tuning.optimizers.dyhpo import DyHPO, dyhpo
from alhpo.tuning.optimizers.registry import (
    get_optimizer_factory,
    optimizer_names,
    register_optimizer,
)
from alhpo.tuning.processes import TrialProcesses
from alhpo.tuning.tuner import Tuner

__all__ = [
    "DyHPO",
    "SampledConfigurations",
    "TrialProcesses",
    "Tuner",
    "dyhpo",
    "get_optimizer_factory",
    "optimizer_names",
    "recorded_results",
    "register_optimizer",
]
