"""Deep active learning with hyperparameter optimisation in the loop.

The names at the door; each is imported from its module when it is first used, so that ``import
alhpo`` takes no torch. Everything else is imported from the module that is about it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alhpo.config import RunConfig as RunConfig
    from alhpo.config import TuneConfig as TuneConfig
    from alhpo.datasets import ImageDataset as ImageDataset
    from alhpo.experiment import run_experiment as run_experiment
    from alhpo.hyperparameters import Hyperparameters as Hyperparameters
    from alhpo.learner import ActiveLearner as ActiveLearner
    from alhpo.loading import load_dataset as load_dataset
    from alhpo.objective import Objective as Objective
    from alhpo.pool_tuning import tune_pool as tune_pool
    from alhpo.strategies import register_strategy as register_strategy
    from alhpo.studies import load_study as load_study
    from alhpo.studies import run_study as run_study
    from alhpo.tuning import Tuner as Tuner
    from alhpo.tuning import register_optimizer as register_optimizer
    from alhpo.types import AlhpoError as AlhpoError
    from alhpo.types import PoolOutputs as PoolOutputs
    from alhpo.types import Query as Query

__version__ = "0.2.0.dev0"

#: The names at the door, and the module of each.
_MODULES = {
    "ActiveLearner": "learner",
    "AlhpoError": "types",
    "Hyperparameters": "hyperparameters",
    "ImageDataset": "datasets",
    "Objective": "objective",
    "PoolOutputs": "types",
    "Query": "types",
    "RunConfig": "config",
    "TuneConfig": "config",
    "Tuner": "tuning",
    "load_dataset": "loading",
    "load_study": "studies",
    "register_optimizer": "tuning",
    "register_strategy": "strategies",
    "run_experiment": "experiment",
    "run_study": "studies",
    "tune_pool": "pool_tuning",
}

__all__ = [*_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'alhpo' has no attribute {name!r}")
    value = getattr(import_module(f"alhpo.{_MODULES[name]}"), name)
    globals()[name] = value  # asked for once
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
