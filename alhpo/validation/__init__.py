"""Validation schemes: how the labelled images are split to judge a configuration.

One file per kind. A new scheme is a name or a family, registered in a module imported here, or in
another package under the entry point group ``alhpo.validation_schemes``.
"""

from alhpo.validation.holdout import Holdout, RandomHoldout
from alhpo.validation.kfold import KFold
from alhpo.validation.registry import (
    get_validation,
    register_validation_scheme,
    register_validation_scheme_family,
    validation_scheme_names,
)
from alhpo.validation.weighted import AcquisitionWeighted, Weighted, unweighted

__all__ = [
    "AcquisitionWeighted",
    "Holdout",
    "KFold",
    "RandomHoldout",
    "Weighted",
    "get_validation",
    "register_validation_scheme",
    "register_validation_scheme_family",
    "unweighted",
    "validation_scheme_names",
]
