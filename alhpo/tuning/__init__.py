"""Hyperparameter search: HPO4DL's interface, resumable, with any optimizer."""

from alhpo.tuning.configurations import SampledConfigurations
from alhpo.tuning.registry import get_optimizer_factory, optimizer_names, register_optimizer
from alhpo.tuning.tuner import Tuner

__all__ = [
    "SampledConfigurations",
    "Tuner",
    "get_optimizer_factory",
    "optimizer_names",
    "register_optimizer",
]
