"""The hyperparameters of training and the configuration spaces that are searched."""

from alhpo.hyperparameters.fields import (
    Augmentation,
    HeadHyperparameters,
    Hyperparameters,
    OptimizerHyperparameters,
    TrainingHyperparameters,
)
from alhpo.hyperparameters.spaces import (
    SPACES,
    active_configuration,
    check_space,
    check_warmup,
    head_space,
    hpo4dl_space,
    load_space,
    paper_space,
)

__all__ = [
    "SPACES",
    "Augmentation",
    "HeadHyperparameters",
    "Hyperparameters",
    "OptimizerHyperparameters",
    "TrainingHyperparameters",
    "active_configuration",
    "check_space",
    "check_warmup",
    "head_space",
    "hpo4dl_space",
    "load_space",
    "paper_space",
]
