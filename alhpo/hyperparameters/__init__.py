"""The hyperparameters of training and the configuration spaces that are searched."""

from alhpo.hyperparameters.fields import (
    ArchitectureHyperparameters,
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
    architecture_space,
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
    "ArchitectureHyperparameters",
    "Augmentation",
    "FinetuneHyperparameters",
    "HeadHyperparameters",
    "Hyperparameters",
    "OptimizerHyperparameters",
    "TrainingHyperparameters",
    "active_configuration",
    "architecture_space",
    "check_space",
    "check_warmup",
    "finetune_space",
    "head_space",
    "hpo4dl_space",
    "load_space",
    "paper_space",
]
