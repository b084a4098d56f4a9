"""k-fold cross-validation, stratified by class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alhpo.base.errors import ConfigurationError
from alhpo.base.protocols import Splits
from alhpo.validation.labels import class_blocks, need_labels
from alhpo.validation.registry import register_validation_scheme_family


@dataclass(frozen=True)
class KFold:
    """k-fold cross-validation; each class is spread over the folds as evenly as possible.

    Args:
        k: number of folds, at least 2 and at most the number of labels.

    Raises:
        ConfigurationError: fewer than 2 folds.
    """

    k: int = 5

    def __post_init__(self) -> None:
        if self.k < 2:
            raise ConfigurationError(
                f"Validation scheme 'kfold:{self.k}' has too few folds; expected at least 2 folds."
            )

    @property
    def name(self) -> str:
        return f"kfold:{self.k}"

    def splits(self, labels: np.ndarray, generator: np.random.Generator) -> Splits:
        need_labels(self.k, labels, self.name)
        fold = np.empty(len(labels), dtype=int)
        fold[class_blocks(labels, generator)] = np.arange(len(labels)) % self.k
        return [(np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in range(self.k)]


def _kfold(text: str) -> KFold:
    if not text.isdecimal():
        raise ConfigurationError(
            f"Validation scheme 'kfold:{text}' has no number of folds; expected at least 2 folds, "
            "as in 'kfold:5'."
        )
    return KFold(int(text))


register_validation_scheme_family("kfold", _kfold, "K")
