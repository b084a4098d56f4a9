"""The hyperparameters of training and the configuration spaces that are searched."""

from alhpo.hyperparameters.fields import (
    Augmentation,
    FinetuneHyperparameters,
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
    finetune_space,
    head_space,
    hpo4dl_space,
    load_space,
    paper_space,
)

__all__ = [
    "SPACES",
    "Augmentation",
    "FinetuneHyperparameters",
    "HeadHyperparameters",
    "Hyperparameters",
    "OptimizerHyperparameters",
    "TrainingHyperparameters",
    "active_configuration",
    "check_space",
    "check_warmup",
    "finetune_space",
    "head_space",
    "hpo4dl_space",
    "load_space",
    "paper_space",
]
