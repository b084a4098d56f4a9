"""Deep active learning with hyperparameter optimisation in the loop.

The names at the door; each is imported from its module when it is first used, so that ``import
alhpo`` takes no torch. Everything else is imported from the module that is about it.
"""

from typing import TYPE_CHECKING

from alhpo.base.names import on_first_use

if TYPE_CHECKING:
    from alhpo.base.errors import AlhpoError as AlhpoError
    from alhpo.base.types import PoolOutputs as PoolOutputs
    from alhpo.base.types import Query as Query
    from alhpo.data.dataset import ImageDataset as ImageDataset
    from alhpo.data.loading import load_dataset as load_dataset
    from alhpo.hyperparameters import Hyperparameters as Hyperparameters
    from alhpo.learner import ActiveLearner as ActiveLearner
    from alhpo.runs.experiment import run_experiment as run_experiment
    from alhpo.runs.pool_tuning import tune_pool as tune_pool
    from alhpo.runs.settings import RunConfig as RunConfig
    from alhpo.runs.settings import TuneConfig as TuneConfig
    from alhpo.sessions.session import Session as Session
    from alhpo.strategies import register_strategy as register_strategy
    from alhpo.studies import load_study as load_study
    from alhpo.studies import run_study as run_study
    from alhpo.training.objective import Objective as Objective
    from alhpo.tuning import Tuner as Tuner
    from alhpo.tuning import register_optimizer as register_optimizer

__version__ = "0.2.0.dev0"

#: The names at the door, and the module of each.
_MODULES = {
    "ActiveLearner": "learner",
    "AlhpoError": "base.errors",
    "Hyperparameters": "hyperparameters",
    "ImageDataset": "data.dataset",
    "Objective": "training.objective",
    "PoolOutputs": "base.types",
    "Query": "base.types",
    "RunConfig": "runs.settings",
    "Session": "sessions.session",
    "TuneConfig": "runs.settings",
    "Tuner": "tuning",
    "load_dataset": "data.loading",
    "load_study": "studies",
    "register_optimizer": "tuning",
    "register_strategy": "strategies",
    "run_experiment": "runs.experiment",
    "run_study": "studies",
    "tune_pool": "runs.pool_tuning",
}

__all__ = [*_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__, __dir__ = on_first_use(__name__, _MODULES)
