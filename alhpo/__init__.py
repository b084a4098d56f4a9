"""Deep active learning with hyperparameter optimisation in the loop."""

from alhpo.config import RunConfig, TuneConfig
from alhpo.datasets import ImageDataset
from alhpo.experiment import run_experiment
from alhpo.hyperparameters import Hyperparameters, hpo4dl_space, load_space, paper_space
from alhpo.learner import ActiveLearner
from alhpo.loading import load_dataset
from alhpo.objective import Objective
from alhpo.pool_tuning import TuneResult, tune_pool
from alhpo.protocols import Optimizer, Strategy, ValidationScheme, WeightingScheme
from alhpo.stochastic import DropoutPasses, TensorPasses
from alhpo.strategies import (
    Scores,
    register_score,
    register_strategy,
    register_strategy_family,
    run_strategy,
    strategy_names,
)
from alhpo.tuning import Tuner, optimizer_names, register_optimizer
from alhpo.types import (
    AlhpoError,
    CheckpointError,
    ConfigurationError,
    CycleRecord,
    DataError,
    DivergedError,
    Evaluation,
    LabelError,
    PoolOutputs,
    Query,
    RunLockedError,
    RunResult,
    Selection,
    TunerError,
)
from alhpo.validation import AcquisitionWeighted, Holdout, KFold, RandomHoldout, Weighted

__version__ = "0.1.0"

__all__ = [
    "AcquisitionWeighted",
    "ActiveLearner",
    "AlhpoError",
    "CheckpointError",
    "ConfigurationError",
    "CycleRecord",
    "DataError",
    "DivergedError",
    "DropoutPasses",
    "Evaluation",
    "Holdout",
    "Hyperparameters",
    "ImageDataset",
    "KFold",
    "LabelError",
    "Objective",
    "Optimizer",
    "PoolOutputs",
    "Query",
    "RandomHoldout",
    "RunConfig",
    "RunLockedError",
    "RunResult",
    "Scores",
    "Selection",
    "Strategy",
    "TensorPasses",
    "TuneConfig",
    "TuneResult",
    "Tuner",
    "TunerError",
    "ValidationScheme",
    "Weighted",
    "WeightingScheme",
    "hpo4dl_space",
    "load_dataset",
    "load_space",
    "optimizer_names",
    "paper_space",
    "register_optimizer",
    "register_score",
    "register_strategy",
    "register_strategy_family",
    "run_experiment",
    "run_strategy",
    "strategy_names",
    "tune_pool",
]
