"""The hyperparameters of training and the configuration spaces that are searched."""

from alhpo.hyperparameters.fields import (
    Augmentation,
    Hyperparameters,
    TrainingHyperparameters,
)
from alhpo.hyperparameters.spaces import (
    SPACES,
    active_configuration,
    check_space,
    check_warmup,
    hpo4dl_space,
    load_space,
    paper_space,
)

__all__ = [
    "SPACES",
    "Augmentation",
    "Hyperparameters",
    "TrainingHyperparameters",
    "active_configuration",
    "check_space",
    "check_warmup",
    "hpo4dl_space",
    "load_space",
    "paper_space",
]
